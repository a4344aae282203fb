"""Operators that copy or pick elements."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc import errors
from convc.ir.dims import Dim, DimLike
from convc.ir.graph import Value
from convc.ir.ops.movement import PAD_MODES
from convc.ir.types import DType

from . import symbolic
from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter

FAR = 2**31 - 1
"""Indices from here on mean "to the end", as exporters write them."""


@adapter("Concat")
def concat(call: Call) -> Operand:
    axis = call.axis(call.attr("axis"), call.rank)
    return call.x if len(call.inputs) == 1 else call.emit("Concat", *call.operands, axis=axis)


# -- slices ------------------------------------------------------------------------------------------------------------
@adapter("Slice")
def slice_(call: Call) -> Operand:
    """Starts, ends and axes are attributes, from opset 10 inputs, then with steps."""
    starts, ends, axes, steps = _slice_arguments(call)
    shape = call.shape(call.x)
    chosen = call.axes(axes if axes is not None else range(len(starts)), len(shape))
    moves = steps if steps is not None else (1,) * len(starts)
    for name, values in (("ends", ends), ("axes", chosen), ("steps", moves)):
        if len(values) != len(starts):
            raise errors.attribute_length(name, len(values), len(starts))
    first: list[DimLike] = [0] * len(shape)
    sizes, stride = list(shape), [1] * len(shape)
    for axis, start, end, step in zip(chosen, starts, ends, moves, strict=True):
        if step == 0:
            raise errors.zero_step()
        first[axis], sizes[axis] = _extent(start, end, step, shape[axis])
        stride[axis] = step
    return _sliced(call, call.x, first, sizes, stride)


def _slice_arguments(
    call: Call,
) -> tuple[Sequence[DimLike], Sequence[DimLike], Sequence[int] | None, Sequence[int] | None]:
    if call.opset < 10:
        return call.attr("starts"), call.attr("ends"), call.attr("axes"), None
    starts, ends = call.sizes(1, "starts"), call.sizes(2, "ends")
    assert starts is not None and ends is not None
    return starts, ends, call.integers(3, "axes"), call.integers(4, "steps")


def _extent(start: DimLike, end: DimLike, step: int, size: DimLike) -> tuple[DimLike, DimLike]:
    """(first index, number of indices) of a slice of an axis, by Python's rules."""
    if isinstance(start, int) and isinstance(end, int) and isinstance(size, int):
        picked = range(size)[start:end:step]
        return (picked.start if picked else 0), len(picked)
    if step < 0:
        if step == -1 and start in (-1, size - 1) and isinstance(end, int) and end <= -FAR:
            return size - 1, size
        raise symbolic.undecided("extent", size, start, end)
    first, last = _bounded(start, size), _bounded(end, size)
    count = last - first
    if isinstance(count, int) and count <= 0:
        return 0, 0
    return first, (count + (step - 1)) // step


def _bounded(index: DimLike, size: DimLike) -> DimLike:
    """A slice bound counted from the front, where it certainly lies within the axis."""
    if isinstance(index, int):
        if abs(index) >= FAR:
            return size if index > 0 else 0
        index = index if index >= 0 else size + index
    room = size - index
    if isinstance(room, int):
        return index if room >= 0 else size
    if not (_surely_natural(index) and _surely_natural(room)):
        raise symbolic.undecided("extent", size, index)
    return index


def _surely_natural(value: DimLike) -> bool:
    """Whether an expression is 0 or more whenever its symbols are 1 or more."""
    if isinstance(value, int):
        return value >= 0
    least = 0
    for monomial, coefficient in value.terms:
        if monomial and coefficient < 0:
            return False
        least += coefficient if all(isinstance(atom, str) for atom in monomial) else 0
    return least >= 0


