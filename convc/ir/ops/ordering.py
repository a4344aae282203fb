"""Operators that compare along an axis or run along it: positions of extremes, the largest k, running sums.

An operator has one output here: what ONNX's TopK gives at once are two operators, and so are a maximum pooling and
the places of its maxima.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, InferTypes, Kind, Operator, Reference, define
from ..types import DType, TensorType
from . import checks
from .arrays import narrow, widen


def _numeric(op: str, attributes: Attributes, inputs: Sequence[TensorType]) -> TensorType:
    checks.arity(op, inputs, 1)
    x = inputs[0]
    if not x.dtype.is_number:
        raise errors.wrong_dtype(op, "an input", "a number", x.dtype)
    checks.axis(op, "axis", attributes["axis"], x.rank)
    return x


# -- positions of extremes --------------------------------------------------------------------------------------------
def _infer_extreme(op: str) -> InferTypes:
    def infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
        """int64 positions: the axis of length 1 (``keepdims``) or gone."""
        x, axis = _numeric(op, attributes, inputs), attributes["axis"]
        for name in ("keepdims", "last"):
            checks.flag(op, name, attributes[name])
        if x.shape[axis] == 0:
            raise errors.wrong_dimension(op, f"dimension {axis}", ">= 1", 0)
        kept = (1,) if attributes["keepdims"] else ()
        return [TensorType(DType.INT64, (*x.shape[:axis], *kept, *x.shape[axis + 1 :]))]

    return infer


def _extreme(find: Callable[..., np.ndarray]) -> Reference:
    def reference(attributes: Attributes, x: np.ndarray) -> np.ndarray:
        """The first of equals, or the ``last``."""
        axis = attributes["axis"]
        if attributes["last"]:
            found = x.shape[axis] - 1 - find(np.flip(x, axis), axis=axis, keepdims=attributes["keepdims"])
        else:
            found = find(x, axis=axis, keepdims=attributes["keepdims"])
        return np.asarray(found, np.int64)

    return reference


# -- the largest k ----------------------------------------------------------------------------------------------------
def _infer_top(op: str, dtype: DType | None) -> InferTypes:
    def infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
        """The ``k`` largest (or smallest) along an axis, in order."""
        x, axis, k = _numeric(op, attributes, inputs), attributes["axis"], attributes["k"]
        checks.flag(op, "largest", attributes["largest"])
        checks.dimensions(op, "k", (k,), 1)
        extent = x.shape[axis]
        if isinstance(extent, int) and isinstance(k, int) and k > extent:
            raise errors.wrong_attribute(op, "k", f"at most {extent}, the size of axis {axis}", k)
        return [TensorType(dtype or x.dtype, (*x.shape[:axis], k, *x.shape[axis + 1 :]))]

    return infer


def _positions(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """Of equals the one with the lower index comes first."""
    axis, wide = attributes["axis"], widen(x)
    if attributes["largest"]:
        wide = -wide if wide.dtype.kind == "f" else ~wide  # reverses the order; an integer's complement never overflows
    order = np.argsort(wide, axis=axis, kind="stable")
    return np.take(order, np.arange(attributes["k"]), axis=axis).astype(np.int64)


def _values(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, _positions(attributes, x), axis=attributes["axis"])


# -- running along an axis --------------------------------------------------------------------------------------------
def _infer_running(op: str) -> InferTypes:
    def infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
        x = _numeric(op, attributes, inputs)
        for name in ("exclusive", "reverse"):
            checks.flag(op, name, attributes[name])
        return [x]

    return infer


def _running(accumulate: Callable[..., np.ndarray], neutral: int) -> Reference:
    def reference(attributes: Attributes, x: np.ndarray) -> np.ndarray:
        """Of all elements up to this one; ``exclusive``: without it; ``reverse``: from the end."""
        axis = attributes["axis"]
        wide = np.flip(widen(x), axis) if attributes["reverse"] else widen(x)
        with np.errstate(all="ignore"):
            result = accumulate(wide, axis=axis, dtype=wide.dtype)
        if attributes["exclusive"] and x.shape[axis]:
            first = np.full_like(np.take(wide, [0], axis=axis), neutral)
            result = np.concatenate([first, np.take(result, np.arange(x.shape[axis] - 1), axis=axis)], axis=axis)
        return narrow(np.flip(result, axis) if attributes["reverse"] else result, x.dtype)

    return reference


for _name, _find in (("ArgMax", np.argmax), ("ArgMin", np.argmin)):
    define(
        Operator(
            _name,
            Kind.OPAQUE,
            _infer_extreme(_name),
            _extreme(_find),
            {"axis": REQUIRED, "keepdims": True, "last": False},
        )
    )
for _name, _reference, _dtype in (("TopK", _values, None), ("TopKIndices", _positions, DType.INT64)):
    define(
        Operator(
            _name,
            Kind.OPAQUE,
            _infer_top(_name, _dtype),
            _reference,
            {"axis": REQUIRED, "k": REQUIRED, "largest": True},
        )
    )
for _name, _accumulate, _neutral in (("CumSum", np.cumsum, 0), ("CumProd", np.cumprod, 1)):
    define(
        Operator(
            _name,
            Kind.OPAQUE,
            _infer_running(_name),
            _running(_accumulate, _neutral),
            {"axis": REQUIRED, "exclusive": False, "reverse": False},
        )
    )
