"""The CUDA driver API, as far as the executor needs it, over ``cuda.bindings.driver`` or anything with its surface.

Every method raises `DeviceError` where the driver reports a failure. Pointers are plain integers; streams, kernels,
graphs and events are the bindings' own opaque handles.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

from .. import errors

# cuLibraryLoadData, cuLaunchKernelEx and what else is called here exist since CUDA 12.0.
MIN_DRIVER = 12000
NO_DEVICE = 100
# The initial carve-out that a kernel may use without asking, in bytes.
DEFAULT_SHARED = 48 * 1024
NON_BLOCKING = 1
RELAXED_CAPTURE = 2
DISABLE_TIMING = 2


def bindings() -> Any:
    """The module ``cuda.bindings.driver``. Raises `DeviceError` where it is not installed."""
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise errors.no_bindings(error) from error
    return driver


class Launch:
    """A kernel with everything that a launch needs.

    values: its parameters, as ctypes objects, kept alive here. waits: whether it waits by itself for the kernel before.
    """

    def __init__(
        self,
        function: Any,
        grid: tuple[int, int, int],
        threads: int,
        shared_bytes: int,
        values: Sequence[Any],
        waits: bool = False,
    ) -> None:
        self.function, self.grid, self.threads, self.shared_bytes = function, grid, threads, shared_bytes
        self.values, self.waits = values, waits
        self.parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))


class Driver:
    """The calls. raw: a module with the surface of ``cuda.bindings.driver``; None imports the real one."""

    def __init__(self, raw: Any = None) -> None:
        self.raw = bindings() if raw is None else raw
        self._initialise()
        # What every run calls is looked up once.
        self._any_stream = self.raw.CUdriverProcAddress_flags.CU_GET_PROC_ADDRESS_DEFAULT
        self.push = self._resolved("cuCtxPushCurrent")  # (context)
        self.pop = self._resolved("cuCtxPopCurrent")  # ()
        self.to_device = self._resolved("cuMemcpyHtoDAsync")  # (pointer, host address, bytes, stream)
        self.to_host = self._resolved("cuMemcpyDtoHAsync")  # (host address, pointer, bytes, stream)
        self.on_device = self._resolved("cuMemcpyDtoDAsync")  # (target, source, bytes, stream)
        self.launch_graph = self._resolved("cuGraphLaunch")  # (graph, stream)
        self.synchronize = self._resolved("cuStreamSynchronize")  # (stream)

    def _initialise(self) -> None:
        try:
            self.call("cuInit", 0)
        except errors.DeviceError as error:
            if error.code == NO_DEVICE:
                raise errors.no_device(0, 0) from error
            raise
        self.version = int(self.call("cuDriverGetVersion"))
        if self.version < MIN_DRIVER:
            raise errors.old_driver(self.version, MIN_DRIVER)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the bindings; its one result, a tuple of several, or None."""
        try:
            status, *results = getattr(self.raw, name)(*arguments)
        except (RuntimeError, AttributeError) as error:
            raise self._missing(error) from error
        self.check(name, status)
        return results[0] if len(results) == 1 else tuple(results) or None

    def check(self, name: str, status: Any) -> None:
        """Raise `DeviceError` where a function returned a failure."""
        if status:
            raise self._failure(name, status)

    def _resolved(self, name: str) -> Callable[..., None]:
        """A function without results that is called often."""
        function = getattr(self.raw, name)

        def checked(*arguments: Any) -> None:
            status = function(*arguments)[0]
            if status:
                raise self._failure(name, status)

        return checked

    @staticmethod
    def _missing(error: Exception) -> errors.DeviceError:
        """The bindings raise where there is no library, and where a function is not in it."""
        if "not found" in str(error) and "unction" in str(error):
            return errors.old_driver(None, MIN_DRIVER)
        return errors.no_driver(str(error).split("\n")[0])

    def _failure(self, name: str, status: Any) -> errors.DeviceError:
        words = []
        for function in (self.raw.cuGetErrorName, self.raw.cuGetErrorString):
            found, text = function(status)
            words.append("unknown" if found or not text else bytes(text).decode(errors="replace"))
        return errors.driver_call(name, int(status), words[0], words[1])

    def entry_point(self, name: str) -> int:
        """The address of a function of the driver. Raises `DeviceError` where it has none of that name."""
        address, _ = self.call("cuGetProcAddress", name.encode(), MIN_DRIVER, self._any_stream)
        if not address:
            raise errors.old_driver(self.version, MIN_DRIVER)
        return int(address)

    # -- Devices and contexts

    def device_count(self) -> int:
        return int(self.call("cuDeviceGetCount"))

    def device(self, ordinal: int) -> Any:
        return self.call("cuDeviceGet", ordinal)

    def device_name(self, device: Any) -> str:
        return bytes(self.call("cuDeviceGetName", 128, device)).split(b"\0")[0].decode(errors="replace")

    def attribute(self, name: str, device: Any) -> int:
        """A device attribute, named without its prefix: ``COMPUTE_CAPABILITY_MAJOR``."""
        kind = getattr(self.raw.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.call("cuDeviceGetAttribute", kind, device))

    def retain_context(self, device: Any) -> Any:
        return self.call("cuDevicePrimaryCtxRetain", device)

    def release_context(self, device: Any) -> None:
        self.call("cuDevicePrimaryCtxRelease", device)

    # -- Memory

    def allocate(self, nbytes: int) -> int:
        return int(self.call("cuMemAlloc", nbytes))

    def free(self, pointer: int) -> None:
        self.call("cuMemFree", pointer)

    def allocate_host(self, nbytes: int) -> int:
        """Page-locked host memory: copies from and to it run beside everything else."""
        return int(self.call("cuMemHostAlloc", nbytes, 0))

    def free_host(self, pointer: int) -> None:
        self.call("cuMemFreeHost", pointer)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the current device."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    def fill(self, pointer: int, byte: int, nbytes: int, stream: Any) -> None:
        self.call("cuMemsetD8Async", pointer, byte, nbytes, stream)

    # -- Kernels

    def load_library(self, cubin: bytes) -> Any:
        """Load a cubin. ``cubin`` must stay alive as long as the library."""
        return self.call("cuLibraryLoadData", cubin, [], [], 0, [], [], 0)

    def unload_library(self, library: Any) -> None:
        self.call("cuLibraryUnload", library)

    def function(self, library: Any, name: str) -> Any:
        return self.call("cuKernelGetFunction", self.call("cuLibraryGetKernel", library, name.encode()))

    def max_threads(self, function: Any) -> int:
        """Threads that a block of this kernel may have. Asking also makes the driver load the kernel's code."""
        kind = self.raw.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
        return int(self.call("cuFuncGetAttribute", kind, function))

    def allow_shared(self, function: Any, nbytes: int) -> None:
        """Raise the limit of dynamic shared memory of a kernel."""
        kind = self.raw.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self.call("cuFuncSetAttribute", function, kind, nbytes)

    def launch(self, launch: Launch, stream: Any, early: bool = False) -> None:
        """Queue a kernel. early: it may start before the kernel in front of it, queued last, has ended."""
        config = self.raw.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = launch.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = launch.threads, 1, 1
        config.sharedMemBytes, config.hStream, config.numAttrs = launch.shared_bytes, stream, 0
        if early:
            config.attrs, config.numAttrs = [self._early], 1
        self.call("cuLaunchKernelEx", config, launch.function, ctypes.addressof(launch.parameters), 0)

    @cached_property
    def _early(self) -> Any:
        """The attribute of a launch that does not wait for the one in front of it."""
        attribute = self.raw.CUlaunchAttribute()
        attribute.id = self.raw.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        return attribute

    # -- Streams, graphs, events

    def create_stream(self) -> Any:
        return self.call("cuStreamCreate", NON_BLOCKING)

    def destroy_stream(self, stream: Any) -> None:
        self.call("cuStreamDestroy", stream)

    def begin_capture(self, stream: Any) -> None:
        """Start to record a stream. Other threads may go on with the driver as they like."""
        mode = self.raw.CUstreamCaptureMode(RELAXED_CAPTURE)
        self.call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Any) -> Any:
        return self.call("cuStreamEndCapture", stream)

    def abandon_capture(self, stream: Any) -> None:
        """End a capture and drop what it recorded."""
        self.call("cuGraphDestroy", self.end_capture(stream))

    def instantiate(self, graph: Any) -> Any:
        """An executable graph; the recorded one is given back."""
        try:
            return self.call("cuGraphInstantiate", graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)

    def destroy_graph(self, graph: Any) -> None:
        self.call("cuGraphExecDestroy", graph)

    def create_event(self, timed: bool = True) -> Any:
        return self.call("cuEventCreate", 0 if timed else DISABLE_TIMING)

    def record(self, event: Any, stream: Any) -> None:
        self.call("cuEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """Let what is queued on a stream from now on wait for what is recorded in an event now."""
        self.call("cuStreamWaitEvent", stream, event, 0)

    def finish(self, event: Any) -> None:
        """Wait here until what an event has recorded is done."""
        self.call("cuEventSynchronize", event)

    def elapsed_us(self, start: Any, end: Any) -> float:
        return 1000 * float(self.call("cuEventElapsedTime", start, end))

    def destroy_event(self, event: Any) -> None:
        self.call("cuEventDestroy", event)


class Device:
    """One GPU with its primary context, which is kept as long as this object lives.

    Attributes:
        capability: compute capability, major and minor.
        max_shared: bytes of shared memory that a block may ask for.
        pid: the process; in a fork of it nothing here may be used.
    """

    def __init__(self, driver: Driver, ordinal: int = 0) -> None:
        count = driver.device_count()
        if not 0 <= ordinal < count:
            raise errors.no_device(ordinal, count)
        handle = driver.device(ordinal)
        self.driver, self.ordinal, self.pid = driver, ordinal, os.getpid()
        self.name = driver.device_name(handle)
        self.capability = tuple(driver.attribute(f"COMPUTE_CAPABILITY_{part}", handle) for part in ("MAJOR", "MINOR"))
        self.max_shared = driver.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", handle)
        self.context = driver.retain_context(handle)
        weakref.finalize(self, _release_context, driver, handle, self.pid).atexit = False

    @property
    def architecture(self) -> str:
        return f"sm_{self.capability[0]}{self.capability[1]}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device current for this thread, and afterwards what was current before."""
        self.driver.push(self.context)
        try:
            yield
        finally:
            self.driver.pop()

    def allocate(self, nbytes: int, what: str) -> int:
        """Memory, of at least one byte. Raises `DeviceError` saying how much was asked for and is there."""
        try:
            return self.driver.allocate(max(nbytes, 1))
        except errors.DeviceError as error:
            if error.code != errors.OUT_OF_MEMORY:
                raise
            raise errors.out_of_memory(what, nbytes, *self.driver.memory()) from error

    def allocate_host(self, nbytes: int, what: str) -> int:
        """Page-locked host memory, of at least one byte. Raises `DeviceError`."""
        try:
            return self.driver.allocate_host(max(nbytes, 1))
        except errors.DeviceError as error:
            if error.code != errors.OUT_OF_MEMORY:
                raise
            raise errors.out_of_host_memory(what, nbytes) from error


def _release_context(driver: Driver, handle: Any, pid: int) -> None:
    if os.getpid() == pid:
        with suppress(errors.DeviceError):
            driver.release_context(handle)
