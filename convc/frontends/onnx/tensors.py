"""From a TensorProto to an array: sizes are checked in exact integers before anything is allocated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from convc import errors
from convc.ir.types import DType

from . import limits
from .external import read_external

DTYPES: dict[int, DType] = {
    TensorProto.FLOAT: DType.FP32,
    TensorProto.DOUBLE: DType.FP64,
    TensorProto.FLOAT16: DType.FP16,
    TensorProto.BFLOAT16: DType.BF16,
    TensorProto.INT8: DType.INT8,
    TensorProto.INT16: DType.INT16,
    TensorProto.INT32: DType.INT32,
    TensorProto.INT64: DType.INT64,
    TensorProto.UINT8: DType.UINT8,
    TensorProto.UINT16: DType.UINT16,
    TensorProto.UINT32: DType.UINT32,
    TensorProto.UINT64: DType.UINT64,
    TensorProto.BOOL: DType.BOOL,
    TensorProto.INT4: DType.INT4,
    TensorProto.UINT4: DType.UINT4,
    TensorProto.INT2: DType.INT2,
    TensorProto.UINT2: DType.UINT2,
    TensorProto.FLOAT8E4M3FN: DType.FP8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ: DType.FP8E4M3FNUZ,
    TensorProto.FLOAT8E5M2: DType.FP8E5M2,
    TensorProto.FLOAT8E5M2FNUZ: DType.FP8E5M2FNUZ,
    TensorProto.FLOAT4E2M1: DType.FP4E2M1,
}
_PER_BYTE = {
    **dict.fromkeys((DType.INT4, DType.UINT4, DType.FP4E2M1), 2),
    **dict.fromkeys((DType.INT2, DType.UINT2), 4),
}
"""Elements that share a byte, the first in its lowest bits."""
TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_FIELD_OF: dict[DType, str] = {
    DType.FP32: "float_data",
    DType.FP64: "double_data",
    DType.INT64: "int64_data",
    DType.UINT32: "uint64_data",
    DType.UINT64: "uint64_data",
}
_BITS = (DType.FP16, DType.BF16)


def type_name(code: int) -> str:
    """ONNX's name of an element type, or its number."""
    return TensorProto.DataType.Name(code) if code in TensorProto.DataType.values() else str(code)


def checked_shape(name: str, dims: list[int], dtype: DType) -> tuple[int, ...]:
    """The shape of a tensor, refused where it is negative or too large."""
    if any(dim < 0 for dim in dims):
        raise errors.tensor_negative_size(name, dims)
    if len(dims) > limits.RANK:
        raise errors.too_many(f"dimensions in tensor {name!r}", len(dims), limits.RANK)
    nbytes = math.prod(dims) * dtype.itemsize
    if nbytes > limits.TENSOR_BYTES:
        raise errors.tensor_too_large(dims, nbytes, limits.TENSOR_BYTES)
    return tuple(dims)


def array_of(tensor: TensorProto, base: Path | None, raw: memoryview | None = None) -> np.ndarray:
    """The data of ``tensor``, read-only where it can be a view.

    base: the folder of the model file, for external data; None where the model has no file. raw: the raw data, where
    the file reader left it out of the message.

    Raises:
        LoadError: data that contradicts shape or element type, or external data that is refused.
        LimitError: a tensor past the budget.
    """
    name = tensor.name
    if tensor.data_type not in DTYPES:
        raise errors.element_type(name, type_name(tensor.data_type))
    if tensor.HasField("segment"):
        raise errors.tensor_segmented(name)
    dtype = DTYPES[tensor.data_type]
    shape = checked_shape(name, list(tensor.dims), dtype)
    fields = [field for field in TYPED_FIELDS if len(getattr(tensor, field))]
    has_raw = raw is not None or tensor.HasField("raw_data")
    if tensor.data_location == TensorProto.EXTERNAL:
        if fields or has_raw:
            raise errors.tensor_two_payloads(name)
        return _viewed(read_external(tensor, base, _payload(shape, dtype)), dtype, shape)
    if len(fields) + has_raw > 1:
        raise errors.tensor_two_payloads(name)
    if has_raw:
        return _from_raw(name, tensor.raw_data if raw is None else raw, dtype, shape)
    return _from_typed(tensor, fields, dtype, shape)


