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
    x, w = call.x, call.required(1)
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
    bias = call.input(2)
    operands = [x, w] if bias is None else [x, w, bias]
    return call.emit("Conv", *operands, **window(call, shape[2:], kernel).attributes, groups=call.attr("group"))
