"""Matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import errors
from ..dims import DimLike
from ..operator import Attributes, Kind, Operator, define
from ..types import DType, Shape, TensorType
from . import checks
from .arrays import matmul, narrow, widen


def _check_dtype(op: str, inputs: Sequence[TensorType]) -> DType:
    dtype = checks.one_dtype(op, inputs)
    if not dtype.is_number:
        raise errors.wrong_dtype(op, "inputs", "a number", dtype)
    return dtype


def _infer_matmul(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """a[..., M, D], b[..., D, N] → [..., M, N]; vectors and broadcasting as `numpy.matmul` has them."""
    checks.arity("MatMul", inputs, 2)
    return [TensorType(_check_dtype("MatMul", inputs), product_shape("MatMul", *inputs))]


def product_shape(op: str, a: TensorType, b: TensorType) -> Shape:
    """The shape of a matrix product of any element type."""
    if not a.rank or not b.rank:
        raise errors.wrong_rank(op, "inputs", "1 or more", f"{a} and {b}")
    left: Shape = a.shape if a.rank > 1 else (1, *a.shape)
    right: Shape = b.shape if b.rank > 1 else (*b.shape, 1)
    checks.same_dimension(op, "the rows of its second input", left[-1], right[-2])
    batch = checks.broadcast(op, [left[:-2], right[:-2]])
    rows, columns = left[-2:-1] * (a.rank > 1), right[-1:] * (b.rank > 1)
    return (*batch, *rows, *columns)


def product_macs(attributes: Attributes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> DimLike:
    return outputs[0].size * inputs[0].shape[-1]


def _matmul(attributes: Attributes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return narrow(matmul(widen(a), widen(b)), a.dtype)


def _infer_gemm(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """alpha·a·b + beta·c with a[M, D], b[D, N] (each transposed where its flag says so), c broadcast to [M, N]."""
    checks.arity("Gemm", inputs, 2, 3)
    dtype = _check_dtype("Gemm", inputs[:2])
    for name in ("alpha", "beta"):
        checks.number("Gemm", name, attributes[name])
    for name in ("trans_a", "trans_b"):
        checks.flag("Gemm", name, attributes[name])
    for what, type in (("a first input", inputs[0]), ("a second input", inputs[1])):
        if type.rank != 2:
            raise errors.wrong_rank("Gemm", what, "2", type)
    rows, depth = inputs[0].shape[:: -1 if attributes["trans_a"] else 1]
    height, columns = inputs[1].shape[:: -1 if attributes["trans_b"] else 1]
    checks.same_dimension("Gemm", "the rows of its second input", depth, height)
    _check_addend((rows, columns), dtype, inputs[2:])
    return [TensorType(dtype, (rows, columns))]


def _check_addend(shape: Shape, dtype: DType, addends: Sequence[TensorType]) -> None:
    for c in addends:
        if c.dtype is not dtype and not (c.dtype.is_float and dtype.is_float):
            raise errors.dtypes_differ("Gemm", [dtype, c.dtype])
        full = checks.broadcast("Gemm", [shape, c.shape])
        if len(full) != 2 or any(checks.conflict(dim, wanted) for dim, wanted in zip(full, shape, strict=True)):
            raise errors.not_broadcastable("Gemm", [shape, c.shape])


def _gemm_macs(attributes: Attributes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> DimLike:
    return outputs[0].size * inputs[0].shape[0 if attributes["trans_a"] else 1]


def _gemm(attributes: Attributes, a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
    left = widen(a).T if attributes["trans_a"] else widen(a)
    right = widen(b).T if attributes["trans_b"] else widen(b)
    with np.errstate(all="ignore"):
        result = matmul(left, right)
        if attributes["alpha"] != 1:
            result = result * attributes["alpha"]
        if c is not None:
            addend = c.astype(left.dtype)
            result = result + (addend if attributes["beta"] == 1 else addend * attributes["beta"])
    return narrow(result, a.dtype)


define(Operator("MatMul", Kind.CONTRACTION, _infer_matmul, _matmul, macs=product_macs))
define(
    Operator(
        "Gemm",
        Kind.CONTRACTION,
        _infer_gemm,
        _gemm,
        {"alpha": 1.0, "beta": 1.0, "trans_a": False, "trans_b": False},
        _gemm_macs,
    )
)
