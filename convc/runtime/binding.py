"""Launches of a program at the addresses of its buffers."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

from .batch import grid_of
from .driver import Driver, Launch
from .encoding import TensorMapEncoder
from .manifest import Binary, IntegerArgument, KernelSpec, LaunchSpec, ProgramSpec, TensorMapArgument
from .tensor_maps import descriptor_type

INTEGERS: dict[str, type[ctypes.c_int32] | type[ctypes.c_int64]] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64}


class LaunchBinder:
    """Lays out the parameters of launches.

    functions: the driver's, one per kernel of the program. scratch: address of the kernels' scratch memory.
    """

    def __init__(self, driver: Driver, program: ProgramSpec, functions: Sequence[Any], scratch: int) -> None:
        self._program, self._functions, self._scratch = program, functions, scratch
        self._encoder = TensorMapEncoder(driver)

    def bind(self, buffers: Mapping[str, int], images: int = 0) -> list[Launch]:
        """All launches, in order. buffers: name → address. images: how many to compute, where the batch is dynamic; 0
        for all. Raises `DeviceError` where a tensor map is refused."""
        return [self._bound(spec, buffers, images) for spec in self._program.launches]

    def _bound(self, spec: LaunchSpec, buffers: Mapping[str, int], images: int) -> Launch:
        kernel = self._program.kernels[spec.kernel]
        code = binary(kernel)
        values = self._values(kernel, code, spec, buffers)
        function, waits = self._functions[spec.kernel], code.programmatic_launch
        return Launch(function, grid_of(spec, images), code.threads, code.shared_bytes, values, waits)

    def _values(self, kernel: KernelSpec, code: Binary, spec: LaunchSpec, buffers: Mapping[str, int]) -> list[Any]:
        """Triton's calling convention: the parameters in order, then always pointers to global and profile scratch.

        A descriptor becomes its tensor map, shape and strides.
        """
        values: list[Any] = []
        maps = iter(code.tensor_maps)
        for parameter, argument in zip(kernel.parameters, spec.arguments, strict=True):
            if isinstance(argument, IntegerArgument):
                values.append(INTEGERS[parameter.type](argument.value))
                continue
            address = buffers[argument.buffer] + argument.offset
            if isinstance(argument, TensorMapArgument):
                type = descriptor_type(parameter.type)
                assert type is not None, "the manifest has been checked"
                values += self._encoder.parameters(address, type, argument, next(maps))
            else:
                values.append(ctypes.c_uint64(address))
        scratch = self._scratch if code.global_scratch_bytes else 0
        return [*values, ctypes.c_uint64(scratch), ctypes.c_uint64(0)]


def binary(kernel: KernelSpec) -> Binary:
    """The compiled code of a kernel."""
    assert kernel.binary is not None, "a program is chosen only where every kernel is compiled"
    return kernel.binary
