"""Tensor maps, encoded by the driver."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from .manifest import TensorMapArgument, TensorMapSpec
from .tensor_maps import DescriptorType, span_bytes

if TYPE_CHECKING:
    from .driver import Driver

BYTES, ALIGNMENT = 128, 64
LAST_WITH_SMALL_ARRAYS_WRONG = 13010
"""The last CUDA version whose driver sets a bit too many for arrays that span less than `SMALL` bytes."""
SMALL = 128 * 1024
SMALL_BIT = 1 << 21
NO_INTERLEAVE, L2_PROMOTION_128_BYTES, FILL_WITH_ZEROS = 0, 2, 0

_Extents = ctypes.POINTER(ctypes.c_uint64)
_Boxes = ctypes.POINTER(ctypes.c_uint32)
# CUresult cuTensorMapEncodeTiled(map, type, rank, address, extents, strides, box, element strides, interleave,
#                                 swizzle, L2 promotion, fill)
_ARRAY = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p, _Extents, _Extents)
ENCODE_TILED = ctypes.CFUNCTYPE(ctypes.c_int, *_ARRAY, _Boxes, _Boxes, *[ctypes.c_int] * 4)
# CUresult cuTensorMapEncodeIm2col(map, type, rank, address, extents, strides, lower corner, upper corner, channels,
#                                  pixels, element strides, interleave, swizzle, L2 promotion, fill)
_Corners = ctypes.POINTER(ctypes.c_int)
ENCODE_IM2COL = ctypes.CFUNCTYPE(
    ctypes.c_int, *_ARRAY, _Corners, _Corners, ctypes.c_uint32, ctypes.c_uint32, _Boxes, *[ctypes.c_int] * 4
)


class TensorMap:
    """The 128 bytes of a map. They lie at a multiple of 64, as the driver demands; the bindings' own do not always.

    Attributes:
        value: the bytes, as a ctypes object.
    """

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(BYTES + ALIGNMENT)
        address = -(-ctypes.addressof(self._memory) // ALIGNMENT) * ALIGNMENT
        self.value = (ctypes.c_uint64 * (BYTES // 8)).from_buffer(
            self._memory, address - ctypes.addressof(self._memory)
        )


class TensorMapEncoder:
    """Encodes descriptors as the parameters that compiled code takes for them. Raises `DeviceError`."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._functions: dict[str, Any] = {}

    def parameters(
        self, address: int, type: DescriptorType, array: TensorMapArgument, spec: TensorMapSpec
    ) -> list[Any]:
        """A map by value, the shape as ``i32`` and the strides as ``i64``: ctypes objects. address: of the array."""
        sizes = [ctypes.c_int32(extent) for extent in array.shape]
        steps = [ctypes.c_int64(stride) for stride in array.strides]
        return [self._map(address, type, array, spec).value, *sizes, *steps]

    def _map(self, address: int, type: DescriptorType, array: TensorMapArgument, spec: TensorMapSpec) -> TensorMap:
        """The driver counts from the innermost dimension on, and takes strides in bytes without the innermost."""
        encoded, rank, itemsize = TensorMap(), len(array.shape), type.element.itemsize
        strides = [stride * itemsize for stride in reversed(array.strides[:-1])]
        extents = (ctypes.c_uint64 * rank)(*reversed(array.shape)), (ctypes.c_uint64 * rank)(*strides)
        where = ctypes.addressof(encoded.value), type.element.driver, rank, address, *extents
        ends = NO_INTERLEAVE, spec.swizzle, L2_PROMOTION_128_BYTES, FILL_WITH_ZEROS
        steps = (ctypes.c_uint32 * rank)(*reversed(array.steps or (1,) * rank))
        if type.windows:
            corners = ((ctypes.c_int * (rank - 2))(*reversed(corner)) for corner in (array.lower, array.upper))
            pixels, channels = spec.block_size
            self._call("cuTensorMapEncodeIm2col", ENCODE_IM2COL, *where, *corners, channels, pixels, steps, *ends)
            return encoded
        box = (ctypes.c_uint32 * rank)(*reversed(spec.block_size))
        self._call("cuTensorMapEncodeTiled", ENCODE_TILED, *where, box, steps, *ends)
        last = span_bytes(array.shape, array.strides, itemsize) - itemsize
        if self._driver.version <= LAST_WITH_SMALL_ARRAYS_WRONG and last + 1 < SMALL:
            encoded.value[1] &= ~SMALL_BIT
        return encoded

    def _call(self, name: str, prototype: Any, *arguments: Any) -> None:
        if name not in self._functions:
            self._functions[name] = prototype(self._driver.entry_point(name))
        self._driver.check(name, self._functions[name](*arguments))
