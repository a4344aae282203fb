"""Pools over windows and over whole planes."""

from __future__ import annotations

from typing import Any

from convc import errors

from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter
from .windows import window


def _attributes(call: Call) -> dict[str, Any]:
    shape = call.shape(call.x)
    if not 3 <= len(shape) <= 5:
        raise errors.operand_shape("the input", list(map(str, shape)), "1 to 3 spatial axes after batch and channels")
    found = window(call, shape[2:], call.attr("kernel_shape"))
    return {"kernel_shape": found.kernel, **found.attributes, "ceil_mode": bool(call.attr("ceil_mode", 0))}


@adapter("MaxPool")
def max_pool(call: Call) -> Operand:
    """The positions of the maxima are not computed."""
    call.only_first_output()
    return call.emit("MaxPool", call.x, **_attributes(call))


@adapter("AveragePool")
def average_pool(call: Call) -> Operand:
    include = bool(call.attr("count_include_pad", 0))
    return call.emit("AveragePool", call.x, **_attributes(call), count_include_pad=include)


@adapter("GlobalAveragePool", "GlobalMaxPool")
def global_pool(call: Call) -> Operand:
    """A reduction over all spatial axes that keeps them."""
    if call.rank < 3:
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="input rank", value=call.rank))
    reduce = "ReduceMean" if call.op == "GlobalAveragePool" else "ReduceMax"
    return call.emit(reduce, call.x, axes=tuple(range(2, call.rank)), keepdims=True)
