"""Transposed convolution of rank 1 to 3: the adjoint of a convolution with respect to its input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product as places
from typing import Any

import numpy as np

from ... import errors
from ..dims import DimLike, product
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import TensorType
from . import checks, windows
from .arrays import matmul, narrow, widen

OP = "ConvTranspose"


def _infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """x[N, C, spatial], w[C, K/groups, kernel], optional b[K] → [N, K, spatial'].

    Each axis has (extent - 1)·stride + dilation·(kernel - 1) + 1 + output_padding - pads elements.
    """
    checks.arity(OP, inputs, 2, 3)
    x, w = inputs[:2]
    checks.floating(OP, "inputs", checks.one_dtype(OP, inputs[:2]))
    rank = windows.spatial_rank(OP, x)
    windows.check_attributes(OP, attributes, rank)
    checks.integers(OP, "output_padding", attributes["output_padding"], rank, 0)
    if w.rank != x.rank:
        raise errors.wrong_rank(OP, "weights", f"{x.rank}, the input's", w)
    groups = attributes["groups"]
    windows.check_groups(OP, groups, {"input channels": x.shape[1]})
    checks.same_dimension(OP, "weight dimension 0 (input channels)", x.shape[1], w.shape[0])
    filters = w.shape[1] * groups
    windows.check_bias(OP, filters, inputs[2:])
    sizes = _sizes(attributes, x.shape[2:], w.shape[2:])
    for axis, size in enumerate(sizes):
        if isinstance(size, int) and size < 0:
            raise errors.wrong_dimension(OP, f"output axis {axis + 2}", ">= 0", size)
    return [TensorType(x.dtype, (x.shape[0], filters, *sizes))]


def _sizes(attributes: Attributes, extents: Sequence[DimLike], kernel: Sequence[DimLike]) -> list[Any]:
    strides, dilations, pads = attributes["strides"], attributes["dilations"], attributes["pads"]
    rank = len(extents)
    return [
        (extents[i] - 1) * strides[i]
        + dilations[i] * (kernel[i] - 1)
        + 1
        + attributes["output_padding"][i]
        - pads[i]
        - pads[rank + i]
        for i in range(rank)
    ]


def _macs(attributes: Attributes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> DimLike:
    return inputs[0].size * product(inputs[1].shape[1:])


def _last(slices: Iterable[slice]) -> tuple[Any, ...]:
    """An index of the last axes."""
    return (..., *slices)


def _reference(attributes: Attributes, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """One matrix product for each tap, whose result is added where the tap writes."""
    dtype, groups = x.dtype, attributes["groups"]
    x, w = widen(x), widen(w)
    batch, extents, kernel = len(x), x.shape[2:], w.shape[2:]
    pads, rank = attributes["pads"], len(x.shape) - 2
    sizes = _sizes(attributes, extents, kernel)
    steps = list(zip(attributes["strides"], attributes["dilations"], extents, kernel, strict=True))
    spans = [(n - 1) * stride + dilation * (taps - 1) + 1 for stride, dilation, n, taps in steps]
    whole = [max(span, pads[i] + sizes[i]) for i, span in enumerate(spans)]
    full = np.zeros((batch, groups, w.shape[1], *whole), x.dtype)
    rows = x.reshape(batch, groups, x.shape[1] // groups, math.prod(extents))
    filters = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel)
    with np.errstate(all="ignore"):
        for place in places(*(range(taps) for taps in kernel)):
            tap: tuple[Any, ...] = (..., *place)
            term = matmul(filters[tap].transpose(0, 2, 1), rows).reshape(batch, groups, w.shape[1], *extents)
            starts = [at * dilation for at, (_, dilation, _, _) in zip(place, steps, strict=True)]
            slices = (
                slice(start, start + (n - 1) * stride + 1, stride)
                for start, (stride, _, n, _) in zip(starts, steps, strict=True)
            )
            full[_last(slices)] += term
        inner = (slice(pads[i], pads[i] + sizes[i]) for i in range(rank))
        result = full[_last(inner)].reshape(batch, groups * w.shape[1], *sizes)
        if b is not None:
            result = result + b.astype(result.dtype).reshape(-1, *(1,) * rank)
    return narrow(result, dtype)


define(
    Operator(
        OP,
        Kind.CONTRACTION,
        _infer,
        _reference,
        {"strides": REQUIRED, "pads": REQUIRED, "dilations": REQUIRED, "output_padding": REQUIRED, "groups": 1},
        _macs,
    )
)
