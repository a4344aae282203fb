"""Kernels of the fake driver: libraries, launches checked against the cubin, and what the tiny kernels compute."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from fake_memory import INVALID_IMAGE, INVALID_VALUE, NO_BINARY, Memory, Status
from fake_streams import LaunchRecord, Work
from fake_tensor_maps import BYTES as MAP_BYTES
from fake_tensor_maps import MapEncoder

from convc.codegen.cubin import CubinKernel, parse

ALIGNMENT = 16
DEFAULT_SHARED = 48 * 1024
GRID = (2**31 - 1, 65535, 65535)
THREADS_ATTRIBUTE, SHARED_ATTRIBUTE = 0, 8


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


class Kernels(Memory):
    """The functions of the driver that are about kernels."""

    capability: tuple[int, int]
    version: int
    max_shared: int
    clock: float
    hooks: dict[str, Callable[..., None]]
    milliseconds: Callable[[LaunchRecord], float]
    launches: list[LaunchRecord]
    replayed: list[LaunchRecord]
    libraries: dict[int, bytes]
    maps: MapEncoder
    _memory_file: int

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
