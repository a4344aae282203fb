"""Reductions along axes."""

from __future__ import annotations

from convc import errors

from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter

_IDENTITY_WITHOUT_AXES = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"}
_LATEST_AXES_INPUT = 18


@adapter(
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
def reduce(call: Call) -> Operand:
    """Axes are an attribute, then an input (from opset 13 for ReduceSum, 18 for the others); none means all."""
    since = 13 if call.op == "ReduceSum" else _LATEST_AXES_INPUT
    axes = call.integers_or_attr("axes", 1, since)
    if not axes and call.flag("noop_with_empty_axes"):
        if call.op in _IDENTITY_WITHOUT_AXES:
            return call.x
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="noop_with_empty_axes", value=1))
    chosen = sorted(call.axes(axes, call.rank)) if axes else range(call.rank)
    return call.emit(call.op, call.x, axes=tuple(chosen), keepdims=call.flag("keepdims"))
