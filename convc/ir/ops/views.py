"""Operators that show the same elements under another shape or order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import errors
from ..dims import DimLike, product
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import TensorType
from . import checks


def _infer_reshape(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """``shape`` is complete: no -1 and no 0 that would mean "as before"."""
    checks.arity("Reshape", inputs, 1)
    x, shape = inputs[0], attributes["shape"]
    checks.dimensions("Reshape", "shape", shape)
    if checks.conflict(x.size, product(shape)):
        raise errors.elements_differ("Reshape", x.shape, shape)
    return [TensorType(x.dtype, shape)]


def _infer_transpose(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Output axis i is input axis ``perm[i]``."""
    checks.arity("Transpose", inputs, 1)
    x, perm = inputs[0], attributes["perm"]
    integers = isinstance(perm, tuple) and all(map(checks.is_integer, perm))
    if not integers or sorted(perm) != list(range(x.rank)):
        raise errors.wrong_attribute("Transpose", "perm", f"a permutation of 0..{x.rank - 1}", perm)
    return [TensorType(x.dtype, tuple(x.shape[axis] for axis in perm))]


def _infer_slice(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Output index i on an axis is input index ``start + i * step``; steps may be negative, never zero."""
    checks.arity("Slice", inputs, 1)
    x = inputs[0]
    starts, sizes, steps = attributes["starts"], attributes["sizes"], attributes["steps"]
    checks.dimensions("Slice", "starts", starts, x.rank)
    checks.dimensions("Slice", "sizes", sizes, x.rank)
    checks.integers("Slice", "steps", steps, x.rank, None)
    if 0 in steps:
        raise errors.wrong_attribute("Slice", "steps", "other than 0", steps)
    for axis in range(x.rank):
        _check_range(axis, starts[axis], sizes[axis], steps[axis], x.shape[axis])
    return [TensorType(x.dtype, sizes)]


def _check_range(axis: int, start: DimLike, size: DimLike, step: int, extent: DimLike) -> None:
    if size == 0:
        return
    for index in (start, start + (size - 1) * step):
        room = extent - 1 - index
        if (isinstance(index, int) and index < 0) or (isinstance(room, int) and room < 0):
            raise errors.slice_outside("Slice", axis, start, size, step, extent)


def _slice(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    index = []
    for start, size, step in zip(attributes["starts"], attributes["sizes"], attributes["steps"], strict=True):
        stop = start + size * step
        index.append(slice(start, stop if stop >= 0 else None, step) if size else slice(0, 0))
    return x[tuple(index)]


def _infer_expand(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Broadcasts to ``shape``, which is the whole shape of the result."""
    checks.arity("Expand", inputs, 1)
    x, shape = inputs[0], attributes["shape"]
    checks.dimensions("Expand", "shape", shape)
    if x.rank > len(shape):
        raise errors.not_broadcastable("Expand", [x.shape, shape])
    for dim, wanted in zip(reversed(x.shape), reversed(shape), strict=False):
        if dim != 1 and checks.conflict(dim, wanted):
            raise errors.not_broadcastable("Expand", [x.shape, shape])
    return [TensorType(x.dtype, shape)]


define(
    Operator(
        "Reshape",
        Kind.VIEW,
        _infer_reshape,
        lambda attributes, x: x.reshape(attributes["shape"]),
        {"shape": REQUIRED},
    )
)
define(
    Operator(
        "Transpose",
        Kind.VIEW,
        _infer_transpose,
        lambda attributes, x: x.transpose(attributes["perm"]),
        {"perm": REQUIRED},
    )
)
define(Operator("Slice", Kind.VIEW, _infer_slice, _slice, {"starts": REQUIRED, "sizes": REQUIRED, "steps": REQUIRED}))
define(
    Operator(
        "Expand",
        Kind.VIEW,
        _infer_expand,
        lambda attributes, x: np.broadcast_to(x, attributes["shape"]),
        {"shape": REQUIRED},
    )
)
