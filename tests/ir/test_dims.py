"""Dimensions: exact integer algebra over symbols."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_dims import SYMBOLS, Expression, expressions

from convc.ir import Dim, DType, TensorType
from convc.ir.dims import parse_dim, product, substitute

N, H = Dim.symbol("N"), Dim.symbol("H")
VALUES = st.fixed_dictionaries({name: st.integers(1, 50) for name in SYMBOLS})


@given(expressions(), VALUES)
def test_substitution_is_evaluation(expression: Expression, values: dict[str, int]) -> None:
    dim, evaluate = expression
    assert substitute(dim, values) == evaluate(values)


@given(expressions(), st.sampled_from(SYMBOLS), VALUES)
def test_substitution_in_steps(expression: Expression, first: str, values: dict[str, int]) -> None:
    dim, evaluate = expression
    assert substitute(substitute(dim, {first: values[first]}), values) == evaluate(values)


@given(expressions())
def test_text_reads_back(expression: Expression) -> None:
    dim, _ = expression
    assert parse_dim(str(dim)) == dim


@given(expressions(), expressions(), expressions())
def test_ring_laws(a: Expression, b: Expression, c: Expression) -> None:
    x, y, z = a[0], b[0], c[0]
    assert x + y == y + x
    assert x * y == y * x
    assert (x + y) * z == x * z + y * z
    assert x - x == 0
    assert hash(x + y) == hash(y + x)


@given(expressions(), st.integers(1, 9))
def test_exact_division_leaves_no_quotient(a: Expression, divisor: int) -> None:
    assert (a[0] * divisor) // divisor == a[0]


def test_results_without_symbols_are_integers() -> None:
    assert type(N - N) is int
    assert type((2 * N) // N) is int
    assert (2 * N + 4) // 2 == N + 2
    assert (N + 1) % 1 == 0
    assert type(product([2, 3])) is int
    assert product([]) == 1


def test_quotients_stay_symbolic() -> None:
    half = (H + 1) // 2
    assert str(half) == "((H+1)//2)"
    assert half.symbols == {"H"}
    assert substitute(half, {"H": 7}) == 4
    assert substitute(half * N, {"N": 2 * N}) == 2 * N * half
    assert 7 // N != 0
    assert substitute(7 // N, {"N": 2}) == 3


def test_division_by_zero_and_bad_text() -> None:
    with pytest.raises(ZeroDivisionError):
        N // 0
    for text in ("N +", "f(N)", "N / 2", "1.5", "'N'"):
        with pytest.raises(ValueError, match="not a dimension"):
            parse_dim(text)


def test_tensor_types() -> None:
    type = TensorType(DType.FP16, (N, 3, 8, 8))
    assert str(type) == "fp16[N, 3, 8, 8]"
    assert (type.rank, type.is_static, type.size, type.nbytes) == (4, False, 192 * N, 384 * N)
    bound = type.substitute({"N": 2})
    assert bound.is_static
    assert bound.nbytes == 768


@pytest.mark.parametrize("dtype", DType, ids=str)
def test_dtypes_have_numpy_types(dtype: DType) -> None:
    assert DType.of(dtype.numpy) is dtype
    assert dtype.itemsize == dtype.numpy.itemsize
    if dtype.is_float:
        one = dtype.numpy.type(1)
        assert one + dtype.numpy.type(2 * dtype.epsilon) > one
