"""What operator definitions share when they check attributes and types.

Only what is known is checked: a symbolic dimension is taken to fit wherever some values of its symbols would let it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ... import errors
from ..dims import Dim, DimLike
from ..types import DType, Shape, TensorType


def arity(op: str, inputs: Sequence[TensorType], low: int, high: int | None = None) -> None:
    """Between ``low`` and ``high`` (default: ``low``) inputs."""
    high = low if high is None else high
    if not low <= len(inputs) <= high:
        raise errors.wrong_input_count(op, str(low) if low == high else f"{low} to {high}", len(inputs))


def floating(op: str, what: str, dtype: DType) -> None:
    """A floating-point element type."""
    if not dtype.is_float:
        raise errors.wrong_dtype(op, what, "fp64, fp32, fp16 or bf16", dtype)


def one_dtype(op: str, inputs: Sequence[TensorType]) -> DType:
    """The element type that all ``inputs`` share."""
    if len({type.dtype for type in inputs}) != 1:
        raise errors.dtypes_differ(op, [type.dtype for type in inputs])
    return inputs[0].dtype


def conflict(left: DimLike, right: DimLike) -> bool:
    """Whether two dimensions differ for all positive values of their symbols, as far as the signs show it."""
    difference = left - right
    if isinstance(difference, int):
        return difference != 0
    signs = {coefficient > 0 for _, coefficient in difference.terms}
    positive = any(all(isinstance(atom, str) for atom in monomial) for monomial, _ in difference.terms)
    return len(signs) == 1 and positive


def same_dimension(op: str, what: str, expected: DimLike, found: DimLike) -> None:
    if conflict(expected, found):
        raise errors.wrong_dimension(op, what, expected, found)


def known(left: DimLike, right: DimLike) -> DimLike:
    """Of two dimensions that must be equal, the one that says more."""
    return right if isinstance(left, Dim) and not isinstance(right, Dim) else left


def broadcast(op: str, shapes: Sequence[Shape]) -> Shape:
    """The shape that ``shapes`` broadcast to, NumPy's rule; unequal symbolic dimensions are taken to be equal."""
    rank = max(len(shape) for shape in shapes)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in shapes]
    return tuple(_broadcast_dims(op, shapes, dims) for dims in zip(*padded, strict=True))


def _broadcast_dims(op: str, shapes: Sequence[Shape], dims: Sequence[DimLike]) -> DimLike:
    result: DimLike = 1
    for dim in dims:
        if result == 1:
            result = dim
        elif dim != 1:
            if isinstance(dim, int) and isinstance(result, int) and dim != result:
                raise errors.not_broadcastable(op, shapes)
            result = known(result, dim)
    return result


def integers(op: str, name: str, values: Any, length: int, low: int | None) -> None:
    """A tuple of ``length`` integers, none below ``low``."""
    bound = "" if low is None else f" >= {low}"
    ok = isinstance(values, tuple) and len(values) == length and all(is_integer(value) for value in values)
    if not ok or (low is not None and any(value < low for value in values)):
        raise errors.wrong_attribute(op, name, f"{length} integers{bound}", values)


def dimensions(op: str, name: str, values: Any, length: int | None = None) -> None:
    """A tuple of dimensions >= 0 (of ``length``, where given)."""
    ok = isinstance(values, tuple) and all(isinstance(value, Dim) or is_integer(value) for value in values)
    if not ok or length not in (None, len(values)) or any(is_integer(value) and value < 0 for value in values):
        many = "dimensions" if length is None else f"{length} dimensions"
        raise errors.wrong_attribute(op, name, f"{many} >= 0", values)


def axis(op: str, name: str, value: Any, rank: int) -> None:
    """An axis in 0..rank-1."""
    if not is_integer(value) or not 0 <= value < rank:
        raise errors.wrong_attribute(op, name, f"in 0..{rank - 1}", value)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(op: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise errors.wrong_attribute(op, name, "a number", value)


def finite(op: str, name: str, value: Any, above: float | None = None) -> None:
    """A number that is neither infinite nor NaN, and larger than ``above`` where given."""
    number(op, name, value)
    if not math.isfinite(value) or (above is not None and value <= above):
        wanted = "a finite number" if above is None else f"a finite number above {above:g}"
        raise errors.wrong_attribute(op, name, wanted, value)


def count(op: str, name: str, value: Any, least: int) -> None:
    """An integer, not below ``least``."""
    if not is_integer(value) or value < least:
        raise errors.wrong_attribute(op, name, f"an integer >= {least}", value)


def flag(op: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise errors.wrong_attribute(op, name, "True or False", value)


def choice(op: str, name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise errors.wrong_attribute(op, name, f"one of {', '.join(choices)}", value)