def _sliced(
    call: Call, x: Operand, starts: Sequence[DimLike], sizes: Sequence[DimLike], steps: Sequence[int] | None = None
) -> Operand:
    """The slice, or ``x`` itself where that is all of it."""
    moves = tuple(steps) if steps is not None else (1,) * len(starts)
    if tuple(sizes) == call.shape(x) and all(step == 1 for step in moves):
        return x
    return call.emit("Slice", x, starts=tuple(starts), sizes=tuple(sizes), steps=moves)


def along(call: Call, x: Operand, axis: int, start: DimLike, size: DimLike, step: int = 1) -> Operand:
    """``size`` elements of one axis, from ``start``, every ``step``."""
    shape = call.shape(x)
    starts: list[DimLike] = [0] * len(shape)
    steps = [1] * len(shape)
    starts[axis], steps[axis] = start, step
    return _sliced(call, x, starts, (*shape[:axis], size, *shape[axis + 1 :]), steps)


@adapter("Split")
def split(call: Call) -> list[Operand]:
    """One slice an output; sizes are an attribute, from opset 13 an input, or equal."""
    axis = call.axis(call.attr("axis"), call.rank)
    extent = symbolic.number("parts", call.shape(call.x)[axis])
    sizes = call.integers_or_attr("split", 1, 13) or _equal_parts(call, extent)
    if sum(sizes) != extent or min(sizes, default=0) < 0:
        raise errors.split_misfit(sizes, extent)
    if len(sizes) != len(call.used):
        raise errors.attribute_length("split", len(sizes), len(call.used))
    starts = [sum(sizes[:position]) for position in range(len(sizes))]
    return [along(call, call.x, axis, start, size) for start, size in zip(starts, sizes, strict=True)]


def _equal_parts(call: Call, extent: int) -> Sequence[int]:
    """Equal parts; from opset 18 the last may be smaller."""
    count = call.attr("num_outputs", len(call.used))
    if count != len(call.used) or count < 1:
        raise errors.attribute_length("num_outputs", len(call.used), count)
    size = -(-extent // count)
    if (call.opset < 18 and extent % count) or size * (count - 1) > extent:
        raise errors.split_misfit([size] * count, extent)
    return [size] * (count - 1) + [extent - size * (count - 1)]


# -- padding and repetition --------------------------------------------------------------------------------------------
@adapter("Pad")
def pad(call: Call) -> Operand:
    """Negative pads crop first; what is left must not be negative."""
    pads, fill, mode = _pad_arguments(call)
    x = _cropped(call, call.x, [min(pad, 0) for pad in pads])
    borders = tuple(max(pad, 0) for pad in pads)
    if not any(borders):
        return x
    if mode not in PAD_MODES:
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="mode", value=mode))
    if mode != "constant":
        return call.emit("Pad", x, pads=borders, mode=mode)
    if isinstance(fill, Value):
        return _padded_at_run_time(call, x, borders, fill)
    return call.emit("Pad", x, pads=borders, value=+fill.item())


def _cropped(call: Call, x: Operand, crops: Sequence[int]) -> Operand:
    shape = call.shape(x)
    rank = len(shape)
    sizes = [dim + crops[axis] + crops[rank + axis] for axis, dim in enumerate(shape)]
    if any(isinstance(size, int) and size < 0 for size in sizes):
        raise errors.operand_shape("the cropped input", list(map(str, sizes)), "sizes of 0 or more")
    return _sliced(call, x, [-crop for crop in crops[:rank]], sizes)


def _padded_at_run_time(call: Call, x: Operand, borders: tuple[int, ...], fill: Value) -> Operand:
    """Padded with zeros, which a mask then replaces by a fill value that only the run knows."""
    shape = call.shape(x)
    padded = [borders[axis] or borders[len(shape) + axis] for axis in range(len(shape))]
    extent = tuple(dim if wide else 1 for dim, wide in zip(shape, padded, strict=True))
    inside = call.emit("Pad", call.expand(np.ones((1,) * len(shape), np.int64), extent), pads=borders)
    zeros = call.emit("Pad", x, pads=borders)
    return call.emit("Where", call.cast(inside, DType.BOOL), zeros, call.reshape(fill, ()))


