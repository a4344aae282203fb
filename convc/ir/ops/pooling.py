"""Maximum and average pooling of rank 1 to 3."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, InferTypes, Kind, Operator, define
from ..types import DType, TensorType
from . import checks, windows
from .arrays import lowest, narrow, widen


def _infer(op: str, integers: bool) -> InferTypes:
    def infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
        """x[N, C, spatial] → [N, C, windows]."""
        checks.arity(op, inputs, 1)
        x = inputs[0]
        if not (integers and x.dtype.is_number):
            checks.floating(op, "an input", x.dtype)
        found = _windows(op, attributes, x)
        return [TensorType(x.dtype, (*x.shape[:2], *(window.count for window in found)))]

    return infer


def _windows(op: str, attributes: Attributes, x: TensorType) -> list[windows.Axis]:
    rank = windows.spatial_rank(op, x)
    checks.integers(op, "kernel_shape", attributes["kernel_shape"], rank, 1)
    windows.check_attributes(op, attributes, rank)
    for name in ("ceil_mode", "count_include_pad"):
        checks.flag(op, name, attributes.get(name, False))
    found = windows.axes(x.shape[2:], attributes["kernel_shape"], attributes)
    if any(max(window.begin, window.end) >= window.span for window in found):
        raise errors.wrong_attribute(op, "pads", "smaller than the window", attributes["pads"])
    windows.check_fit(op, found)
    return found


def _max_pool(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """The largest element of each window; NaN where it holds one; padding never wins."""
    wide = widen(x)
    found = windows.axes(x.shape[2:], attributes["kernel_shape"], attributes)
    wide = windows.padded(wide, found, lowest(wide.dtype))
    result: np.ndarray | None = None
    for _, index in windows.taps(found):
        tap = wide[index]
        result = tap.copy() if result is None else np.maximum(result, tap, out=result)
    assert result is not None
    return narrow(result, x.dtype)


def _infer_places(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """int64, of the shape of the pooling's result."""
    checks.flag("MaxPoolIndices", "column_major", attributes["column_major"])
    [pooled] = _infer("MaxPoolIndices", integers=True)(attributes, inputs)
    return [TensorType(DType.INT64, pooled.shape)]


def _max_places(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """Where in the whole tensor each window's largest element lies, the first of equals; NaN is the largest."""
    found = windows.axes(x.shape[2:], attributes["kernel_shape"], attributes)
    values = windows.padded(widen(x), found, lowest(widen(x).dtype))
    spatial = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:], order="F" if attributes["column_major"] else "C")
    places = windows.padded(spatial, found, -1)
    best: np.ndarray | None = None
    for _, index in windows.taps(found):
        tap, place = values[index], np.broadcast_to(places[index], values[index].shape)
        if best is None:
            best, chosen = tap.copy(), place.copy()
            continue
        larger = ((tap > best) | (np.isnan(tap) & ~np.isnan(best)) | (chosen < 0)) & (place >= 0)
        best, chosen = np.where(larger, tap, best), np.where(larger, place, chosen)
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2] + (1,) * len(found)) * spatial.size
    return (planes + chosen).astype(np.int64)


def _average_pool(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """The mean of each window, over its elements inside the input (or the padded input: ``count_include_pad``)."""
    wide = widen(x)
    found = windows.axes(x.shape[2:], attributes["kernel_shape"], attributes)
    wide = windows.padded(wide, found, 0)
    total: np.ndarray | None = None
    for _, index in windows.taps(found):
        tap = wide[index]
        total = tap.copy() if total is None else np.add(total, tap, out=total)
    assert total is not None
    with np.errstate(all="ignore"):
        return narrow(total / _elements(found, attributes["count_include_pad"]).astype(wide.dtype), x.dtype)


def _elements(found: Sequence[windows.Axis], include_pad: bool) -> np.ndarray:
    """How many elements each window averages, shaped like the windows."""
    counts = np.ones((), np.int64)
    for window in found:
        starts = np.arange(window.count) * window.stride - window.begin
        positions = starts[:, None] + np.arange(window.kernel) * window.dilation
        low, high = (-window.begin, window.extent + window.end) if include_pad else (0, window.extent)
        counts = np.multiply.outer(counts, ((positions >= low) & (positions < high)).sum(axis=1))
    return counts


_ATTRIBUTES = {"kernel_shape": REQUIRED, "strides": REQUIRED, "pads": REQUIRED, "dilations": REQUIRED}

define(
    Operator("MaxPool", Kind.WINDOW, _infer("MaxPool", integers=True), _max_pool, {**_ATTRIBUTES, "ceil_mode": False})
)
define(
    Operator(
        "AveragePool",
        Kind.WINDOW,
        _infer("AveragePool", integers=False),
        _average_pool,
        {**_ATTRIBUTES, "ceil_mode": False, "count_include_pad": False},
    )
)
define(
    Operator(
        "MaxPoolIndices",
        Kind.WINDOW,
        _infer_places,
        _max_places,
        {**_ATTRIBUTES, "ceil_mode": False, "column_major": False},
    )
)
