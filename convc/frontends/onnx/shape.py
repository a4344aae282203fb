"""Constants, sizes, and views that only rename axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc import errors
from convc.ir.dims import Dim, DimLike, product

from . import limits, symbolic
from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter


@adapter("Constant")
def constant(call: Call) -> Operand:
    """Exactly one attribute holds the value."""
    if len(call.attributes) != 1:
        raise errors.operand_count("attributes with a value", len(call.attributes), 1, 1)
    [(name, value)] = call.attributes.items()
    if name in ("value", "sparse_value"):
        return value
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name not in dtypes:
        raise UnsupportedForm(errors.FORM_DTYPE.format(dtype="STRING"))
    return np.asarray(value, dtypes[name])


@adapter("ConstantOfShape")
def constant_of_shape(call: Call) -> Operand:
    shape = call.sizes(0, "shape")
    assert shape is not None
    fill = call.attr("value", np.zeros(1, np.float32))
    if fill.size != 1:
        raise errors.operand_shape("the value", list(fill.shape), "one element")
    return call.emit("Expand", fill.reshape(()), shape=shape)


@adapter("Shape")
def shape_of(call: Call) -> Operand:
    """Known from the type, the slice ``start:end`` of it from opset 15."""
    dims = call.shape(call.x)
    return symbolic.integers(dims[slice(call.attr("start", 0), call.attr("end"))])


@adapter("Size")
def size_of(call: Call) -> Operand:
    return symbolic.integers([product(call.shape(call.x))]).reshape(())


@adapter("Range")
def range_of(call: Call) -> Operand:
    bounds = [call.known(position, "range") for position in range(3)]
    if any(symbolic.is_symbolic(bound) for bound in bounds):
        dim = next(item for bound in bounds for item in bound.flat if isinstance(item, Dim))  # type: ignore[union-attr]
        raise symbolic.undecided("length", dim)
    start, limit, step = (bound.item() for bound in bounds)  # type: ignore[union-attr]
    dtype = call.type(call.x).dtype
    count = max(-(-(limit - start) // step), 0)
    if count * dtype.itemsize > limits.FOLDED_BYTES:
        raise errors.tensor_too_large([count], int(count * dtype.itemsize), limits.FOLDED_BYTES)
    return (start + np.arange(int(count)) * step).astype(dtype.numpy)


# -- views -------------------------------------------------------------------------------------------------------------
@adapter("Reshape")
def reshape(call: Call) -> Operand:
    target = call.sizes(1, "shape")
    assert target is not None
    return call.emit("Reshape", call.x, shape=_resolved(call, target))


def _resolved(call: Call, target: Sequence[DimLike]) -> tuple[DimLike, ...]:
    """The target with 0 (an input size) and -1 (the rest) replaced."""
    source = call.shape(call.x)
    keeps_zero = call.flag("allowzero")
    shape = list(target)
    for position, dim in enumerate(shape):
        if dim == 0 and not keeps_zero:
            if position >= len(source):
                raise errors.reshape_misfit(source, target)
            shape[position] = source[position]
    free = [position for position, dim in enumerate(target) if dim == -1]
    negative = any(isinstance(dim, int) and dim < -1 for dim in target)
    if negative or len(free) > 1 or (free and keeps_zero and 0 in target):
        raise errors.reshape_misfit(source, target)
    if free:
        rest = product([dim for position, dim in enumerate(shape) if position not in free])
        if rest == 0:
            raise errors.reshape_misfit(source, target)
        shape[free[0]] = product(source) // rest
    if product(shape) != product(source) and not _undecided(product(shape), product(source)):
        raise errors.reshape_misfit(source, target)
    return tuple(shape)


def _undecided(a: DimLike, b: DimLike) -> bool:
    return isinstance(a - b, Dim)


@adapter("Flatten")
def flatten(call: Call) -> Operand:
    """Two axes: everything before ``axis``, everything from it on."""
    shape, axis = call.shape(call.x), call.attr("axis")
    if not -len(shape) <= axis <= len(shape):
        raise errors.axis_out_of_range(axis, len(shape))
    axis += len(shape) if axis < 0 else 0
    return call.emit("Reshape", call.x, shape=(product(shape[:axis]), product(shape[axis:])))


@adapter("Transpose")
def transpose(call: Call) -> Operand:
    default = tuple(reversed(range(call.rank)))
    return call.emit("Transpose", call.x, perm=tuple(call.attr("perm", default)))


@adapter("Squeeze")
def squeeze(call: Call) -> Operand:
    """Axes are an attribute, from opset 13 an input; none means every axis of size 1."""
    shape = call.shape(call.x)
    given = call.integers_or_attr("axes", 1, 13)
    if given is None:
        shape = tuple(symbolic.number("rank", dim) for dim in shape)
    axes = range(len(shape)) if given is None else call.axes(given, len(shape))
    gone = {axis for axis in axes if given is not None or shape[axis] == 1}
    for axis in gone:
        if symbolic.number("rank", shape[axis]) != 1:
            raise errors.operand_shape(f"axis {axis}", shape[axis], "size 1")
    return call.emit("Reshape", call.x, shape=tuple(dim for axis, dim in enumerate(shape) if axis not in gone))


@adapter("Unsqueeze")
def unsqueeze(call: Call) -> Operand:
    axes = call.integers_or_attr("axes", 1, 13)
    if axes is None:
        raise errors.operand_missing(call.op, 1)
    rank = call.rank + len(axes)
    added = set(call.axes(axes, rank))
    dims = iter(call.shape(call.x))
    return call.emit("Reshape", call.x, shape=tuple(1 if axis in added else next(dims) for axis in range(rank)))


@adapter("Expand")
def expand(call: Call) -> Operand:
    """Both the input and the target may have axes of size 1."""
    target = call.sizes(1, "shape")
    assert target is not None
    source = call.shape(call.x)
    rank = max(len(source), len(target))
    left, right = ((1,) * (rank - len(shape)) + tuple(shape) for shape in (source, target))
    return call.emit("Expand", call.x, shape=tuple(a if b == 1 else b for a, b in zip(left, right, strict=True)))