def _pad_arguments(call: Call) -> tuple[tuple[int, ...], Operand, str]:
    """(pads of all axes, fill value, mode)."""
    if call.opset < 11:
        return _all_axes(call, call.attr("pads"), None), np.asarray(call.attr("value")), call.attr("mode")
    pads = call.integers(1, "pads")
    assert pads is not None
    given = call.input(2)
    fill = call.scalar(0, call.x) if given is None else given
    if call.type(fill).size != 1:
        raise errors.operand_shape("the fill value", list(map(str, call.shape(fill))), "one number")
    axes = call.integers(3, "axes") if call.opset >= 18 else None
    return _all_axes(call, pads, axes), fill, call.attr("mode")


def _all_axes(call: Call, pads: Sequence[int], axes: Sequence[int] | None) -> tuple[int, ...]:
    rank = call.rank
    chosen = call.axes(range(rank) if axes is None else axes, rank)
    if len(pads) != 2 * len(chosen):
        raise errors.attribute_length("pads", len(pads), 2 * len(chosen))
    full = [0] * (2 * rank)
    for position, axis in enumerate(chosen):
        full[axis], full[rank + axis] = pads[position], pads[len(chosen) + position]
    return tuple(full)


@adapter("Tile")
def tile(call: Call) -> Operand:
    """Every axis in turn: a new axis before it is broadcast and merged into it."""
    repeats = call.sizes(1, "repeats")
    assert repeats is not None
    if len(repeats) != call.rank:
        raise errors.attribute_length("repeats", len(repeats), call.rank)
    x = call.x
    for axis, count in enumerate(repeats):
        if isinstance(count, int) and count < 0:
            raise errors.attribute_below("repeats", count, 0)
        shape = call.shape(x)
        before, size, behind = shape[:axis], shape[axis], shape[axis + 1 :]
        if count != 1:
            raised = call.expand(call.reshape(x, (*before, 1, size, *behind)), (*before, count, size, *behind))
            x = call.reshape(raised, (*before, count * size, *behind))
    return x


# -- picking -----------------------------------------------------------------------------------------------------------
@adapter("Gather")
def gather(call: Call) -> Operand:
    """Constant indices that are one, or evenly spaced, are a slice; all are counted from the front."""
    data, indices = call.operands
    axis = call.axis(call.attr("axis"), call.rank)
    extent = call.shape(data)[axis]
    if symbolic.is_symbolic(indices):
        raise UnsupportedForm(errors.FORM_SYMBOLIC_DATA, open=True)
    if not isinstance(indices, np.ndarray):
        return call.emit("Gather", data, indices, axis=axis)
    if indices.dtype not in (np.int32, np.int64):
        raise errors.wrong_dtype("Gather", "indices", "int32 or int64", indices.dtype)
    counted = _counted(indices, extent)
    step = _step(counted.reshape(-1))
    if isinstance(data, np.ndarray) or step is None:
        return call.emit("Gather", data, counted, axis=axis)
    piece = along(call, data, axis, int(counted.flat[0]), counted.size, step)
    shape = call.shape(piece)
    return call.reshape(piece, (*shape[:axis], *counted.shape, *shape[axis + 1 :]))


def _step(indices: np.ndarray) -> int | None:
    """The distance of indices that are evenly spaced, None where they are not."""
    if indices.size < 2:
        return 1 if indices.size else None
    steps = np.diff(indices)
    return int(steps[0]) if steps[0] and (steps == steps[0]).all() else None


def _counted(indices: np.ndarray, extent: DimLike) -> np.ndarray:
    """Indices from the front, checked where the size is known."""
    if isinstance(extent, Dim):
        if (indices < 0).any():
            raise symbolic.undecided("index", extent)
        return indices
    outside = indices[(indices < -extent) | (indices >= extent)]
    if outside.size:
        raise errors.index_out_of_range(int(outside.flat[0]), extent)
    return np.where(indices < 0, indices + extent, indices).astype(np.int64)
