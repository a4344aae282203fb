"""Shape arithmetic on arrays whose elements may be `Dim`.

An array of integers in which some element depends on a symbolic size has NumPy's dtype ``object``; the builder knows
its real element type. Operators that only move elements work on it as they are; the few that compute are listed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from convc import errors
from convc.ir.dims import Dim, DimLike
from convc.ir.types import DType

from .registry import UnsupportedForm


def integers(values: Iterable[DimLike]) -> np.ndarray:
    """A vector of sizes; plain int64 where none is symbolic."""
    items = list(values)
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return settle(array, DType.INT64)


def settle(array: np.ndarray, dtype: DType) -> np.ndarray:
    """The same in its real element type where no element is symbolic any more."""
    return array if any(isinstance(item, Dim) for item in array.flat) else array.astype(dtype.numpy)


def is_symbolic(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == object


def undecided(what: str, *dims: object) -> UnsupportedForm:
    """A decision that a symbolic size leaves open; the first symbolic one among ``dims`` is named."""
    dim = next((dim for dim in dims if isinstance(dim, Dim)), dims[0])
    return UnsupportedForm(errors.FORM_SYMBOLIC.format(what=what, dim=dim), open=True)


def number(what: str, dim: DimLike) -> int:
    """The size, which must be a number.

    Raises:
        UnsupportedForm: it is symbolic, and ``what`` follows from it.
    """
    if isinstance(dim, Dim):
        raise undecided(what, dim)
    return dim


def _never_zero(dim: Dim) -> bool:
    """Whether a size expression is certainly not 0: symbols are 0 or more, so one sign throughout and a constant."""
    signs = {coefficient > 0 for _, coefficient in dim.terms}
    return len(signs) == 1 and any(monomial == () for monomial, _ in dim.terms)


def equal(a: DimLike, b: DimLike) -> bool:
    """Whether two sizes are equal, where that is certain."""
    difference = a - b
    if isinstance(difference, Dim) and not _never_zero(difference):
        raise undecided("result", difference)
    return difference == 0


def _negative(value: DimLike) -> bool:
    """Whether it is negative whatever the sizes are; what they decide counts as a size, which is not."""
    return value < 0 if isinstance(value, int) else all(coefficient < 0 for _, coefficient in value.terms)


def _divide(a: DimLike, b: DimLike) -> DimLike:
    """Cut off towards zero."""
    if _negative(a):
        return -_divide(-a, b)
    return -_divide(a, -b) if _negative(b) else a // b


def _extreme(choose: Callable[..., Any]) -> Callable[[DimLike, DimLike], DimLike]:
    def chosen(a: DimLike, b: DimLike) -> DimLike:
        difference = a - b
        if isinstance(difference, Dim):
            raise undecided("result", difference)
        return a if choose(difference, 0) == difference else b

    return chosen


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Neg": lambda a: -a,
    "Max": _extreme(max),
    "Min": _extreme(min),
    "Equal": equal,
    "Where": lambda condition, a, b: a if condition else b,
}
REDUCTIONS = {"ReduceMax": "Max", "ReduceMin": "Min", "ReduceProd": "Mul", "ReduceSum": "Add"}
"""The operators that reduce, with what each does with two elements."""
MOVING = {"Reshape", "Transpose", "Slice", "Expand", "Concat", "Gather"}


def elementwise(op: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """``op`` on each element."""
    function = np.frompyfunc(ELEMENTWISE[op], len(arrays), 1)
    operands = [array if array.dtype == object else array.astype(object) for array in arrays]
    return np.asarray(function(*operands), dtype=object)


def reduced(op: str, array: np.ndarray, axes: Iterable[int], keepdims: bool) -> np.ndarray:
    """``op`` over some axes."""
    function = np.frompyfunc(ELEMENTWISE[REDUCTIONS[op]], 2, 1)
    for axis in sorted(axes, reverse=True):
        array = np.asarray(function.reduce(array, axis=axis, keepdims=keepdims), dtype=object)
    return array
