"""Reductions along axes: one row of data each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, InferTypes, Kind, Operator, Reference, define
from ..types import DType, TensorType
from . import checks
from .arrays import highest, lowest, narrow, widen

Reduce = Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
"""(array, axes) → array in which the axes have length 1."""


def _infer(op: str) -> InferTypes:
    def infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
        """The input's type with ``axes`` of length 1 (``keepdims``) or without them."""
        checks.arity(op, inputs, 1)
        x, axes = inputs[0], attributes["axes"]
        if not x.dtype.is_number and not (x.dtype is DType.BOOL and op in ("ReduceMax", "ReduceMin")):
            raise errors.wrong_dtype(op, "an input", "a number", x.dtype)
        checks.flag(op, "keepdims", attributes["keepdims"])
        inside = isinstance(axes, tuple) and all(checks.is_integer(axis) and 0 <= axis < x.rank for axis in axes)
        if not inside or list(axes) != sorted(set(axes)):
            raise errors.wrong_attribute(op, "axes", f"distinct axes in 0..{x.rank - 1} in order", axes)
        kept = (1,) if attributes["keepdims"] else ()
        dims = ((dim,) if axis not in axes else kept for axis, dim in enumerate(x.shape))
        return [TensorType(x.dtype, tuple(dim for group in dims for dim in group))]

    return infer


def _reference(reduce: Reduce) -> Reference:
    def reference(attributes: Attributes, x: np.ndarray) -> np.ndarray:
        axes = attributes["axes"]
        with np.errstate(all="ignore"):
            result = narrow(reduce(widen(x), axes), x.dtype)
        return result if attributes["keepdims"] else result.squeeze(axes)

    return reference


def _sum(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return x.sum(axis=axes, keepdims=True, dtype=x.dtype)


def _mean(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    count = int(np.prod([x.shape[axis] for axis in axes]))
    return _sum(x, axes) / count


def _log_sum_exp(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Shifted by the maximum, which keeps the exponentials from overflowing; an infinite maximum needs no shift."""
    largest = x.max(axis=axes, keepdims=True, initial=lowest(x.dtype))
    shift = np.where(np.isfinite(largest), largest, 0)
    return np.log(_sum(np.exp(x - shift), axes)) + shift


_ROWS: dict[str, Reduce] = {
    "ReduceSum": _sum,
    "ReduceMean": _mean,
    "ReduceMax": lambda x, axes: x.max(axis=axes, keepdims=True, initial=lowest(x.dtype)),
    "ReduceMin": lambda x, axes: x.min(axis=axes, keepdims=True, initial=highest(x.dtype)),
    "ReduceProd": lambda x, axes: x.prod(axis=axes, keepdims=True, dtype=x.dtype),
    "ReduceL1": lambda x, axes: _sum(np.abs(x), axes),
    "ReduceL2": lambda x, axes: np.sqrt(_sum(np.square(x), axes)),
    "ReduceSumSquare": lambda x, axes: _sum(np.square(x), axes),
    "ReduceLogSum": lambda x, axes: np.log(_sum(x, axes)),
    "ReduceLogSumExp": _log_sum_exp,
}

for _name, _reduce in _ROWS.items():
    define(Operator(_name, Kind.REDUCTION, _infer(_name), _reference(_reduce), {"axes": REQUIRED, "keepdims": True}))
