"""A network bound to the caller's own memory on the GPU: it runs where its inputs and outputs lie, without a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Any

from .. import errors
from .session import new_event, own, release

if TYPE_CHECKING:
    from .cuda import CudaExecutor


Copy = tuple[int, int, int]
"""Address to, address from, bytes."""


class Binding:
    """A graph over given addresses. Its launches are in order with those of its executor: they share the arena.

    addresses: ``input:I`` and ``output:I`` → address. before, after: what is copied on the GPU for each run. images:
    how many to compute, where the batch is dynamic. The device is current. Raises `DeviceError`. Dropping it gives
    everything back, even while it runs: the driver keeps graphs and events that are in use until they are not
    (``cuGraphExecDestroy``, ``cuEventDestroy``).
    """

    def __init__(
        self,
        executor: CudaExecutor,
        addresses: Mapping[str, int],
        before: Sequence[Copy] = (),
        after: Sequence[Copy] = (),
        images: int = 0,
    ) -> None:
        self._copies = before, after
        self._executor = executor  # whose arena is in use
        self._device, self._driver = executor.device, executor.device.driver
        self._session, self._own = executor.session, executor.stream
        with ExitStack() as undo:
            self._events = [new_event(self._driver, undo, timed=False) for _ in range(2)]
            self._course = executor.bound_to(addresses, undo, images)
            self._owned = own(self, self._device, undo)

    def run(self, stream: Any = None) -> None:
        """Launch. On the caller's ``stream`` only steps of the host are waited for; without one, until the outputs are
        complete."""
        driver, own = self._driver, self._own
        with self._session:
            if stream is None:
                self._queue(own)
                driver.synchronize(own)
                return
            before, after = self._events
            self._order(before, own, stream)
            try:
                self._queue(stream)
            except BaseException:  # what has been queued uses the arena, even where the rest has not
                with suppress(errors.DeviceError):
                    self._order(after, stream, own)
                raise
            self._order(after, stream, own)

    def _order(self, event: Any, first: Any, then: Any) -> None:
        """What is queued on one stream from now on waits for what is queued on another."""
        self._driver.record(event, first)
        self._driver.wait(then, event)

    def _queue(self, stream: Any) -> None:
        before, after = self._copies
        for copy in before:
            self._driver.on_device(*copy, stream)
        self._course.queue(stream)
        for copy in after:
            self._driver.on_device(*copy, stream)

    def close(self) -> None:
        """Give everything back; closing twice is fine."""
        release(self._device, self._owned)


class BoundNetwork:
    """A network that reads and writes the caller's arrays. Made by `Engine.bind`; it ends with its engine, or
    when it is dropped.

    Attributes:
        outputs: name → the array that is written, in the order of the outputs.
    """

    def __init__(
        self,
        binding: Binding,
        in_use: AbstractContextManager[None],
        views: Sequence[Any],
        outputs: dict[str, Any],
    ) -> None:
        """views: what keeps the caller's memory alive."""
        self._binding, self._in_use, self._views = binding, in_use, views
        self.outputs = outputs

    def __call__(self, stream: Any = None) -> dict[str, Any]:
        """Run on what the inputs hold now; the outputs, by name.

        stream: a CUDA stream (a handle of cuda-bindings or an integer, such as ``torch.cuda.Stream.cuda_stream``): the
        network runs there, in order with what the caller queues, and the call returns at once; where the host has steps
        between launches, when the last of them is done. Without one the inputs must be complete, and the outputs are
        when the call returns.

        Raises `DeviceError`, and `UsageError` when the engine is closed or belongs to another process.
        """
        with self._in_use:
            self._binding.run(stream)
        return self.outputs
