"""Attributes that convolutions and pools share: strides, dilations and pads, with automatic padding resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convc import errors
from convc.ir.dims import DimLike

from . import symbolic
from .call import Call

MODES = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")


@dataclass(frozen=True)
class Window:
    """Kernel, strides, dilations (one entry an axis) and pads (all begins, then all ends)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def attributes(self) -> dict[str, Any]:
        return {"strides": self.strides, "pads": self.pads, "dilations": self.dilations}


def window(call: Call, spatial: Sequence[DimLike], kernel: Sequence[int]) -> Window:
    """The window of a node over an input of these spatial sizes.

    Raises:
        ShapeError: lists that do not fit the rank, or sizes below 1.
        UnsupportedForm: SAME padding of a symbolic size.
    """
    rank = len(spatial)
    kernel = _checked("kernel_shape", tuple(kernel), rank)
    strides, dilations = (numbers(call, name, rank, 1) for name in ("strides", "dilations"))
    return Window(kernel, strides, dilations, _pads(call, spatial, kernel, strides, dilations))


def numbers(call: Call, name: str, length: int, default: int) -> tuple[int, ...]:
    """A list attribute of ``length`` numbers, none below ``default``, which stands for what is left out.

    Raises:
        ShapeError: another length, or a number below.
    """
    return _checked(name, tuple(call.attr(name) or (default,) * length), length, default)


def auto_pad(call: Call) -> str:
    """The mode of padding. Raises `LoadError` for one that ONNX does not have."""
    mode: str = call.attr("auto_pad", MODES[0]) or MODES[0]
    if mode not in MODES:
        raise errors.auto_pad_unknown(mode)
    return mode


def _checked(name: str, values: tuple[int, ...], length: int, least: int = 1) -> tuple[int, ...]:
    if len(values) != length:
        raise errors.attribute_length(name, len(values), length)
    if any(value < least for value in values):
        raise errors.attribute_below(name, min(values), least)
    return values


def _pads(
    call: Call, spatial: Sequence[DimLike], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    mode, rank = auto_pad(call), len(spatial)
    if mode == "NOTSET":
        return numbers(call, "pads", 2 * rank, 0)
    if any(call.attr("pads") or ()):
        raise errors.pads_given_twice(mode)
    if mode == "VALID":
        return (0,) * (2 * rank)
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    totals = [_same(*axis) for axis in zip(spatial, spans, strides, strict=True)]
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)


def _same(size: DimLike, span: int, stride: int) -> int:
    """All the padding of one axis that makes ceil(size / stride) outputs."""
    if stride == 1:
        return span - 1
    extent = symbolic.number("SAME padding", size)
    outputs = -(-extent // stride)
    return max((outputs - 1) * stride + span - extent, 0)
