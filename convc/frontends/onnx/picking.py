"""Operators that pick, place, order or count elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc import errors
from convc.ir.dims import DimLike, product
from convc.ir.types import DType

from . import symbolic
from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter
from .windows import numbers


# -- gathering and scattering -----------------------------------------------------------------------------------------
@adapter("GatherElements")
def gather_elements(call: Call) -> Operand:
    """In kernels there are zeros at an index outside, as everywhere where elements are picked."""
    data, indices = call.operands
    return call.emit("GatherElements", data, indices, axis=call.axis(call.attr("axis"), call.rank))


@adapter("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Operand:
    """Kernels where nothing is added up, whose indices are distinct; an index outside stores nothing there."""
    axis = call.axis(call.attr("axis"), call.rank)
    return call.emit("ScatterElements", *call.operands, axis=axis, reduction=call.attr("reduction", "none"))


@adapter("GatherND")
def gather_nd(call: Call) -> Operand:
    data, indices = call.operands
    return call.emit("GatherND", data, indices, batch_dims=call.attr("batch_dims", 0))


@adapter("ScatterND")
def scatter_nd(call: Call) -> Operand:
    """As ScatterElements."""
    return call.emit("ScatterND", *call.operands, reduction=call.attr("reduction", "none"))


@adapter("MaxUnpool")
def max_unpool(call: Call) -> Operand:
    """Zeros, with the elements where the pooling found them; padded at the end to an output shape that is given."""
    x, indices = call.x, call.required(1)
    shape, kernel = call.shape(x), call.attr("kernel_shape")
    rank = len(kernel)
    if len(shape) != rank + 2:
        raise errors.attribute_length("kernel_shape", rank, len(shape) - 2)
    strides, pads = numbers(call, "strides", rank, 1), numbers(call, "pads", 2 * rank, 0)
    spatial = [(shape[2 + i] - 1) * strides[i] - pads[i] - pads[rank + i] + kernel[i] for i in range(rank)]
    full: list[DimLike] = [*shape[:2], *spatial]
    size = product(full)
    zeros = call.emit("Expand", call.scalar(0, x), shape=(size,))
    count = (product(shape),)
    placed = call.emit("ScatterElements", zeros, call.reshape(indices, count), call.reshape(x, count), axis=0)
    result = call.reshape(placed, full)
    wanted = call.integers(2, "output shape")
    if wanted is None or list(wanted) == full:
        return result
    ends = [symbolic.number("size", size - dim) for size, dim in zip(wanted, full, strict=True)]
    return call.emit("Pad", result, pads=(*(0,) * len(full), *ends))


@adapter("ReverseSequence")
def reverse_sequence(call: Call) -> Operand:
    """The first elements of each sequence of a batch, as many as it is long, back to front."""
    lengths = call.integers(1, "sequence lengths") or ()
    batch, time = call.attr("batch_axis"), call.attr("time_axis")
    shape = [symbolic.number("size", dim) for dim in call.shape(call.x)]
    if len(lengths) != shape[batch]:
        raise errors.attribute_length("sequence_lens", len(lengths), shape[batch])
    call.affordable(len(lengths), shape[time])
    steps = np.arange(shape[time])
    order = np.stack([np.where(steps < length, length - 1 - steps, steps) for length in lengths])
    order = (order if batch < time else order.T).reshape(
        [dim if i in (batch, time) else 1 for i, dim in enumerate(shape)]
    )
    return call.emit("GatherElements", call.x, call.expand(order, shape), axis=time)


@adapter("Compress")
def compress(call: Call) -> Operand:
    """The elements along an axis, or of the flat tensor, for which the condition holds."""
    condition = call.known(1, "condition")
    assert condition is not None
    kept = np.flatnonzero(condition.reshape(-1))
    x, axis = call.x, call.attr("axis")
    if axis is None:
        return call.emit("Gather", call.reshape(x, (product(call.shape(x)),)), kept, axis=0)
    return call.emit("Gather", x, kept, axis=call.axis(axis, call.rank))


@adapter("Unique")
def unique(call: Call) -> list[Operand]:
    """Of values that are known; in their order, or in that of their first occurrence."""
    x = call.known(0, "input")
    if x is None or x.dtype == object:
        raise UnsupportedForm(errors.FORM_SYMBOLIC_DATA)
    axis = call.attr("axis")
    values, first, inverse, counts = np.unique(x, True, True, True, axis=axis)
    inverse = inverse.reshape(-1)
    if not call.flag("sorted", 1):
        order = np.argsort(first, kind="stable")
        values = np.take(values, order, axis=axis or 0)
        first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
    return [values, *(array.astype(np.int64) for array in (first, inverse, counts))]


# -- order ------------------------------------------------------------------------------------------------------------
@adapter("ArgMax", "ArgMin")
def extreme(call: Call) -> Operand:
    axis = call.axis(call.attr("axis"), call.rank)
    keepdims, last = call.flag("keepdims"), call.flag("select_last_index")
    return call.emit(call.op, call.x, axis=axis, keepdims=keepdims, last=last)


@adapter("TopK")
def top_k(call: Call) -> list[Operand]:
    """k is an attribute, from opset 10 an input. The result is always in order, which unsorted ones may be."""
    if call.opset < 10:
        k: DimLike = call.attr("k")
    else:
        [k] = call.sizes(1, "k") or (0,)
    attributes = {
        "axis": call.axis(call.attr("axis"), call.rank),
        "k": k,
        "largest": call.flag("largest", 1),
    }
    values = call.emit("TopK", call.x, **attributes)
    return [values, call.emit("TopKIndices", call.x, **attributes)] if any(call.used[1:]) else [values]


@adapter("Hardmax")
def hardmax(call: Call) -> Operand:
    """1 at the first largest element. Before opset 13 over ``axis`` and all axes behind it at once."""
    shape = call.shape(call.x)
    axis = call.axis(call.attr("axis"), call.rank)
    x = call.x
    if call.opset < 13:
        x, axis = call.reshape(x, (product(shape[:axis]), product(shape[axis:]))), 1
    found = call.emit("ArgMax", x, axis=axis, keepdims=True)
    hot = call.emit("Equal", _ladder(call, call.shape(x), axis), found)
    return call.reshape(call.cast(hot, call.type(x).dtype), shape)


def _ladder(call: Call, shape: Sequence[DimLike], axis: int) -> np.ndarray:
    """0, 1, 2, … along an axis."""
    call.affordable(shape[axis])
    numbers = np.arange(symbolic.number("size", shape[axis]))
    return numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])


@adapter("OneHot")
def one_hot(call: Call) -> Operand:
    """Negative indices count from the end; others outside leave nothing set."""
    indices, values = call.x, call.required(2)
    [depth] = call.known(1, "depth").reshape(-1).astype(np.int64)  # type: ignore[union-attr]
    call.affordable(int(depth))
    rank = call.rank + 1
    axis = call.axis(call.attr("axis"), rank)
    shape = call.shape(indices)
    raised = call.reshape(call.cast(indices, DType.INT64), (*shape[:axis], 1, *shape[axis:]))
    negative = call.emit("Less", raised, np.asarray(0))
    counted = call.emit("Where", negative, call.emit("Add", raised, np.asarray(depth)), raised)
    ladder = np.arange(depth).reshape([-1 if i == axis else 1 for i in range(rank)])
    off, on = (call.reshape(call.emit("Gather", values, np.asarray([i]), axis=0), ()) for i in (0, 1))
    return call.emit("Where", call.emit("Equal", counted, ladder), on, off)


@adapter("CumSum", "CumProd")
def running(call: Call) -> Operand:
    [axis] = call.integers(1, "axis") or (0,)
    flags = {name: call.flag(name) for name in ("exclusive", "reverse")}
    return call.emit(call.op, call.x, axis=call.axis(axis, call.rank), **flags)


# -- as many as there are ---------------------------------------------------------------------------------------------
@adapter("NonZero")
def non_zero(call: Call) -> Operand:
    return call.emit("NonZero", call.x, count=call.builder.found_size())


@adapter("NonMaxSuppression")
def non_max_suppression(call: Call) -> Operand:
    """At most so many boxes a class; no limit given means none at all."""
    most = call.integers(2, "number of boxes") or (0,)
    overlap, least = (_threshold(call, position, default) for position, default in ((3, 0.0), (4, -np.inf)))
    return call.emit(
        "NonMaxSuppression",
        call.x,
        call.required(1),
        count=call.builder.found_size() if most[0] > 0 else 0,
        most=max(most[0], 0),
        overlap=overlap,
        least_score=least,
        centered=call.flag("center_point_box"),
    )


def _threshold(call: Call, position: int, default: float) -> float:
    array = call.known(position, "threshold")
    return default if array is None or not array.size else float(array.reshape(-1)[0])
