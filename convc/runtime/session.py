"""Using a GPU from call to call: the device made current, failures settled, everything given back."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from .. import errors
from .driver import Device, Driver, Launch


class Session:
    """Makes the device current for a run; after a failure that outlasts the run, refuses every later one."""

    def __init__(self, device: Device, stream: Any) -> None:
        self._device, self._stream = device, stream
        self._dead = ""

    def __enter__(self) -> None:
        if self._dead:
            raise errors.engine_dead(self._dead)
        self._device.driver.push(self._device.context)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        try:
            if error is not None:
                self._settle(error)
        finally:
            self._device.driver.pop()

    def _settle(self, error: BaseException) -> None:
        """Let queued copies finish before their host memory goes away, and note a failure for good."""
        try:
            self._device.driver.synchronize(self._stream)
        except errors.DeviceError as later:
            error = later if later.sticky else error
        if isinstance(error, errors.DeviceError) and error.sticky:
            self._dead = str(error)


def own(owner: Any, device: Device, undo: ExitStack) -> ExitStack:
    """All that ``undo`` has gathered becomes the owner's: it is given back when the owner is dropped, or before that
    through `release`."""
    owned = undo.pop_all()
    weakref.finalize(owner, release, device, owned).atexit = False
    return owned


def release(device: Device, owned: ExitStack) -> None:
    """Give back what is owned, as far as the driver still lets us; twice is fine. Nothing can be done in a fork."""
    if os.getpid() != device.pid:
        owned.pop_all()
        return
    with suppress(errors.DeviceError), device.current():
        owned.close()


def quietly(function: Callable[[Any], None], handle: Any, keep: Any = None) -> None:
    """Give something back; where the driver refuses, the error that led here says more. keep: needed until then."""
    with suppress(errors.DeviceError):
        function(handle)


def new_event(driver: Driver, undo: ExitStack, timed: bool = True) -> Any:
    """An event, which ``undo`` gives back. timed: whether the time between it and another one is asked for."""
    event = driver.create_event(timed)
    undo.callback(quietly, driver.destroy_event, event)
    return event


def new_stream(driver: Driver, undo: ExitStack) -> Any:
    """A stream, which ``undo`` gives back."""
    stream = driver.create_stream()
    undo.callback(quietly, driver.destroy_stream, stream)
    return stream


def capture(device: Device, launches: Sequence[Launch], stream: Any, undo: ExitStack) -> Any:
    """All launches as one executable graph, which ``undo`` gives back. stream: one that nothing else uses meanwhile.

    Kernels that wait by themselves may start early, all but the first: in front of that is no kernel of this graph.
    """
    driver = device.driver
    driver.begin_capture(stream)
    try:
        for number, launch in enumerate(launches):
            driver.launch(launch, stream, early=launch.waits and number > 0)
    except BaseException:  # what comes next on the stream is to be run, not recorded
        quietly(driver.abandon_capture, stream)
        raise
    graph = driver.instantiate(driver.end_capture(stream))
    undo.callback(quietly, driver.destroy_graph, graph)
    return graph


def allocate(device: Device, sizes: dict[str, int], undo: ExitStack) -> dict[str, int]:
    """One allocation per buffer: name → address. ``undo`` gives them back."""
    return {name: allocate_one(device, nbytes, f"the buffer {name!r}", undo) for name, nbytes in sizes.items()}


def allocate_one(device: Device, nbytes: int, what: str, undo: ExitStack) -> int:
    pointer = device.allocate(nbytes, what)
    undo.callback(quietly, device.driver.free, pointer)
    return pointer
