"""The course of a run on a GPU: launches in one CUDA graph, or in several with the host at work between them.

At a step of the host what it reads is copied to page-locked memory, the stream is waited for, NumPy evaluates, and what
it has made is copied back. The launches behind it are queued then. Where there are no steps a run is one graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from .check import host_bytes
from .driver import Device, Launch
from .host_steps import HostSteps
from .manifest import HostTensor
from .session import capture, quietly


class Host:
    """The steps of the host, with page-locked memory for each tensor that they read or make. Runs share them, and so
    must follow one another.

    Attributes:
        device: the GPU.
        steps: what they do.
    """

    def __init__(self, device: Device, steps: HostSteps, undo: ExitStack) -> None:
        self.device, self._driver, self.steps = device, device.driver, steps
        tensors = [tensor for spec in steps.specs for tensor in (*spec.reads, *spec.writes)]
        self._staged = {tensor: page_locked(device, _nbytes(tensor), "a step of the host", undo) for tensor in tensors}

    def begin(self, buffers: Mapping[str, int], stream: Any) -> None:
        """A new run, with the steps in front of its first launch."""
        self.steps.begin()
        self.take(0, buffers, stream)

    def take(self, launches: int, buffers: Mapping[str, int], stream: Any) -> None:
        """The steps behind so many launches, which are queued on the stream; returns when the last one's results are
        queued to be copied. Raises what their operators raise, and `DeviceError`."""
        for number in self.steps.behind(launches):
            spec = self.steps.specs[number]
            for tensor in spec.reads:
                self._copy(self._driver.to_host, tensor, buffers, stream)
            self._driver.synchronize(stream)
            self.steps.take(number, self._staged.__getitem__)
            for tensor in spec.writes:
                self._copy(self._driver.to_device, tensor, buffers, stream)

    def _copy(self, copy: Any, tensor: HostTensor, buffers: Mapping[str, int], stream: Any) -> None:
        begin, end = host_bytes(tensor)
        if begin < end:
            there, here = buffers[tensor.buffer] + begin, self._staged[tensor].ctypes.data
            copy(*((there, here) if copy is self._driver.to_device else (here, there)), end - begin, stream)


class Course:
    """A run on certain buffers. launches: on these buffers, in order. stream: one that nothing else uses while this is
    made. The device is current. Raises `DeviceError`."""

    def __init__(
        self, host: Host, launches: Sequence[Launch], buffers: Mapping[str, int], stream: Any, undo: ExitStack
    ) -> None:
        self._host, self._buffers, self._device = host, buffers, host.device
        self._pieces = [
            (capture(self._device, launches[first:last], stream, undo), last)
            for first, last in host.steps.segments(0, len(launches))
        ]

    def queue(self, stream: Any) -> None:
        """Queue everything; at each step of the host the stream is waited for."""
        host, launch = self._host, self._device.driver.launch_graph
        host.begin(self._buffers, stream)
        for graph, launches in self._pieces:
            launch(graph, stream)
            host.take(launches, self._buffers, stream)


def page_locked(device: Device, nbytes: int, what: str, undo: ExitStack) -> np.ndarray:
    """Page-locked memory of the host as bytes, which ``undo`` gives back."""
    address = device.allocate_host(nbytes, what)
    undo.callback(quietly, device.driver.free_host, address)
    memory: Any = (ctypes.c_uint8 * max(nbytes, 1)).from_address(address)
    return np.frombuffer(memory, np.uint8, count=nbytes)


def _nbytes(tensor: HostTensor) -> int:
    begin, end = host_bytes(tensor)
    return end - begin
