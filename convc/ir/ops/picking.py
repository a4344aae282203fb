"""Elements picked and placed by indices that are computed: gathering and scattering."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import DType, TensorType
from . import checks

COMBINE = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
"""What becomes of an element that an update meets; without a reduction ("none") the update replaces it."""


def _check_indices(op: str, indices: TensorType) -> None:
    if indices.dtype not in (DType.INT32, DType.INT64):
        raise errors.wrong_dtype(op, "indices", "int32 or int64", indices.dtype)


def _counted(op: str, indices: np.ndarray, axis: int, extent: int) -> np.ndarray:
    """Indices from the front; negative ones count from the end. Raises `ShapeError` for one outside the axis."""
    positions = np.asarray(indices).astype(np.int64)
    outside = positions[(positions < -extent) | (positions >= extent)]
    if outside.size:
        raise errors.index_outside(op, axis, extent, int(outside.flat[0]))
    return np.where(positions < 0, positions + extent, positions)


# -- along one axis ---------------------------------------------------------------------------------------------------
def _check_along(op: str, attributes: Attributes, data: TensorType, indices: TensorType) -> None:
    checks.axis(op, "axis", attributes["axis"], data.rank)
    _check_indices(op, indices)
    if indices.rank != data.rank:
        raise errors.wrong_rank(op, "indices", f"{data.rank}, the data's", indices)
    for axis, (most, found) in enumerate(zip(data.shape, indices.shape, strict=True)):
        if axis != attributes["axis"] and isinstance(most, int) and isinstance(found, int) and found > most:
            raise errors.wrong_dimension(op, f"dimension {axis} of its indices", f"at most {most}, the data's", found)


def _infer_gather_elements(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """data, and indices of the same rank: each picks one element along ``axis`` at its own place on the other axes."""
    checks.arity("GatherElements", inputs, 2)
    data, indices = inputs
    _check_along("GatherElements", attributes, data, indices)
    return [TensorType(data.dtype, indices.shape)]


def _along(op: str, axis: int, shape: Sequence[int], indices: np.ndarray) -> tuple[np.ndarray, ...]:
    """The index of every element that ``indices`` name along ``axis``."""
    grid: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    grid[axis] = _counted(op, indices, axis, shape[axis])
    return tuple(grid)


def _gather_elements(attributes: Attributes, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return data[_along("GatherElements", attributes["axis"], data.shape, indices)]


def _check_reduction(op: str, attributes: Attributes, inputs: Sequence[TensorType]) -> None:
    checks.choice(op, "reduction", attributes["reduction"], ("none", *COMBINE))
    checks.one_dtype(op, [inputs[0], inputs[2]])


def _infer_scatter_elements(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """data, indices of the same rank, and updates of the indices' shape → the data's type."""
    op = "ScatterElements"
    checks.arity(op, inputs, 3)
    data, indices, updates = inputs
    _check_along(op, attributes, data, indices)
    _check_reduction(op, attributes, inputs)
    if updates.rank != indices.rank:
        raise errors.wrong_rank(op, "updates", f"{indices.rank}, the indices'", updates)
    for axis, (wanted, found) in enumerate(zip(indices.shape, updates.shape, strict=True)):
        checks.same_dimension(op, f"dimension {axis} of the updates", wanted, found)
    return [data]


def _scattered(attributes: Attributes, data: np.ndarray, index: tuple[np.ndarray, ...], new: np.ndarray) -> np.ndarray:
    """Updates in their order; `ufunc.at` meets an element as often as it is named."""
    result = data.copy()
    if attributes["reduction"] == "none":
        result[index] = new
    else:
        COMBINE[attributes["reduction"]].at(result, index, new)
    return result


def _scatter_elements(attributes: Attributes, data: np.ndarray, indices: np.ndarray, new: np.ndarray) -> np.ndarray:
    index = _along("ScatterElements", attributes["axis"], data.shape, indices)
    return _scattered(attributes, data, index, new)


# -- by tuples of indices ---------------------------------------------------------------------------------------------
def _tuple_length(op: str, data: TensorType, indices: TensorType, before: int) -> int:
    _check_indices(op, indices)
    length = indices.shape[-1] if indices.rank else 0
    if not isinstance(length, int) or not 1 <= length <= data.rank - before:
        raise errors.wrong_dimension(op, "the last dimension of its indices", f"in 1..{data.rank - before}", length)
    return length


def _infer_gather_nd(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """data, indices[..., L]: each row of L picks a slice of the data; ``batch_dims`` leading axes are shared."""
    op = "GatherND"
    checks.arity(op, inputs, 2)
    data, indices = inputs
    shared = attributes["batch_dims"]
    if not checks.is_integer(shared) or not 0 <= shared < min(data.rank, indices.rank):
        raise errors.wrong_attribute(op, "batch_dims", "below both ranks", shared)
    length = _tuple_length(op, data, indices, shared)
    for axis in range(shared):
        checks.same_dimension(op, f"dimension {axis} of the indices", data.shape[axis], indices.shape[axis])
    return [TensorType(data.dtype, (*indices.shape[:-1], *data.shape[shared + length :]))]


def _rows(op: str, shape: Sequence[int], indices: np.ndarray, shared: int) -> tuple[np.ndarray, ...]:
    columns = np.moveaxis(indices, -1, 0)
    picked = [_counted(op, column, shared + i, shape[shared + i]) for i, column in enumerate(columns)]
    grid: list[np.ndarray] = list(np.indices(indices.shape[:-1], sparse=True))[:shared]
    return (*grid, *picked)


def _gather_nd(attributes: Attributes, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return data[_rows("GatherND", data.shape, indices, attributes["batch_dims"])]


def _infer_scatter_nd(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """data, indices[..., L], and updates: one slice of the data for each row of indices."""
    op = "ScatterND"
    checks.arity(op, inputs, 3)
    data, indices, updates = inputs
    _check_reduction(op, attributes, inputs)
    length = _tuple_length(op, data, indices, 0)
    wanted = (*indices.shape[:-1], *data.shape[length:])
    if updates.rank != len(wanted):
        raise errors.wrong_rank(op, "updates", str(len(wanted)), updates)
    for axis, (dim, found) in enumerate(zip(wanted, updates.shape, strict=True)):
        checks.same_dimension(op, f"dimension {axis} of the updates", dim, found)
    return [data]


def _scatter_nd(attributes: Attributes, data: np.ndarray, indices: np.ndarray, new: np.ndarray) -> np.ndarray:
    return _scattered(attributes, data, _rows("ScatterND", data.shape, indices, 0), new)


define(Operator("GatherElements", Kind.MOVEMENT, _infer_gather_elements, _gather_elements, {"axis": REQUIRED}))
define(
    Operator(
        "ScatterElements",
        Kind.MOVEMENT,
        _infer_scatter_elements,
        _scatter_elements,
        {"axis": REQUIRED, "reduction": "none"},
    )
)
define(Operator("GatherND", Kind.MOVEMENT, _infer_gather_nd, _gather_nd, {"batch_dims": 0}))
define(Operator("ScatterND", Kind.MOVEMENT, _infer_scatter_nd, _scatter_nd, {"reduction": "none"}))
