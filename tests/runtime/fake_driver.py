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
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fake_streams import Event, Graph, Immediate, LaunchRecord, Lazy, Mark, Stream, Work
from fake_tensor_maps import BYTES as MAP_BYTES
from fake_tensor_maps import MapEncoder

from convc.codegen.cubin import CubinKernel, parse

OUT_OF_MEMORY, NO_DEVICE, INVALID_VALUE, INVALID_IMAGE, NO_BINARY, ILLEGAL_ADDRESS = 2, 100, 1, 200, 209, 700
NAMES = {2: b"CUDA_ERROR_OUT_OF_MEMORY", 100: b"CUDA_ERROR_NO_DEVICE", 700: b"CUDA_ERROR_ILLEGAL_ADDRESS"}
STICKY = {700, 719}
GUARD = 512
ALIGNMENT = 16
DEFAULT_SHARED = 48 * 1024
GRID = (2**31 - 1, 65535, 65535)
THREADS_ATTRIBUTE, SHARED_ATTRIBUTE = 0, 8


FACTS = {
    "CLOCK_RATE": (13, 1_980_000),
    "MULTIPROCESSOR_COUNT": (16, 132),
    "MEMORY_CLOCK_RATE": (36, 3_201_000),
    "GLOBAL_MEMORY_BUS_WIDTH": (37, 6016),
    "L2_CACHE_SIZE": (38, 60 << 20),
}
"""Attributes of a device that nothing depends on: name → number and value."""


class Status(Exception):
    """An error code on its way out of a fake function."""


@dataclass
class Allocation:
    memory: Any
    pointer: int
    nbytes: int

    @property
    def intact(self) -> bool:
        """Whether the bands before and after still hold what was put there."""
        before = ctypes.string_at(self.pointer - GUARD, GUARD)
        after = ctypes.string_at(self.pointer + self.nbytes, GUARD)
        return before == after == b"\xa5" * GUARD


@dataclass
class Function:
    name: str
    kernel: CubinKernel
    shared_limit: int = DEFAULT_SHARED


class LaunchConfig:
    gridDimX = gridDimY = gridDimZ = blockDimX = blockDimY = blockDimZ = sharedMemBytes = numAttrs = 0
    hStream: Any = None
    attrs: Any = ()


class LaunchAttribute:
    def __init__(self) -> None:
        self.id, self.value = -1, SimpleNamespace()