def _from_raw(name: str, data: bytes | memoryview, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    expected = _payload(shape, dtype)
    if len(data) != expected:
        raise errors.payload_length(name, len(data), expected, "bytes")
    return _viewed(data, dtype, shape)


def _payload(shape: tuple[int, ...], dtype: DType) -> int:
    """Bytes of a tensor in a file."""
    return -(-math.prod(shape) // _PER_BYTE.get(dtype, 1)) * dtype.itemsize


def _viewed(data: bytes | bytearray | memoryview, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """The elements of a tensor's bytes in a file, without a copy where each has bytes of its own."""
    if dtype is DType.BOOL:
        return (np.frombuffer(data, np.uint8) != 0).reshape(shape)
    if dtype not in _PER_BYTE:
        return np.frombuffer(data, dtype.numpy).reshape(shape)
    shared = _PER_BYTE[dtype]
    bits = 8 // shared
    parts = np.frombuffer(data, np.uint8)[:, None] >> (np.arange(shared, dtype=np.uint8) * bits) & (2**bits - 1)
    codes = parts.reshape(-1)[: math.prod(shape)]
    if dtype is DType.FP4E2M1:
        return codes.view(dtype.numpy).reshape(shape)
    sign = 2 ** (bits - 1) if dtype in (DType.INT4, DType.INT2) else 0
    return ((codes.astype(np.int8) ^ sign) - sign).astype(dtype.numpy).reshape(shape)


def _from_typed(tensor: TensorProto, fields: list[str], dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    field = _FIELD_OF.get(dtype, "int32_data")
    if fields and fields[0] != field:
        raise errors.tensor_other_field(tensor.name, fields[0], field)
    values = getattr(tensor, field)
    if dtype.is_tiny:
        return _from_codes(tensor.name, values, dtype, shape)
    if len(values) != math.prod(shape):
        raise errors.payload_length(tensor.name, len(values), math.prod(shape), "elements")
    wide = np.array(values, dtype=np.float64 if dtype in (DType.FP32, DType.FP64) else None).reshape(shape)
    if (dtype.is_float and dtype not in _BITS) or dtype is DType.BOOL:
        return wide.astype(dtype.numpy)
    target = np.dtype(np.uint16) if dtype in _BITS else dtype.numpy
    bounds = np.iinfo(target)
    if wide.size and (int(wide.min()) < bounds.min or int(wide.max()) > bounds.max):
        raise errors.tensor_out_of_range(tensor.name, dtype)
    narrow = wide.astype(target)
    return narrow.view(dtype.numpy) if dtype in _BITS else narrow


def _from_codes(name: str, values: Sequence[int], dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Elements of a byte and less, whose bytes are numbers of their own."""
    if len(values) != _payload(shape, dtype):
        raise errors.payload_length(name, len(values), _payload(shape, dtype), "bytes")
    if values and not 0 <= min(values) <= max(values) <= 255:
        raise errors.tensor_out_of_range(name, dtype)
    return _viewed(bytes(values), dtype, shape)


def dense(sparse: onnx.SparseTensorProto, base: Path | None) -> np.ndarray:
    """A sparse tensor written out in full.

    Raises:
        LoadError: indices outside the shape, or of the wrong shape.
    """
    name = sparse.values.name
    values, indices = array_of(sparse.values, base), array_of(sparse.indices, base)
    shape = checked_shape(name, list(sparse.dims), DType.of(values.dtype))
    fits = values.ndim == 1 and indices.shape in ((len(values),), (len(values), len(shape)))
    if not fits or indices.dtype != np.int64:
        raise errors.sparse_indices(name, indices.shape)
    size = math.prod(shape)
    if size * values.itemsize > limits.FOLDED_BYTES:
        raise errors.tensor_too_large(shape, size * values.itemsize, limits.FOLDED_BYTES)
    bound = np.array([size]) if indices.ndim == 1 else np.array(shape)
    if ((indices < 0) | (indices >= bound)).any():
        raise errors.sparse_outside(name)
    full = np.zeros(shape, values.dtype)
    places = (indices,) if indices.ndim == 1 else (np.ravel_multi_index(tuple(indices.T), shape),)
    full.reshape(-1)[places[0]] = values
    return full
