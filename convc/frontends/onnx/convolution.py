"""Convolutions."""

from __future__ import annotations

from convc import errors
from convc.ir.dims import Dim

from . import symbolic
from .builder import Operand
from .call import Call
from .registry import adapter
from .windows import window


@adapter("Conv")
def conv(call: Call) -> Operand:
    """x[N, C, spatial], w[K, C/groups, kernel], optional b[K]."""
    return conv_of(call, call.x, call.required(1), call.input(2))


def conv_of(call: Call, x: Operand, w: Operand, bias: Operand | None = None) -> Operand:
    """A convolution of these operands with the node's attributes."""
    kernel = _kernel(call, x, w)
    operands = [x, w] if bias is None else [x, w, bias]
    found = window(call, call.shape(x)[2:], kernel)
    return call.emit("Conv", *operands, **found.attributes, groups=call.attr("group"))


def _kernel(call: Call, x: Operand, w: Operand) -> list[int]:
    """The window's sizes, which the weights have and an attribute may repeat."""
    shape, weights = call.shape(x), call.shape(w)
    if not 3 <= len(shape) <= 5:
        raise errors.operand_shape("the input", list(map(str, shape)), "1 to 3 spatial axes after batch and channels")
    if len(weights) != len(shape):
        raise errors.operand_shape("the weight", list(map(str, weights)), f"rank {len(shape)} as the input")
    kernel: list[int] = []
    for size in weights[2:]:
        if isinstance(size, Dim):
            raise symbolic.undecided("kernel", size)
        kernel.append(size)
    declared = call.attr("kernel_shape")
    if declared and tuple(declared) != tuple(kernel):
        raise errors.kernel_contradicts(declared, kernel)
    return kernel


@adapter("ConvTranspose")
def conv_transpose(call: Call) -> Operand:
    """x[N, C, spatial], w[C, K/groups, kernel], optional b[K]; padding is given, or follows from the output's shape."""
    x, w = call.x, call.required(1)
    kernel = _kernel(call, x, w)
    rank, extents = len(kernel), call.shape(x)[2:]
    strides, dilations = (tuple(call.attr(name) or (1,) * rank) for name in ("strides", "dilations"))
    extra = list(call.attr("output_padding") or (0,) * rank)
    pads = list(call.attr("pads") or (0,) * (2 * rank))
    for name, values, length in (("strides", strides, rank), ("dilations", dilations, rank), ("pads", pads, 2 * rank)):
        if len(values) != length:
            raise errors.attribute_length(name, len(values), length)
    mode, wanted = call.attr("auto_pad") or "NOTSET", call.attr("output_shape")
    if mode == "VALID":
        pads = [0] * (2 * rank)
    elif wanted or mode != "NOTSET":
        sizes = wanted[-rank:] if wanted else [dim * stride for dim, stride in zip(extents, strides, strict=True)]
        for i in range(rank):
            full = (extents[i] - 1) * strides[i] + dilations[i] * (kernel[i] - 1) + 1 + extra[i]
            total = full - sizes[i]
            if isinstance(total, Dim):
                raise symbolic.undecided("padding", total)
            if total < 0:
                extra[i] -= total if wanted else 0  # SAME never adds to what the windows write
                total = 0
            less, more = total // 2, total - total // 2
            pads[i], pads[rank + i] = (less, more) if mode == "SAME_UPPER" else (more, less)
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
