"""A stand-in for ``cuda.bindings.driver`` whose device memory is host memory, so that copies really copy.

Every launch is checked against the cubin that it runs: number and sizes of the parameters, pointers inside live
allocations and aligned, tensor maps encoded by `fake_tensor_maps`, threads as compiled, shared memory allowed. A
launch that breaks a rule fails with error 700 as on a GPU, and is kept in ``violations``. Fresh memory is filled with
0xFF (NaN), and guard bands around every allocation are checked when it is freed.

A launch runs the hook of its kernel's name with the values of its parameters; without one it does nothing.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fake_kernels import HOOKS, SHARED_ATTRIBUTE, THREADS_ATTRIBUTE, Kernels, LaunchAttribute, LaunchConfig, floats
from fake_memory import GUARD, NO_DEVICE, Allocation, Status
from fake_streams import Event, Graph, Immediate, LaunchRecord, Lazy, Mark, Stream, Work
from fake_tensor_maps import MapEncoder

__all__ = ["GUARD", "HOOKS", "Allocation", "FakeDriver", "LaunchRecord", "floats"]

NAMES = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 100: b"CUDA_ERROR_NO_DEVICE", 700: b"CUDA_ERROR_ILLEGAL_ADDRESS"}
STICKY = {700, 719}


FACTS = {
    "CLOCK_RATE": (13, 1_980_000),
    "MULTIPROCESSOR_COUNT": (16, 132),
    "MEMORY_CLOCK_RATE": (36, 3_201_000),
    "GLOBAL_MEMORY_BUS_WIDTH": (37, 6016),
    "L2_CACHE_SIZE": (38, 60 << 20),
}
"""Attributes of a device that nothing depends on: name → number and value."""


class FakeDriver(Kernels):
    """The module. capability: of the devices. memory: bytes of each. hooks: kernel name → what it does. schedule: when
    what is queued happens. milliseconds: how long a launch takes."""

    CUlaunchConfig = LaunchConfig
    CUlaunchAttribute = LaunchAttribute
    CUlaunchAttributeID = SimpleNamespace(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION=6)
    CUdriverProcAddress_flags = SimpleNamespace(CU_GET_PROC_ADDRESS_DEFAULT=0)
    CUstreamCaptureMode = staticmethod(int)
    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
        CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN=97,
        **{f"CU_DEVICE_ATTRIBUTE_{name}": number for name, (number, _) in FACTS.items()},
    )
    CUfunction_attribute = SimpleNamespace(
        CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK=THREADS_ATTRIBUTE,
        CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=SHARED_ATTRIBUTE,
    )

    def __init__(
        self,
        capability: tuple[int, int] = (9, 0),
        *,
        devices: int = 1,
        memory: int = 1 << 30,
        version: int = 13000,
        max_shared: int = 232448,
        schedule: Immediate | Lazy | None = None,
        milliseconds: Callable[[LaunchRecord], float] = lambda record: 1.0,
        hooks: dict[str, Callable[..., None]] | None = None,
    ) -> None:
        self.capability, self.devices, self.memory_size, self.version = capability, devices, memory, version
        self.max_shared, self.hooks = max_shared, hooks or {}
        self.schedule = schedule or Immediate()
        self.milliseconds, self.clock = milliseconds, 0.0
        self.host_memory: dict[int, Any] = {}
        self.calls: list[str] = []
        self.launches: list[LaunchRecord] = []
        self.replayed: list[LaunchRecord] = []
        self.violations: list[str] = []
        self.allocations: dict[int, Allocation] = {}
        self.libraries: dict[int, bytes] = {}
        self.retained = 0
        self.open = Counter[str]()
        self.maps = MapEncoder(self._before_encoding, self._inside, self.violations.append)
        self._faults: dict[str, tuple[int, int]] = {}
        self._stuck = 0
        self._current = threading.local()
        self._memory_file = os.open("/proc/self/mem", os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self._memory_file)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("cu"):
            return object.__getattribute__(self, name)
        function = object.__getattribute__(self, "_" + name)

        def called(*arguments: Any) -> tuple[Any, ...]:
            try:
                self._before(name)
                result = function(*arguments)
            except Status as status:
                return (status.args[0], *[None] * (name in RESULTS))
            return (0, *(result if isinstance(result, tuple) else () if result is None else (result,)))

        return called

    def fail(self, name: str, code: int, nth: int = 1) -> None:
        """Make the nth call of a function from now on fail."""
        self._faults[name] = (nth, code)

    @property
    def used(self) -> int:
        """Bytes that are allocated."""
        return sum(allocation.nbytes for allocation in self.allocations.values())

    @property
    def clean(self) -> bool:
        """Whether nothing is left: memory, libraries, streams, graphs, events, contexts."""
        return not (self.allocations or self.host_memory or self.libraries or self.retained or +self.open)

    def _before(self, name: str) -> None:
        self.calls.append(name)
        if self._stuck and name not in ("cuGetErrorName", "cuGetErrorString", "cuCtxPushCurrent", "cuCtxPopCurrent"):
            raise Status(self._stuck)
        if name in self._faults:
            left, code = self._faults[name]
            self._faults[name] = (left - 1, code)
            if left == 1:
                del self._faults[name]
                self._stuck = code if code in STICKY else 0
                raise Status(code)
        if name not in WITHOUT_CONTEXT:
            assert self._stack, f"{name} without a current context"

    def _before_encoding(self, name: str) -> int:
        try:
            self._before(name)
        except Status as status:
            return status.args[0]
        return 0

    @property
    def _stack(self) -> list[Any]:
        return self._current.__dict__.setdefault("stack", [])

    # -- Devices and contexts

    def _cuInit(self, flags: int) -> None:
        if not self.devices:
            raise Status(NO_DEVICE)

    def _cuDriverGetVersion(self) -> int:
        return self.version

    def _cuGetProcAddress(self, name: bytes, version: int, flags: int) -> tuple[int, int]:
        known = {
            b"cuTensorMapEncodeTiled": self.maps.function,
            b"cuTensorMapEncodeIm2col": self.maps.im2col,
        }
        function = known.get(name) if 12000 <= version <= self.version else None
        return (ctypes.cast(function, ctypes.c_void_p).value or 0, 0) if function else (0, 1)

    def _cuGetErrorName(self, status: int) -> bytes:
        return NAMES.get(status, b"CUDA_ERROR_OTHER")

    def _cuGetErrorString(self, status: int) -> bytes:
        return f"fake error {status}".encode()

    def _cuDeviceGetCount(self) -> int:
        return self.devices

    def _cuDeviceGet(self, ordinal: int) -> int:
        return ordinal

    def _cuDeviceGetName(self, length: int, device: int) -> bytes:
        return b"Fake GPU".ljust(length, b"\0")

    def _cuDeviceGetAttribute(self, attribute: int, device: int) -> int:
        known = {75: self.capability[0], 76: self.capability[1], 97: self.max_shared} | dict(FACTS.values())
        return known[attribute]

    def _cuDevicePrimaryCtxRetain(self, device: int) -> tuple[Any]:
        self.retained += 1
        return (("context", device),)

    def _cuDevicePrimaryCtxRelease(self, device: int) -> None:
        assert self.retained > 0
        self.retained -= 1

    def _cuCtxPushCurrent(self, context: Any) -> None:
        self._stack.append(context)

    def _cuCtxPopCurrent(self) -> tuple[Any]:
        return (self._stack.pop(),)

    # -- Streams, graphs, events

    def _cuStreamCreate(self, flags: int) -> Stream:
        self.open["stream"] += 1
        return Stream()

    def _cuStreamDestroy(self, stream: Stream) -> None:
        if stream.capturing is not None:
            self.violations.append("a stream was destroyed while capturing")
        self.schedule.drain(stream)
        self.open["stream"] -= 1

    def _cuStreamSynchronize(self, stream: Stream | None) -> None:
        assert not isinstance(stream, Stream) or stream.capturing is None, "synchronize while capturing"
        self.schedule.drain(stream if isinstance(stream, Stream) else None)

    def _cuStreamWaitEvent(self, stream: Stream, event: Event, flags: int) -> None:
        if event.mark is not None:
            self.schedule.queue(stream, Work(lambda: None, after=event.mark))
        stream.after_launch = False

    def _cuStreamBeginCapture(self, stream: Stream, mode: int) -> None:
        assert stream.capturing is None
        stream.capturing, stream.after_launch = [], False

    def _cuStreamEndCapture(self, stream: Stream) -> Graph:
        launches, stream.capturing = stream.capturing, None
        self.open["graph"] += 1
        return Graph(launches)

    def _cuGraphInstantiate(self, graph: Graph, flags: int) -> Graph:
        self.open["executable graph"] += 1
        return Graph(list(graph.launches))

    def _cuGraphDestroy(self, graph: Graph) -> None:
        self.open["graph"] -= 1

    def _cuGraphExecDestroy(self, graph: Graph) -> None:
        self.open["executable graph"] -= 1

    def _cuGraphLaunch(self, graph: Graph, stream: Stream) -> None:
        stream.after_launch = False
        for record in graph.launches:
            self.schedule.queue(stream, Work(lambda record=record: self._execute(record)))

    def _cuEventCreate(self, flags: int) -> Event:
        self.open["event"] += 1
        return Event()

    def _cuEventDestroy(self, event: Event) -> None:
        self.open["event"] -= 1

    def _cuEventRecord(self, event: Event, stream: Stream) -> None:
        mark = event.mark = Mark(stream)

        def reach() -> None:
            mark.reached, mark.clock = True, self.clock

        self._queue(stream, reach)

    def _cuEventSynchronize(self, event: Event) -> None:
        if event.mark is not None:
            self.schedule.finish(event.mark)

    def _cuEventElapsedTime(self, start: Event, end: Event) -> float:
        assert start.mark and end.mark and start.mark.reached and end.mark.reached
        return end.mark.clock - start.mark.clock


WITHOUT_CONTEXT = {
    "cuInit", "cuDriverGetVersion", "cuGetErrorName", "cuGetErrorString", "cuGetProcAddress", "cuTensorMapEncodeTiled",
    "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease", "cuCtxPushCurrent",
}  # fmt: skip
# Functions whose result is None when they fail.
RESULTS = {
    "cuMemAlloc", "cuMemHostAlloc", "cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelGetFunction", "cuStreamCreate",
    "cuEventCreate", "cuStreamEndCapture", "cuGraphInstantiate", "cuDevicePrimaryCtxRetain", "cuDeviceGetCount",
    "cuDeviceGet", "cuGetErrorName", "cuGetErrorString",
}  # fmt: skip
