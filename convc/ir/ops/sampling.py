"""Operators that read an image at computed places: GridSample, DeformConv and RoiAlign.

The first two go through `sampled`, which reads [C, spatial] at places of any shape and interpolates. RoiAlign's places
are a grid in every cell of a region, and what it pools are the weighted neighbours of each (`_pooled`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product as places
from typing import Any

import numpy as np

from ... import errors
from ..dims import DimLike, product
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import DType, TensorType
from . import checks, windows
from .arrays import matmul, narrow, widen
from .resize import cubic

MODES = ("nearest", "linear", "cubic")
PADDINGS = ("zeros", "border", "reflection")
CUBIC_A = -0.75
"""PyTorch's coefficient, which ONNX's GridSample shares."""


def sampled(image: np.ndarray, at: np.ndarray, mode: str, padding: str = "zeros", aligned: bool = True) -> np.ndarray:
    """``image`` [C, spatial] at places ``at`` [rank, …], in elements → [C, …].

    padding: what lies outside: zeros, the nearest element of the border, or the image mirrored at its edges, which run
    through the middle of the outer elements (``aligned``) or around them.
    """
    spatial = image.shape[1:]
    if mode == "nearest":
        at = np.rint(at)  # before it is folded: halves go to the even one of the elements out there
    if padding != "zeros" and mode != "cubic":
        at = np.stack([_folded(axis, size, padding, aligned) for axis, size in zip(at, spatial, strict=True)])
    result: Any = 0.0
    per_axis = [_weights(axis, mode) for axis in at]
    for taps in places(*(range(len(weights)) for _, weights in per_axis)):
        weight: Any = 1.0
        inside = np.ones(at.shape[1:], bool)
        index = []
        for tap, (first, weights), size in zip(taps, per_axis, spatial, strict=True):
            position = first + tap
            if padding != "zeros":
                position = _folded(position.astype(np.float64), size, padding, aligned).astype(np.int64)
            inside &= (position >= 0) & (position < size)
            index.append(np.clip(position, 0, max(size - 1, 0)))
            weight = weight * weights[tap]
        values = np.where(inside, image[(slice(None), *index)], 0)
        result = result + values * np.asarray(weight, image.dtype)
    return np.asarray(result, image.dtype)


def _weights(at: np.ndarray, mode: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The first element that counts for each place, and the weights of it and those behind it."""
    if mode == "nearest":
        return at.astype(np.int64), [np.ones(at.shape)]
    base = np.floor(at)
    part = at - base
    if mode == "linear":
        return base.astype(np.int64), [1 - part, part]
    return base.astype(np.int64) - 1, [cubic(np.abs(part - tap), CUBIC_A) for tap in (-1, 0, 1, 2)]


def _folded(at: np.ndarray, size: int, padding: str, aligned: bool) -> np.ndarray:
    """Places outside brought inside: to the border, or mirrored at the edges."""
    if padding == "border":
        return np.clip(at, 0, size - 1)
    low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    span = high - low
    if span <= 0:
        return np.zeros_like(at)
    away = np.abs(at - low)
    turns, rest = np.floor(away / span), np.fmod(away, span)
    mirrored = np.where(turns % 2 == 0, low + rest, high - rest)
    return np.where((at < low) | (at > high), np.clip(mirrored, 0, size - 1), at)


