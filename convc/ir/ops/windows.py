"""Sliding windows, shared by convolution and pooling: checks, output sizes and strided views.

Attributes ``strides`` and ``dilations`` have one entry per spatial axis, ``pads`` all begins, then all ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from ... import errors
from ..dims import DimLike
from ..operator import Attributes
from ..types import DType, TensorType
from . import checks

MAX_SPATIAL_RANK = 3


def spatial_rank(op: str, x: TensorType) -> int:
    """Number of axes after N and C; one to three."""
    rank = x.rank - 2
    if not 1 <= rank <= MAX_SPATIAL_RANK:
        raise errors.wrong_rank(op, "an input (N, C, spatial axes)", "3 to 5", x)
    return rank


def check_attributes(op: str, attributes: Attributes, rank: int) -> None:
    """Positive strides and dilations, pads that are not negative."""
    checks.integers(op, "strides", attributes["strides"], rank, 1)
    checks.integers(op, "dilations", attributes["dilations"], rank, 1)
    checks.integers(op, "pads", attributes["pads"], 2 * rank, 0)


def check_groups(op: str, groups: Any, channels: Mapping[str, DimLike], name: str = "groups") -> None:
    """A number of groups, 1 or more, that divides each of these numbers of channels."""
    checks.count(op, name, groups, 1)
    for what, found in channels.items():
        if isinstance(found, int) and found % groups:
            raise errors.not_divisible(op, what, groups, found, name)


def check_bias(op: str, filters: DimLike, bias: Sequence[TensorType], whole: bool = False) -> None:
    """A vector of real numbers, or of int32 where sums are ``whole``: one for each filter, where there is one."""
    for b in bias:
        if not whole:
            checks.floating(op, "a bias", b.dtype)
        elif b.dtype is not DType.INT32:
            raise errors.wrong_dtype(op, "a bias", "int32", b.dtype)
        if b.rank != 1:
            raise errors.wrong_rank(op, "a bias", "1", b)
        checks.same_dimension(op, "the bias length (one per filter)", filters, b.shape[0])


@dataclass(frozen=True)
class Axis:
    """The windows along one spatial axis: ``extent`` elements read, ``count`` outputs.

    extent, kernel and what follows from them are dimensions in types (`DimLike`) and integers in arrays.
    """

    extent: Any
    kernel: Any
    stride: int
    dilation: int
    begin: int
    end: int
    ceil_mode: bool = False

    @property
    def span(self) -> Any:
        """Elements from the first to the last tap."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def padded(self) -> Any:
        return self.extent + self.begin + self.end

    @property
    def count(self) -> Any:
        """Number of windows: floor((padded - span) / stride) + 1.

        In ceil mode the quotient is rounded up, but a window must start before the end padding (ONNX Runtime's rule).
        Both limits have the form floor(x / stride) + 1, so the smaller x decides, whatever the extent is.
        """
        if not self.ceil_mode:
            return (self.padded - self.span) // self.stride + 1
        rounded_up = self.end - self.span + self.stride
        last_start = self.extent + self.begin - 1
        if isinstance(rounded_up, int):
            return (last_start + min(rounded_up, 0)) // self.stride + 1
        return (last_start + rounded_up) // self.stride + 1


def axes(shape: Sequence[DimLike], kernel: Sequence[DimLike], attributes: Attributes) -> list[Axis]:
    """The windows along each spatial axis of a tensor of spatial shape ``shape``."""
    strides, dilations, pads = attributes["strides"], attributes["dilations"], attributes["pads"]
    rank = len(shape)
    return [
        Axis(shape[i], kernel[i], strides[i], dilations[i], pads[i], pads[rank + i], attributes.get("ceil_mode", False))
        for i in range(rank)
    ]


def check_fit(op: str, windows: Sequence[Axis]) -> None:
    """Every window fits into the padded input once."""
    for number, window in enumerate(windows):
        room = window.padded - window.span
        if isinstance(room, int) and room < 0:
            raise errors.window_too_large(op, number, window.span, window.padded)


def padded(x: np.ndarray, windows: Sequence[Axis], fill: float) -> np.ndarray:
    """``x[..., spatial]`` with borders of ``fill``, wide enough for the last window; ``x`` itself where none is due."""
    borders = []
    for window in windows:
        needed = (window.count - 1) * window.stride + window.span - window.extent - window.begin
        borders.append((window.begin, max(window.end, needed)))
    if not any(any(border) for border in borders):
        return x
    lead = x.ndim - len(windows)
    shape = (*x.shape[:lead], *(n + sum(border) for n, border in zip(x.shape[lead:], borders, strict=True)))
    result = np.full(shape, fill, x.dtype) if fill else np.zeros(shape, x.dtype)
    inner: tuple[Any, ...] = tuple(
        slice(begin, begin + n) for n, (begin, _) in zip(x.shape[lead:], borders, strict=True)
    )
    result[(slice(None),) * lead + inner] = x
    return result


def taps(windows: Sequence[Axis]) -> Iterator[tuple[tuple[int, ...], tuple[Any, ...]]]:
    """For every kernel position its place and the index by which the padded input gives it one element per window."""
    for place in product(*(range(window.kernel) for window in windows)):
        starts = [tap * window.dilation for tap, window in zip(place, windows, strict=True)]
        slices = (
            slice(start, start + (window.count - 1) * window.stride + 1, window.stride)
            for start, window in zip(starts, windows, strict=True)
        )
        yield place, (..., *slices)
