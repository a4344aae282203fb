"""Convolution of rank 1 to 3 with strides, dilations, zero padding and groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import errors
from ..dims import DimLike, product
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import Shape, TensorType
from . import checks, windows
from .arrays import matmul, narrow, widen

PATCH_BYTES = 1 << 23
"""Patches are gathered and multiplied in blocks of about this size, which stay in the last-level cache."""


def _infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """x[N, C, spatial], w[K, C/groups, kernel], optional b[K] → [N, K, windows]; b may be wider than x."""
    checks.arity("Conv", inputs, 2, 3)
    checks.floating("Conv", "inputs", checks.one_dtype("Conv", inputs[:2]))
    return [TensorType(inputs[0].dtype, output_shape("Conv", attributes, inputs))]


def output_shape(op: str, attributes: Attributes, inputs: Sequence[TensorType], whole: bool = False) -> Shape:
    """The shape of a convolution, of integers where it is ``whole``."""
    x, w = inputs[:2]
    rank = windows.spatial_rank(op, x)
    windows.check_attributes(op, attributes, rank)
    if w.rank != x.rank:
        raise errors.wrong_rank(op, "weights", f"{x.rank}, the input's", w)
    groups = attributes["groups"]
    windows.check_groups(op, groups, {"input channels": x.shape[1], "filters": w.shape[0]})
    expected = x.shape[1] // groups
    checks.same_dimension(op, f"weight dimension 1 (input channels / {groups} groups)", expected, w.shape[1])
    windows.check_bias(op, w.shape[0], inputs[2:], whole)
    if any(dim == 0 for dim in w.shape[2:]):
        raise errors.wrong_dimension(op, "the kernel", "at least 1 on every axis", list(w.shape[2:]))
    found = windows.axes(x.shape[2:], w.shape[2:], attributes)
    windows.check_fit(op, found)
    return (x.shape[0], w.shape[0], *(window.count for window in found))


def macs_of(attributes: Attributes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> DimLike:
    return outputs[0].size * product(inputs[1].shape[1:])


def convolved(attributes: Attributes, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Pointwise as one matrix product, depthwise tap by tap, all else as patches times filters; halves in fp32."""
    dtype = x.dtype
    x, w = widen(x), widen(w)
    found = windows.axes(x.shape[2:], w.shape[2:], attributes)
    x = windows.padded(x, found, 0)
    with np.errstate(all="ignore"):
        if w.shape[1] == 1 and attributes["groups"] > 1:
            result = _depthwise(x, w, found)
        else:
            result = _grouped(x, w, found, attributes["groups"])
        if b is not None:
            result += b.astype(result.dtype).reshape(-1, *(1,) * len(found))
    return narrow(result, dtype)


def _grouped(x: np.ndarray, w: np.ndarray, found: Sequence[windows.Axis], groups: int) -> np.ndarray:
    result = np.empty((len(x), len(w), *(window.count for window in found)), x.dtype)
    for image, out in zip(x, result, strict=True):
        for part in range(groups):
            _convolve(image, w, found, part, groups, out)
    return result


def _depthwise(x: np.ndarray, w: np.ndarray, found: Sequence[windows.Axis]) -> np.ndarray:
    """One input channel per group, any number of filters per group."""
    channels, multiplier = x.shape[1], len(w) // x.shape[1]
    ones = (1,) * len(found)
    result = np.zeros((len(x), channels, multiplier, *(window.count for window in found)), x.dtype)
    term = np.empty_like(result)
    grouped, taps = x[:, :, None], w[:, 0].reshape(channels, multiplier, *w.shape[2:])
    for place, index in windows.taps(found):
        tap: tuple[Any, ...] = (..., *place)
        np.multiply(grouped[index], taps[tap].reshape(channels, multiplier, *ones), out=term)
        result += term
    return result.reshape(len(x), len(w), *result.shape[3:])


def _convolve(
    image: np.ndarray, w: np.ndarray, found: Sequence[windows.Axis], part: int, groups: int, out: np.ndarray
) -> None:
    """One group of one image: writes ``out[K of this group]``."""
    depth, filters = len(image) // groups, len(w) // groups
    channels = image[part * depth : (part + 1) * depth]
    chosen = slice(part * filters, (part + 1) * filters)
    rows, columns = out.shape[1], math.prod(out.shape[2:])
    matrix = w[chosen].reshape(filters, math.prod(w.shape[1:]))
    target = out[chosen].reshape(filters, rows * columns)
    if all(window.kernel == 1 and window.stride == 1 for window in found):
        target[:] = matmul(matrix, channels.reshape(depth, rows * columns))
        return
    patches = _patches(channels, found)
    block = max(1, PATCH_BYTES * rows // max(1, patches.nbytes))
    for start in range(0, rows, block):
        stop = min(start + block, rows)
        gathered = _rows(patches, len(found), start, stop).reshape(matrix.shape[1], (stop - start) * columns)
        target[:, start * columns : stop * columns] = matmul(matrix, gathered)


def _rows(patches: np.ndarray, rank: int, start: int, stop: int) -> np.ndarray:
    """``patches`` [C, kernel, windows] of these indices on the first axis of the windows."""
    index: tuple[Any, ...] = (slice(None),) * (1 + rank) + (slice(start, stop),)
    return patches[index]


def _patches(channels: np.ndarray, found: Sequence[windows.Axis]) -> np.ndarray:
    """A view [C, kernel, windows] of the padded ``channels`` [C, spatial]."""
    spatial = channels.strides[1:]
    kernel = [stride * window.dilation for stride, window in zip(spatial, found, strict=True)]
    steps = [stride * window.stride for stride, window in zip(spatial, found, strict=True)]
    shape = (len(channels), *(window.kernel for window in found), *(window.count for window in found))
    strides = (channels.strides[0], *kernel, *steps)
    return np.lib.stride_tricks.as_strided(channels, shape, strides, writeable=False)


define(
    Operator(
        "Conv",
        Kind.CONTRACTION,
        _infer,
        convolved,
        {"strides": REQUIRED, "pads": REQUIRED, "dilations": REQUIRED, "groups": 1},
        macs_of,
    )
)
