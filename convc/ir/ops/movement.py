"""Operators that copy elements: concatenation, padding and gathering."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import errors
from ..dims import DimLike
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import DType, TensorType
from . import checks

PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _infer_concat(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Tensors that are alike but for the dimension ``axis``, one after the other."""
    if not inputs:
        raise errors.wrong_input_count("Concat", "1 or more", 0)
    dtype, rank, axis = checks.one_dtype("Concat", inputs), inputs[0].rank, attributes["axis"]
    checks.axis("Concat", "axis", axis, rank)
    shape = list(inputs[0].shape)
    for type in inputs[1:]:
        if type.rank != rank:
            raise errors.wrong_rank("Concat", "inputs", f"{rank}, the first input's", type)
        for i, dim in enumerate(type.shape):
            if i == axis:
                shape[i] = shape[i] + dim
                continue
            checks.same_dimension("Concat", f"dimension {i} of every input", shape[i], dim)
            shape[i] = checks.known(shape[i], dim)
    return [TensorType(dtype, tuple(shape))]


def _infer_pad(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Borders of ``pads`` elements: the begins of all axes, then the ends."""
    checks.arity("Pad", inputs, 1)
    x, pads, mode = inputs[0], attributes["pads"], attributes["mode"]
    checks.integers("Pad", "pads", pads, 2 * x.rank, 0)
    checks.choice("Pad", "mode", mode, PAD_MODES)
    if x.dtype.is_tiny:
        raise errors.wrong_dtype("Pad", "an input", "8 bits or more that is computed with", x.dtype)
    checks.number("Pad", "value", attributes["value"])
    if x.dtype.is_integer and not _holds(x.dtype, attributes["value"]):
        raise errors.wrong_attribute("Pad", "value", f"a number of {x.dtype}", attributes["value"])
    for axis, dim in enumerate(x.shape):
        _check_border(mode, axis, dim, max(pads[axis], pads[x.rank + axis]))
    return [TensorType(x.dtype, tuple(dim + pads[i] + pads[x.rank + i] for i, dim in enumerate(x.shape)))]


def _holds(dtype: DType, value: float) -> bool:
    """Whether a number is one of a type of integers."""
    bounds = np.iinfo(dtype.numpy)
    return math.isfinite(value) and value == int(value) and bounds.min <= int(value) <= bounds.max


def _check_border(mode: str, axis: int, dim: DimLike, border: int) -> None:
    """Reflection does not repeat the edge, so it reaches at most ``dim - 1`` far; an edge needs an element."""
    needed = {"constant": 0, "reflect": border + 1, "edge": 1, "wrap": 1}[mode]
    if border and isinstance(dim, int) and dim < needed:
        raise errors.wrong_dimension("Pad", f"dimension {axis} (mode {mode}, border {border})", f">= {needed}", dim)


def _pad(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    begins, ends = attributes["pads"][: x.ndim], attributes["pads"][x.ndim :]
    borders = list(zip(begins, ends, strict=True))
    if attributes["mode"] != "constant":
        return np.pad(x, borders, mode=attributes["mode"])
    return np.pad(x, borders, constant_values=_fill(attributes["value"], x.dtype))


def _fill(value: float, dtype: np.dtype) -> Any:
    return int(value) if dtype.kind in "iuO" else np.asarray(value).astype(dtype)


def _infer_gather(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """data and integer indices: the indices' shape stands in place of dimension ``axis`` of the data."""
    checks.arity("Gather", inputs, 2)
    data, indices = inputs
    checks.axis("Gather", "axis", attributes["axis"], data.rank)
    if indices.dtype not in (DType.INT32, DType.INT64):
        raise errors.wrong_dtype("Gather", "indices", "int32 or int64", indices.dtype)
    axis = attributes["axis"]
    return [TensorType(data.dtype, (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]))]


def _gather(attributes: Attributes, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Negative indices count from the end."""
    axis = attributes["axis"]
    extent = data.shape[axis]
    positions = np.asarray(indices).astype(np.int64)
    outside = positions[(positions < -extent) | (positions >= extent)]
    if outside.size:
        raise errors.index_outside("Gather", axis, extent, int(outside.flat[0]))
    return np.asarray(np.take(data, positions, axis=axis))


define(
    Operator(
        "Concat",
        Kind.MOVEMENT,
        _infer_concat,
        lambda attributes, *arrays: np.concatenate(arrays, axis=attributes["axis"]),
        {"axis": REQUIRED},
    )
)
define(Operator("Pad", Kind.MOVEMENT, _infer_pad, _pad, {"pads": REQUIRED, "mode": "constant", "value": 0.0}))
define(Operator("Gather", Kind.MOVEMENT, _infer_gather, _gather, {"axis": REQUIRED}))
