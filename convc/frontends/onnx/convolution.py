"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convc import errors
from convc.ir.dims import DimLike

from . import symbolic
from .builder import Operand
from .call import Call
from .registry import adapter
from .windows import auto_pad, numbers, window


@adapter("Conv")
def conv(call: Call) -> Operand:
    """x[N, C, spatial], w[K, C/groups, kernel], optional b[K]."""
    x, w, bias = call.x, call.required(1), call.input(2)
    return call.emit("Conv", *([x, w] if bias is None else [x, w, bias]), **conv_attributes(call, x, w))


def conv_attributes(call: Call, x: Operand, w: Operand) -> dict[str, Any]:
    """The window of a convolution of these operands, and its groups."""
    return {**window(call, call.shape(x)[2:], kernel_of(call, x, w)).attributes, "groups": call.attr("group")}


def kernel_of(call: Call, x: Operand, w: Operand) -> list[int]:
    """The window's sizes, which the weights have and an attribute may repeat."""
    shape, weights = call.shape(x), call.shape(w)
    if not 3 <= len(shape) <= 5:
        raise errors.operand_shape("the input", list(map(str, shape)), "1 to 3 spatial axes after batch and channels")
    if len(weights) != len(shape):
        raise errors.operand_shape("the weight", list(map(str, weights)), f"rank {len(shape)} as the input")
    kernel = [symbolic.number("kernel", size) for size in weights[2:]]
    declared = call.attr("kernel_shape")
    if declared and tuple(declared) != tuple(kernel):
        raise errors.kernel_contradicts(declared, kernel)
    return kernel


@adapter("ConvTranspose")
def conv_transpose(call: Call) -> Operand:
    """x[N, C, spatial], w[C, K/groups, kernel], optional b[K]; padding is given, or follows from the output's shape."""
    x, w = call.x, call.required(1)
    kernel = kernel_of(call, x, w)
    rank, extents = len(kernel), call.shape(x)[2:]
    strides, dilations = (numbers(call, name, rank, 1) for name in ("strides", "dilations"))
    extra, pads = list(numbers(call, "output_padding", rank, 0)), list(numbers(call, "pads", 2 * rank, 0))
    mode, wanted = auto_pad(call), _output_sizes(call, rank)
    if mode == "VALID":
        pads = [0] * (2 * rank)
    if wanted or mode.startswith("SAME"):
        sizes = wanted or [dim * stride for dim, stride in zip(extents, strides, strict=True)]
        for i in range(rank):
            full = (extents[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 + extra[i]
            total = symbolic.number("padding", full - sizes[i])
            if total < 0:
                extra[i] -= total if wanted else 0  # SAME never adds to what the windows write
                total = 0
            less, more = total // 2, total - total // 2
            pads[i], pads[rank + i] = (less, more) if mode == "SAME_UPPER" else (more, less)
    for value, stride, dilation in zip(extra, strides, dilations, strict=True):
        if value >= max(stride, dilation):
            raise errors.wrong_attribute(call.op, "output_padding", "smaller than stride or dilation", extra)
    bias = call.input(2)
    return call.emit(
        "ConvTranspose",
        *([x, w] if bias is None else [x, w, bias]),
        strides=strides,
        pads=tuple(pads),
        dilations=dilations,
        output_padding=tuple(extra),
        groups=call.attr("group"),
    )


def _output_sizes(call: Call, rank: int) -> Sequence[DimLike]:
    """The attribute ``output_shape``: the spatial sizes, which some exporters write behind batch and channels."""
    wanted = call.attr("output_shape") or ()
    if wanted and len(wanted) not in (rank, rank + 2):
        raise errors.attribute_length("output_shape", len(wanted), rank)
    if min(wanted, default=1) < 1:
        raise errors.attribute_below("output_shape", min(wanted), 1)
    return tuple(wanted[-rank:])
