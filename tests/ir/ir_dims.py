"""Random dimension expressions, beside the same expression as a function of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hypothesis import strategies as st

from convc.ir import Dim, DimLike

Expression = tuple[DimLike, Callable[[Mapping[str, int]], int]]
SYMBOLS = ("N", "H", "W")


def _symbol(name: str) -> Expression:
    return Dim.symbol(name), lambda values: values[name]


def _constant(number: int) -> Expression:
    return number, lambda values: number


def _combined(parts: tuple[str, Expression, Expression]) -> Expression:
    operation, (left, left_of), (right, right_of) = parts
    if operation == "+":
        return left + right, lambda values: left_of(values) + right_of(values)
    if operation == "-":
        return left - right, lambda values: left_of(values) - right_of(values)
    return left * right, lambda values: left_of(values) * right_of(values)


def _divided(parts: tuple[Expression, int]) -> Expression:
    (left, left_of), divisor = parts
    return left // divisor, lambda values: left_of(values) // divisor


def expressions() -> st.SearchStrategy[Expression]:
    leaves = st.sampled_from(SYMBOLS).map(_symbol) | st.integers(-4, 9).map(_constant)
    return st.recursive(
        leaves,
        lambda inner: (
            st.tuples(st.sampled_from("+-*"), inner, inner).map(_combined)
            | st.tuples(inner, st.integers(1, 5)).map(_divided)
        ),
        max_leaves=6,
    )
