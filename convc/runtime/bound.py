"""A network bound to the caller's own memory on the GPU: it runs where its inputs and outputs lie, without a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Any

from .. import errors
from .session import capture, quietly

if TYPE_CHECKING:
    from .cuda import CudaExecutor


class Binding:
    """A graph over given addresses. Its launches are in order with those of its executor: they share the arena.

    addresses: ``input:I`` and ``output:I`` → address. The device is current. Raises `DeviceError`.
    """

    def __init__(self, executor: CudaExecutor, addresses: Mapping[str, int]) -> None:
        self._device, self._driver = executor.device, executor.device.driver
        self._session, self._own = executor.session, executor.stream
        with ExitStack() as undo:
            self._events = [self._driver.create_event(timed=False) for _ in range(2)]
            for event in self._events:
                undo.callback(quietly, self._driver.destroy_event, event)
            self._graph = capture(self._device, executor.bound_to(addresses), self._own, undo)
            undo.callback(quietly, self._driver.synchronize, self._own)
            self._owned = undo.pop_all()

    def run(self, stream: Any = None) -> None:
        """Launch. On the caller's ``stream`` nothing is waited for; without one, until the outputs are complete."""
        driver, own = self._driver, self._own
        with self._session:
            if stream is None:
                driver.launch_graph(self._graph, own)
                driver.synchronize(own)
                return
            before, after = self._events
            driver.record(before, own)
            driver.wait(stream, before)
            driver.launch_graph(self._graph, stream)
            driver.record(after, stream)
            driver.wait(own, after)

    def close(self) -> None:
        """Let what is queued finish, and give everything back; closing twice is fine."""
        with suppress(errors.DeviceError), self._device.current():
            self._owned.close()


class BoundNetwork:
    """A network that reads and writes the caller's arrays. Made by `Engine.bind`; it is closed with its engine.

    Attributes:
        outputs: name → the array that is written, in the order of the outputs.
    """

    def __init__(
        self,
        binding: Binding,
        in_use: Callable[[], AbstractContextManager[None]],
        views: Sequence[Any],
        outputs: dict[str, Any],
    ) -> None:
        """views: what keeps the caller's memory alive."""
        self._binding, self._in_use, self._views = binding, in_use, views
        self.outputs = outputs

    def __call__(self, stream: Any = None) -> dict[str, Any]:
        """Run on what the inputs hold now; the outputs, by name.

        stream: a CUDA stream (a handle of cuda-bindings or an integer, such as ``torch.cuda.Stream.cuda_stream``): the
        network runs there, in order with what the caller queues, and the call returns at once. Without one the inputs
        must be complete, and the outputs are when the call returns.

        Raises `DeviceError`, and `UsageError` when the engine is closed or belongs to another process.
        """
        with self._in_use():
            self._binding.run(stream)
        return self.outputs
