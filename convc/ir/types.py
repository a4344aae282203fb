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
    def fits_fp32(self) -> bool:
        """Whether it is a type of whole numbers, or of truth values as 0 and 1, that fp32 holds exactly."""
        return not self.is_float and self.itemsize <= 2

    @property
    def epsilon(self) -> float:
        """Unit roundoff (half the distance from 1 to the next number); floats only."""
        return {DType.FP64: 2.0**-53, DType.FP32: 2.0**-24, DType.FP16: 2.0**-11, DType.BF16: 2.0**-8}[self]

    @staticmethod
    def of(dtype: np.dtype | type) -> DType:
        """The element type of a NumPy dtype. Raises ``KeyError`` where there is none."""
        return _FROM_NUMPY[np.dtype(dtype)]


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


_NUMPY: dict[DType, np.dtype] = {
    DType.FP64: np.dtype(np.float64),
    DType.FP32: np.dtype(np.float32),
    DType.FP16: np.dtype(np.float16),
    DType.BF16: _bfloat16(),
    DType.INT64: np.dtype(np.int64),
    DType.INT32: np.dtype(np.int32),
    DType.INT16: np.dtype(np.int16),
    DType.INT8: np.dtype(np.int8),
    DType.UINT64: np.dtype(np.uint64),
    DType.UINT32: np.dtype(np.uint32),
    DType.UINT16: np.dtype(np.uint16),
    DType.UINT8: np.dtype(np.uint8),
    DType.BOOL: np.dtype(np.bool_),
}
_FROM_NUMPY = {numpy: dtype for dtype, numpy in _NUMPY.items()}
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
