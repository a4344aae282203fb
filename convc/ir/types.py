"""Element types and tensor types."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .dims import Dim, DimLike, product, substitute


class DType(str, enum.Enum):
    """Element types, by the names that users write."""

    FP64 = "fp64"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT64 = "int64"
    INT32 = "int32"
    INT16 = "int16"
    INT8 = "int8"
    UINT64 = "uint64"
    UINT32 = "uint32"
    UINT16 = "uint16"
    UINT8 = "uint8"
    BOOL = "bool"
    INT4 = "int4"
    UINT4 = "uint4"
    INT2 = "int2"
    UINT2 = "uint2"
    FP8E4M3FN = "fp8e4m3fn"
    FP8E4M3FNUZ = "fp8e4m3fnuz"
    FP8E5M2 = "fp8e5m2"
    FP8E5M2FNUZ = "fp8e5m2fnuz"
    FP4E2M1 = "fp4e2m1"

    def __str__(self) -> str:
        return self.value

    @property
    def numpy(self) -> np.dtype:
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self in FLOATS

    @property
    def is_tiny(self) -> bool:
        """Whether numbers are only kept in it and none computed: whole ones of 4 bits and less, floats of 8 and less.

        One element takes a byte in memory.
        """
        return self in TINY

    @property
    def is_number(self) -> bool:
        """Whether there is arithmetic on it."""
        return self is not DType.BOOL and not self.is_tiny

    @property
    def is_integer(self) -> bool:
        return self.is_number and not self.is_float

    @property
    def fits_fp32(self) -> bool:
        """Whether it is a type of whole numbers, or of truth values as 0 and 1, that fp32 holds exactly."""
        return not self.is_float and not self.is_tiny and self.itemsize <= 2

    @property
    def epsilon(self) -> float:
        """Unit roundoff (half the distance from 1 to the next number); floats only."""
        return {DType.FP64: 2.0**-53, DType.FP32: 2.0**-24, DType.FP16: 2.0**-11, DType.BF16: 2.0**-8}[self]

    @staticmethod
    def of(dtype: np.dtype | type) -> DType:
        """The element type of a NumPy dtype. Raises ``KeyError`` where there is none."""
        return _FROM_NUMPY[np.dtype(dtype)]


def _extended(name: str) -> np.dtype:
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name))


_NUMPY: dict[DType, np.dtype] = {
    DType.FP64: np.dtype(np.float64),
    DType.FP32: np.dtype(np.float32),
    DType.FP16: np.dtype(np.float16),
    DType.BF16: _extended("bfloat16"),
    DType.INT64: np.dtype(np.int64),
    DType.INT32: np.dtype(np.int32),
    DType.INT16: np.dtype(np.int16),
    DType.INT8: np.dtype(np.int8),
    DType.UINT64: np.dtype(np.uint64),
    DType.UINT32: np.dtype(np.uint32),
    DType.UINT16: np.dtype(np.uint16),
    DType.UINT8: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
    DType.INT4: _extended("int4"),
    DType.UINT4: _extended("uint4"),
    DType.INT2: _extended("int2"),
    DType.UINT2: _extended("uint2"),
    DType.FP8E4M3FN: _extended("float8_e4m3fn"),
    DType.FP8E4M3FNUZ: _extended("float8_e4m3fnuz"),
    DType.FP8E5M2: _extended("float8_e5m2"),
    DType.FP8E5M2FNUZ: _extended("float8_e5m2fnuz"),
    DType.FP4E2M1: _extended("float4_e2m1fn"),
}
_FROM_NUMPY = {numpy: dtype for dtype, numpy in _NUMPY.items()}
TINY = {
    DType.INT4: (-8.0, 7.0),
    DType.UINT4: (0.0, 15.0),
    DType.INT2: (-2.0, 1.0),
    DType.UINT2: (0.0, 3.0),
    DType.FP8E4M3FN: (-448.0, 448.0),
    DType.FP8E4M3FNUZ: (-240.0, 240.0),
    DType.FP8E5M2: (-57344.0, 57344.0),
    DType.FP8E5M2FNUZ: (-57344.0, 57344.0),
    DType.FP4E2M1: (-6.0, 6.0),
}
"""The types that numbers are only kept in, with the least and the largest of each."""
TINY_INTEGERS = (DType.INT4, DType.UINT4, DType.INT2, DType.UINT2)
FLOATS = frozenset({DType.FP64, DType.FP32, DType.FP16, DType.BF16})

Shape = tuple[DimLike, ...]


@dataclass(frozen=True)
class TensorType:
    """An element type and a logical shape (ONNX order: N, C, H, W); dimensions may be symbolic."""

    dtype: DType
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        return not any(isinstance(dim, Dim) for dim in self.shape)

    @property
    def size(self) -> DimLike:
        """Number of elements."""
        return product(self.shape)

    @property
    def nbytes(self) -> DimLike:
        """Bytes of a dense tensor of this type."""
        return self.size * self.dtype.itemsize

    def substitute(self, values: Mapping[str, DimLike]) -> TensorType:
        return TensorType(self.dtype, tuple(substitute(dim, values) for dim in self.shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(dim) for dim in self.shape)}]"
