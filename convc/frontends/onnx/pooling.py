"""Pools over windows and over whole planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convc import errors
from convc.ir.ops.windows import axes

from . import symbolic
from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter
from .windows import window


def _attributes(call: Call) -> dict[str, Any]:
    shape = call.shape(call.x)
    if not 3 <= len(shape) <= 5:
        raise errors.operand_shape("the input", list(map(str, shape)), "1 to 3 spatial axes after batch and channels")
    found = window(call, shape[2:], call.attr("kernel_shape"))
    return {"kernel_shape": found.kernel, **found.attributes, "ceil_mode": call.flag("ceil_mode")}


@adapter("MaxPool")
def max_pool(call: Call) -> list[Operand]:
    """The places of the maxima are an operator of their own."""
    attributes = _attributes(call)
    result = call.emit("MaxPool", call.x, **attributes)
    if not any(call.used[1:]):
        return [result]
    return [result, call.emit("MaxPoolIndices", call.x, **attributes, column_major=call.flag("storage_order"))]


@adapter("LpPool")
def lp_pool(call: Call) -> Operand:
    """The p-norm of each window: powers, added up by a depthwise convolution with ones, and the root."""
    x, power = call.x, call.attr("p")
    if power < 1:
        raise errors.attribute_below("p", power, 1)
    channels = symbolic.number("number of channels", call.shape(x)[1])
    attributes = _attributes(call)
    kernel = attributes.pop("kernel_shape")
    if attributes.pop("ceil_mode"):
        attributes["pads"] = _reached(call, kernel, attributes)
    call.affordable(channels, *kernel)
    size = call.emit("Abs", x)
    ones = np.ones((channels, 1, *kernel), call.type(x).dtype.numpy)
    total = call.emit("Conv", _power(call, size, power), ones, **attributes, groups=channels)
    return total if power == 1 else _power(call, total, 1 / power)


def _power(call: Call, x: Operand, power: float) -> Operand:
    if power in (1, 2, 0.5):
        return x if power == 1 else call.emit("Sqrt", x) if power == 0.5 else call.emit("Mul", x, x)
    return call.emit("Pow", x, call.scalar(power, x))


def _reached(call: Call, kernel: Sequence[int], attributes: dict[str, Any]) -> tuple[int, ...]:
    """Pads with so much at the ends that windows which ceil mode adds are whole."""
    shape, rank = call.shape(call.x)[2:], len(kernel)
    pads = list(attributes["pads"])
    for i, found in enumerate(axes(shape, kernel, {**attributes, "ceil_mode": True})):
        need = (found.count - 1) * found.stride + found.span - found.extent - found.begin
        pads[rank + i] = max(pads[rank + i], symbolic.number("padding", need))
    return tuple(pads)


@adapter("GlobalLpPool")
def global_lp_pool(call: Call) -> Operand:
    call.without("p", 2)
    return call.emit("ReduceL2", call.x, axes=tuple(range(2, call.rank)), keepdims=True)


@adapter("AveragePool")
def average_pool(call: Call) -> Operand:
    include = call.flag("count_include_pad")
    return call.emit("AveragePool", call.x, **_attributes(call), count_include_pad=include)


@adapter("GlobalAveragePool", "GlobalMaxPool")
def global_pool(call: Call) -> Operand:
    """A reduction over all spatial axes that keeps them."""
    if call.rank < 3:
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="input rank", value=call.rank))
    reduce = "ReduceMean" if call.op == "GlobalAveragePool" else "ReduceMax"
    return call.emit(reduce, call.x, axes=tuple(range(2, call.rank)), keepdims=True)