class FakeDriver:
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
    CUpointer_attribute = SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL=9)

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

    # -- Memory

    def _cuMemAlloc(self, nbytes: int) -> int:
        if nbytes <= 0:
            raise Status(INVALID_VALUE)
        if self.used + nbytes > self.memory_size:
            raise Status(OUT_OF_MEMORY)
        memory = (ctypes.c_char * (nbytes + 3 * GUARD))()
        pointer = (ctypes.addressof(memory) + 2 * GUARD - 1) // GUARD * GUARD
        ctypes.memset(pointer - GUARD, 0xA5, nbytes + 2 * GUARD)
        ctypes.memset(pointer, 0xFF, nbytes)
        self.allocations[pointer] = Allocation(memory, pointer, nbytes)
        return pointer

    def _cuMemFree(self, pointer: int) -> None:
        self.schedule.drain_all()
        if not self.allocations[pointer].intact:
            self.violations.append("a guard band was overwritten")
        del self.allocations[pointer]

    def _cuMemHostAlloc(self, nbytes: int, flags: int) -> int:
        if nbytes <= 0 or flags:
            raise Status(INVALID_VALUE)
        memory = (ctypes.c_char * nbytes)()
        self.host_memory[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def _cuMemFreeHost(self, pointer: int) -> None:
        if self.schedule.uses(pointer):
            self.violations.append("page-locked memory was freed before it was used")
        del self.host_memory[pointer]

    def _cuMemGetInfo(self) -> tuple[int, int]:
        return self.memory_size - self.used, self.memory_size

    def _inside(self, pointer: int, nbytes: int) -> bool:
        live = self.allocations.values()
        return any(a.pointer <= pointer and pointer + nbytes <= a.pointer + a.nbytes for a in live)

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            self.violations.append(what)
            self._stuck = ILLEGAL_ADDRESS
            raise Status(ILLEGAL_ADDRESS)

    def _cuMemsetD8Async(self, pointer: int, value: int, nbytes: int, stream: Stream | None) -> None:
        self._require(self._inside(pointer, nbytes), "memset outside of memory")
        self._queue(stream, lambda: ctypes.memset(pointer, value, nbytes))

    def _cuMemcpyHtoDAsync(self, pointer: int, host: int, nbytes: int, stream: Stream | None) -> None:
        """Memory that is not page-locked is read before the call returns."""
        self._require(self._inside(pointer, nbytes), "copy to outside of memory")
        if host in self.host_memory:
            self._queue(stream, lambda: ctypes.memmove(pointer, host, nbytes), host)
        else:
            data = ctypes.string_at(host, nbytes)
            self._queue(stream, lambda: ctypes.memmove(pointer, data, nbytes))

    def _cuMemcpyDtoHAsync(self, host: int, pointer: int, nbytes: int, stream: Stream | None) -> None:
        self._require(self._inside(pointer, nbytes), "copy from outside of memory")
        self._queue(stream, lambda: ctypes.memmove(host, pointer, nbytes), host)

    def _cuMemcpyDtoDAsync(self, target: int, source: int, nbytes: int, stream: Stream | None) -> None:
        self._require(self._inside(target, nbytes) and self._inside(source, nbytes), "copy outside of memory")
        self._queue(stream, lambda: ctypes.memmove(target, source, nbytes))

    def _queue(self, stream: Stream | None, action: Callable[[], Any], host: int = 0) -> None:
        if stream is not None:
            stream.after_launch = False
        self.schedule.queue(stream, Work(action, host=host))

    def _cuPointerGetAttribute(self, attribute: int, pointer: int) -> int:
        return 0

    # -- Kernels

    def _cuLibraryLoadData(self, code: bytes, *options: Any) -> tuple[Any]:
        try:
            cubin = parse(code)
        except (ValueError, struct.error, IndexError):
            raise Status(INVALID_IMAGE) from None
        if cubin.sm != 10 * self.capability[0] + self.capability[1]:
            raise Status(NO_BINARY)
        self.libraries[id(cubin)] = code
        return (cubin,)

    def _cuLibraryUnload(self, library: Any) -> None:
        del self.libraries[id(library)]

    def _cuLibraryGetKernel(self, library: Any, name: bytes) -> Function:
        if name.decode() not in library.kernels:
            raise Status(500)
        return Function(name.decode(), library.kernels[name.decode()])

    def _cuKernelGetFunction(self, kernel: Function) -> Function:
        return kernel

    def _cuFuncGetAttribute(self, attribute: int, function: Function) -> int:
        assert attribute == THREADS_ATTRIBUTE
        return function.kernel.threads[0] if function.kernel.threads else 1024

    def _cuFuncSetAttribute(self, function: Function, attribute: int, value: int) -> None:
        if attribute != SHARED_ATTRIBUTE or value > self.max_shared:
            raise Status(INVALID_VALUE)
        function.shared_limit = value

    def _cuLaunchKernelEx(self, config: LaunchConfig, function: Function, parameters: int, extra: int) -> None:
        grid = (config.gridDimX, config.gridDimY, config.gridDimZ)
        block = (config.blockDimX, config.blockDimY, config.blockDimZ)
        name = function.name
        self._require(all(0 < g <= limit for g, limit in zip(grid, GRID, strict=True)), f"{name}: grid {grid}")
        compiled = function.kernel.threads
        self._require(compiled in (None, block), f"{name}: {block} threads, compiled for {compiled}")
        self._require(config.sharedMemBytes <= function.shared_limit, f"{name}: {config.sharedMemBytes} bytes shared")
        values = tuple(self._value(function, i, parameters) for i in range(len(function.kernel.parameters)))
        record = LaunchRecord(name, grid, block[0], config.sharedMemBytes, values, self._programmatic(config, name))
        self.launches.append(record)
        config.hStream.after_launch = True
        if config.hStream.capturing is not None:
            config.hStream.capturing.append(record)
        else:
            self.schedule.queue(config.hStream, Work(lambda: self._execute(record)))

    def _programmatic(self, config: LaunchConfig, name: str) -> bool:
        """Whether the launch asks not to wait for the one in front of it, which must be a launch."""
        self._require(len(config.attrs) == config.numAttrs, f"{name}: {config.numAttrs} attributes")
        for attribute in config.attrs:
            self._require(attribute.id == 6, f"{name}: attribute {attribute.id}")
            self._require(attribute.value.programmaticStreamSerializationAllowed == 1, f"{name}: attribute's value")
            self._require(config.hStream.after_launch, f"{name}: programmatic, but what is in front is no launch")
        return config.numAttrs > 0

    def _value(self, function: Function, index: int, parameters: int) -> Any:
        """One parameter, read as the driver would and checked against what the cubin says of it."""
        entry = function.kernel.parameters[index]
        where = f"{function.name}: parameter {index}"
        address = int.from_bytes(self._read(parameters + 8 * index, 8, where), "little")
        data = self._read(address, entry.size, where)
        if entry.size == MAP_BYTES:
            return self._map(data, where)
        value = int.from_bytes(data, "little", signed=not entry.pointer)
        scratch = index >= len(function.kernel.parameters) - 2
        if entry.pointer and not (scratch and value == 0):
            self._require(self._inside(value, 1), f"{where}: {value:#x} is not in any allocation")
            self._require(value % ALIGNMENT == 0, f"{where}: {value:#x} is not aligned")
        return value

    def _map(self, data: bytes, where: str) -> Any:
        try:
            record = self.maps.found(data, self.version <= 13010)
        except ValueError as error:
            self._require(False, f"{where}: {error}")
            raise
        self._require(self._inside(record.address, record.span), f"{where}: a map of memory that is not there")
        return record

    def _read(self, address: int, nbytes: int, where: str) -> bytes:
        """Memory of this process, also where the address is nonsense."""
        try:
            return os.pread(self._memory_file, nbytes, address)
        except (OSError, OverflowError):
            self._require(False, f"{where}: unreadable address {address:#x}")
            raise

    def _execute(self, record: LaunchRecord) -> None:
        self.replayed.append(record)
        self.clock += self.milliseconds(record)
        if record.name in self.hooks:
            self.hooks[record.name](record)

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


def floats(pointer: int, count: int) -> Any:
    """``count`` fp32 numbers of device memory as a NumPy array."""
    import numpy as np

    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(pointer))


def add_weights(record: LaunchRecord) -> None:
    """What the kernel of that name computes."""
    x, w, y, n = record.values[:4]
    floats(y, n)[:] = floats(x, n) + floats(w, n)


def relu(record: LaunchRecord) -> None:
    import numpy as np

    x, y, n = record.values[:3]
    np.maximum(floats(x, n), 0, out=floats(y, n))


def relu_rows(record: LaunchRecord) -> None:
    """Blocks of 8 x 8 elements of the array behind the map, zero past its last row."""
    import numpy as np

    x, rows, cols, pitch = record.values[0], *record.values[1:4]
    assert x.shape == (rows, cols) and x.strides == (4 * pitch, 4) and x.box == (8, 8)
    y = floats(record.values[5], 8 * record.grid[0] * pitch)
    y[:] = 0
    np.maximum(floats(x.address, rows * pitch), 0, out=y[: rows * pitch])


HOOKS = {"add_weights": add_weights, "relu": relu, "relu_rows": relu_rows}