# -- GridSample -------------------------------------------------------------------------------------------------------
def _infer_grid_sample(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """x[N, C, spatial], grid[N, spatial', rank] with places in -1..1, the last axis first → [N, C, spatial']."""
    op = "GridSample"
    checks.arity(op, inputs, 2)
    x, grid = inputs
    for what, type in (("an input", x), ("a grid", grid)):
        checks.floating(op, what, type.dtype)
    rank = windows.spatial_rank(op, x)
    for axis, dim in enumerate(x.shape[2:], 2):
        if dim == 0:
            raise errors.wrong_dimension(op, f"dimension {axis} of its input", ">= 1", dim)
    if grid.rank != x.rank:
        raise errors.wrong_rank(op, "a grid", f"{x.rank}, the input's", grid)
    checks.same_dimension(op, "the batch of its grid", x.shape[0], grid.shape[0])
    checks.same_dimension(op, "the last dimension of its grid", rank, grid.shape[-1])
    checks.choice(op, "mode", attributes["mode"], MODES)
    checks.choice(op, "padding_mode", attributes["padding_mode"], PADDINGS)
    checks.flag(op, "align_corners", attributes["align_corners"])
    return [TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]


def _grid_sample(attributes: Attributes, x: np.ndarray, grid: np.ndarray) -> np.ndarray:
    aligned = attributes["align_corners"]
    sizes = np.array(x.shape[2:]).reshape(-1, *(1,) * (grid.ndim - 2))
    result = np.empty((*x.shape[:2], *grid.shape[1:-1]), x.dtype)
    for image, wanted, out in zip(widen(x), widen(grid), result, strict=True):
        unit = np.moveaxis(wanted, -1, 0)[::-1] + 1
        at = unit / 2 * (sizes - 1) if aligned else (unit * sizes - 1) / 2
        out[:] = narrow(sampled(image, at, attributes["mode"], attributes["padding_mode"], aligned), x.dtype)
    return result


# -- DeformConv -------------------------------------------------------------------------------------------------------
def _infer_deform(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """x[N, C, H, W], w[K, C/groups, R, S], offset[N, G·R·S·2, P, Q], optional b[K] and mask[N, G·R·S, P, Q]."""
    op = "DeformConv"
    checks.arity(op, inputs, 3, 5)
    x, w, offset = inputs[:3]
    checks.floating(op, "inputs", checks.one_dtype(op, inputs))
    for what, type in (("an input", x), ("weights", w), ("offsets", offset), *(("a mask", m) for m in inputs[4:])):
        if type.rank != 4:
            raise errors.wrong_rank(op, what, "4", type)
    windows.check_attributes(op, attributes, 2)
    groups, shared = attributes["groups"], attributes["offset_groups"]
    windows.check_groups(op, groups, {"filters": w.shape[0]})
    windows.check_groups(op, shared, {"input channels": x.shape[1]}, "offset_groups")
    windows.check_bias(op, w.shape[0], inputs[3:4])
    checks.same_dimension(op, "weight dimension 1 (input channels / groups)", x.shape[1], w.shape[1] * groups)
    found = windows.axes(x.shape[2:], w.shape[2:], attributes)
    windows.check_fit(op, found)
    counts, taps = tuple(window.count for window in found), shared * product(w.shape[2:])
    for what, per_tap, type in (("offsets", 2, offset), *(("mask", 1, mask) for mask in inputs[4:])):
        parts = ("batch", "channels", "height", "width")
        for part, wanted, dim in zip(parts, (x.shape[0], per_tap * taps, *counts), type.shape, strict=True):
            checks.same_dimension(op, f"the {part} of its {what}", wanted, dim)
    return [TensorType(x.dtype, (x.shape[0], w.shape[0], *counts))]


def _deform_macs(attributes: Attributes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> DimLike:
    return outputs[0].size * product(inputs[1].shape[1:])


def _deform(
    attributes: Attributes,
    x: np.ndarray,
    w: np.ndarray,
    offset: np.ndarray,
    b: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Each tap reads where its offset points, bilinearly, zero outside; times its mask, then as a convolution."""
    wide, filters = widen(x), widen(w)
    groups, shared = attributes["groups"], attributes["offset_groups"]
    found = windows.axes(x.shape[2:], w.shape[2:], attributes)
    kernel, counts = w.shape[2:], tuple(window.count for window in found)
    moves = widen(offset).reshape(len(x), shared, *kernel, 2, *counts)
    factors = None if mask is None else widen(mask).reshape(len(x), shared, *kernel, *counts)
    grid = np.indices(counts).astype(np.float64)
    part = x.shape[1] // shared
    taps = np.empty((len(x), x.shape[1], *kernel, *counts), wide.dtype)
    for n, group, place in places(range(len(x)), range(shared), places(*map(range, kernel))):
        base = [grid[i] * found[i].stride - found[i].begin + place[i] * found[i].dilation for i in range(2)]
        values = sampled(wide[n, group * part : (group + 1) * part], base + moves[n, group][place], "linear")
        factor = 1 if factors is None else factors[n, group][place]
        target: tuple[Any, ...] = (n, slice(group * part, (group + 1) * part), *place)
        taps[target] = values * factor
    columns = taps.reshape(len(x), groups, math.prod(w.shape[1:]), math.prod(counts))
    rows = filters.reshape(groups, len(w) // groups, math.prod(w.shape[1:]))
    with np.errstate(all="ignore"):
        result = matmul(rows, columns).reshape(len(x), len(w), *counts)
        if b is not None:
            result = result + widen(b).reshape(-1, 1, 1)
    return narrow(result, x.dtype)


# -- RoiAlign ---------------------------------------------------------------------------------------------------------
def _infer_roi(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """x[N, C, H, W], rois[R, 4] as x1, y1, x2, y2, their images [R] → [R, C, output_height, output_width]."""
    op = "RoiAlign"
    checks.arity(op, inputs, 3)
    x, rois, images = inputs
    checks.floating(op, "inputs", checks.one_dtype(op, inputs[:2]))
    if images.dtype not in (DType.INT32, DType.INT64):
        raise errors.wrong_dtype(op, "batch indices", "int32 or int64", images.dtype)
    for what, type, rank in (("an input", x, 4), ("regions", rois, 2), ("batch indices", images, 1)):
        if type.rank != rank:
            raise errors.wrong_rank(op, what, str(rank), type)
    checks.same_dimension(op, "the last dimension of its regions", 4, rois.shape[1])
    checks.same_dimension(op, "the batch indices (one per region)", rois.shape[0], images.shape[0])
    checks.choice(op, "mode", attributes["mode"], ("avg", "max"))
    checks.flag(op, "half_pixel", attributes["half_pixel"])
    checks.finite(op, "spatial_scale", attributes["spatial_scale"])
    checks.count(op, "sampling_ratio", attributes["sampling_ratio"], 0)
    sizes = (attributes["output_height"], attributes["output_width"])
    checks.integers(op, "output_height and output_width", sizes, 2, 1)
    return [TensorType(x.dtype, (rois.shape[0], x.shape[1], *sizes))]


def _roi_align(attributes: Attributes, x: np.ndarray, rois: np.ndarray, images: np.ndarray) -> np.ndarray:
    """The mean (or maximum) over a grid of places in every cell of a region (He et al., Mask R-CNN, 2017)."""
    sizes = (attributes["output_height"], attributes["output_width"])
    result = np.zeros((len(rois), x.shape[1], *sizes), x.dtype)
    wide = widen(x)
    for roi, image, out in zip(widen(rois).astype(np.float64), images, result, strict=True):
        if not 0 <= image < len(x):
            raise errors.wrong_dimension("RoiAlign", "batch indices", f"in 0..{len(x) - 1}", int(image))
        scaled = roi * attributes["spatial_scale"] - (0.5 if attributes["half_pixel"] else 0.0)
        start, extent = scaled[1::-1], scaled[3:1:-1] - scaled[1::-1]
        if not attributes["half_pixel"]:
            extent = np.maximum(extent, 1.0)
        if not np.isfinite(extent).all():
            continue
        ratio = attributes["sampling_ratio"]
        counts = [ratio if ratio > 0 else int(np.ceil(n / size)) for n, size in zip(extent, sizes, strict=True)]
        if min(counts) > 0:
            axes = [_cell_places(start[i], extent[i] / sizes[i], sizes[i], counts[i]) for i in range(2)]
            out[:] = narrow(_pooled(wide[int(image)], axes, sizes, counts, attributes["mode"]), x.dtype)
    return result


def _cell_places(start: float, cell: float, cells: int, count: int) -> np.ndarray:
    """Places along one axis, ``count`` in every cell."""
    return start + (np.arange(cells * count) + 0.5) * cell / count


def _pooled(
    image: np.ndarray, axes: Sequence[np.ndarray], sizes: Sequence[int], counts: Sequence[int], mode: str
) -> np.ndarray:
    """The four weighted neighbours of every place, added up or each for itself, then pooled over each cell.

    The maximum is that of the weighted neighbours, not of the interpolated values, as ONNX has it.
    """
    height, width = image.shape[1:]
    outside = [(at < -1.0) | (at > size) for at, size in zip(axes, (height, width), strict=True)]
    inside = ~(outside[0][:, None] | outside[1][None, :])
    clipped = [np.clip(at, 0, size - 1) for at, size in zip(axes, (height, width), strict=True)]
    lows = [np.floor(at).astype(np.int64) for at in clipped]
    highs = [np.minimum(low + 1, size - 1) for low, size in zip(lows, (height, width), strict=True)]
    parts = [at - low for at, low in zip(clipped, lows, strict=True)]
    terms = []
    for down, across in places((False, True), (False, True)):
        rows, columns = (highs[0] if down else lows[0]), (highs[1] if across else lows[1])
        weight = np.outer(parts[0] if down else 1 - parts[0], parts[1] if across else 1 - parts[1])
        terms.append(image[:, rows][:, :, columns] * np.where(inside, weight, 0.0).astype(image.dtype))
    values = np.maximum.reduce(terms) if mode == "max" else np.add.reduce(terms)
    cells = values.reshape(len(image), sizes[0], counts[0], sizes[1], counts[1])
    return cells.max(axis=(2, 4)) if mode == "max" else cells.mean(axis=(2, 4), dtype=image.dtype)


define(
    Operator(
        "GridSample",
        Kind.OPAQUE,
        _infer_grid_sample,
        _grid_sample,
        {"mode": "linear", "padding_mode": "zeros", "align_corners": False},
    )
)
define(
    Operator(
        "DeformConv",
        Kind.OPAQUE,
        _infer_deform,
        _deform,
        {"strides": REQUIRED, "pads": REQUIRED, "dilations": REQUIRED, "groups": 1, "offset_groups": 1},
        _deform_macs,
    )
)
define(
    Operator(
        "RoiAlign",
        Kind.OPAQUE,
        _infer_roi,
        _roi_align,
        {
            "output_height": REQUIRED,
            "output_width": REQUIRED,
            "sampling_ratio": 0,
            "spatial_scale": 1.0,
            "mode": "avg",
            "half_pixel": True,
        },
    )
)
