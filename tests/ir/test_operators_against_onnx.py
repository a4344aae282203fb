"""Operators other than windows, against ONNX's reference evaluator in fp64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from ir_oracle import accumulated, evaluate, onnx_reference, onnx_runtime

from convc.ir import DType, operators
from convc.ir.ops.functions import erf

EPSILON = DType.FP64.epsilon
X = np.concatenate([np.random.default_rng(0).normal(0, 3, 200), [0.0, -0.0, 1.0, -1.0, 30.0, -30.0]])
Y = np.random.default_rng(1).permutation(X)
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan])

# ONNX keeps attributes in fp32: the values here are exact in it
UNARY: list[tuple[str, dict[str, Any]]] = [
    ("Relu", {}),
    ("LeakyRelu", {"alpha": 0.25}),
    ("Elu", {"alpha": 0.75}),
    ("Selu", {}),
    ("Sigmoid", {}),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.375}),
    ("Tanh", {}),
    ("Softplus", {}),
    ("Softsign", {}),
    ("Mish", {}),
    ("Exp", {}),
    ("Abs", {}),
    ("Neg", {}),
    ("Floor", {}),
    ("Ceil", {}),
    ("Sign", {}),
]
ROUNDINGS = 16
"""More than any of these formulas has operations, the library functions' own few units included."""


def close(found: np.ndarray, wanted: np.ndarray, *terms: np.ndarray, roundings: float = ROUNDINGS) -> None:
    """Within ``roundings`` units of the result and of the terms that it is the sum of; NaN and infinities the same."""
    assert found.shape == wanted.shape
    scale = np.abs(wanted) + sum(np.abs(term) for term in terms)
    with np.errstate(invalid="ignore"):
        ok = (np.abs(found - wanted) <= roundings * EPSILON * scale) | (found == wanted)
    assert (ok | (np.isnan(found) & np.isnan(wanted))).all()


@pytest.mark.parametrize(("op", "attributes"), UNARY, ids=str)
def test_unary(op: str, attributes: dict) -> None:
    # terms of magnitude 1 and x: where a formula of ONNX's evaluator subtracts from 1, its own error is of that size
    close(evaluate(op, [X], **attributes), onnx_reference(op, [X], **attributes), X, np.ones_like(X))


def test_positive_arguments() -> None:
    x = np.abs(X) + 0.1
    for op in ("Log", "Sqrt", "Reciprocal"):
        close(evaluate(op, [x]), onnx_reference(op, [x]), np.ones_like(x))


def test_activations_by_their_definitions() -> None:
    """Where ONNX's evaluator computes in fp32 or has no such operator."""
    celu = [max(0.0, x) + min(0.0, 0.5 * math.expm1(x / 0.5)) for x in X]
    close(evaluate("Celu", [X], alpha=0.5), np.array(celu))
    close(evaluate("Silu", [X]), np.array([x / (1 + math.exp(-x)) for x in X]))
    close(evaluate("HardSwish", [X]), np.array([x * max(0.0, min(1.0, x / 6 + 0.5)) for x in X]), X)
    close(evaluate("Gelu", [X]), np.array([x / 2 * (1 + math.erf(x / math.sqrt(2))) for x in X]), X)
    tanh = [x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) for x in X]
    close(evaluate("Gelu", [X], approximate="tanh"), np.array(tanh), X)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Equal", "Less", "LessOrEqual", "Greater"])
def test_binary(op: str) -> None:
    a, b = X[:200].reshape(10, 20), Y[:200].reshape(10, 20)
    for right in (b, b[0], b[:, :1]):
        np.testing.assert_array_equal(evaluate(op, [a, right]), onnx_reference(op, [a, right]))


def test_logic_and_where() -> None:
    a, b = X > 0, Y > 0
    np.testing.assert_array_equal(evaluate("And", [a, b]), a & b)
    np.testing.assert_array_equal(evaluate("Or", [a, b]), a | b)
    np.testing.assert_array_equal(evaluate("Not", [a]), ~a)
    np.testing.assert_array_equal(evaluate("Where", [a, X, Y]), onnx_reference("Where", [a, X, Y]))
    np.testing.assert_array_equal(evaluate("GreaterOrEqual", [X, Y]), X >= Y)


def test_pow_and_prelu() -> None:
    x = np.abs(X) + 0.1
    close(evaluate("Pow", [x, Y / 8]), np.array([math.pow(a, b) for a, b in zip(x, Y / 8, strict=True)]))
    np.testing.assert_array_equal(evaluate("PRelu", [X, Y]), onnx_reference("PRelu", [X, Y]))
    special = evaluate("Pow", [np.array([-np.inf, -0.0, -1.0, 9.0]), np.array(0.5)])
    np.testing.assert_array_equal(special, [np.inf, 0.0, np.nan, 3.0])
    assert not np.signbit(special[1])
    assert evaluate("Pow", [np.array([2, 3]), np.array([10, -1])]).tolist() == [1024, 0]
    assert evaluate("Pow", [np.array([4, 9]), np.array([0.5, 0.5])]).tolist() == [2, 3]


def test_integer_division_truncates() -> None:
    a, b = np.array([7, -7, 7, -7, 6, 2**62 + 1]), np.array([2, 2, -2, -2, -3, 1])
    assert evaluate("Div", [a, b]).tolist() == [3, -3, -3, 3, -2, 2**62 + 1]
    assert evaluate("Div", [a.astype(np.uint8), np.array([2] * 6, np.uint8)]).tolist() == [3, 124, 3, 124, 3, 0]


def test_clip() -> None:
    np.testing.assert_array_equal(evaluate("Clip", [X], min=-1.0, max=2.0), np.clip(X, -1, 2))
    np.testing.assert_array_equal(evaluate("Clip", [X]), X)
    integers = np.array([-(2**62) - 1, 0, 2**62 + 1])
    np.testing.assert_array_equal(evaluate("Clip", [integers]), integers)
    assert evaluate("Clip", [integers], min=-3.5, max=3.5).tolist() == [-3, 0, 3]
    assert evaluate("Clip", [np.array([5], np.uint8)], min=0.0, max=6.0).tolist() == [5]


def test_casts() -> None:
    x = np.array([1.7, -1.7, 0.0, 300.5, np.nan])
    assert evaluate("Cast", [x[:4]], dtype=DType.INT32).tolist() == [1, -1, 0, 300]
    assert evaluate("Cast", [x], dtype=DType.BOOL).tolist() == [True, True, False, True, True]
    assert evaluate("Cast", [np.array([70000.0, -70000.0])], dtype=DType.FP16).tolist() == [np.inf, -np.inf]
    assert evaluate("Cast", [np.array([True, False])], dtype=DType.BF16).astype(float).tolist() == [1, 0]


@pytest.mark.parametrize("op", ["Relu", "LeakyRelu", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish", "Clip", "Tanh"])
@pytest.mark.parametrize("dtype", [DType.FP64, DType.FP32, DType.FP16, DType.BF16], ids=str)
def test_activations_propagate_nan(op: str, dtype: DType) -> None:
    assert np.isnan(evaluate(op, [np.array([np.nan], dtype.numpy)]).astype(np.float64)).all()


@pytest.mark.parametrize("op", ["Max", "Min", "PRelu", "Add", "Pow"])
def test_binary_operators_propagate_nan(op: str) -> None:
    nan, two = np.array([np.nan], np.float32), np.array([2], np.float32)
    assert np.isnan(evaluate(op, [nan, two])).all()


def test_special_values() -> None:
    wanted = {"Relu": [0, 0, 1, 0, np.inf, 0, np.nan], "Sign": [0, 0, 1, -1, 1, -1, np.nan]}
    for op, values in wanted.items():
        np.testing.assert_array_equal(evaluate(op, [SPECIAL]), values)
    np.testing.assert_array_equal(evaluate("Reciprocal", [SPECIAL])[:2], [np.inf, -np.inf])
    np.testing.assert_array_equal(evaluate("Sigmoid", [SPECIAL])[4:6], [1, 0])


def test_halves_round_once() -> None:
    """A half's result is the fp32 result, rounded: the intermediate steps are not."""
    for dtype in (DType.FP16, DType.BF16):
        x = X.astype(dtype.numpy)
        for op in ("Gelu", "Mish", "Selu", "Silu", "Tanh"):
            wide = evaluate(op, [x.astype(np.float32)])
            np.testing.assert_array_equal(evaluate(op, [x]), wide.astype(dtype.numpy))


def test_erf_to_a_few_units() -> None:
    x = np.concatenate([np.linspace(-7, 7, 20001), np.logspace(-300, 1, 1000)])
    wanted = np.array([math.erf(value) for value in x])
    # 9 coefficients a polynomial: two evaluations of 2·8 roundings would allow 32; Cody states 1 unit of his own
    close(erf(x), wanted, roundings=8)
    np.testing.assert_array_equal(erf(SPECIAL[[0, 1, 4, 5, 6]]), [0, -0.0, 1, -1, np.nan])


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("op", sorted(name for name in operators() if name.startswith("Reduce")))
def test_reductions(op: str, keepdims: bool) -> None:
    x = np.random.default_rng(3).uniform(0.5, 2, (3, 4, 5))
    for axes in ((0,), (1, 2), (0, 1, 2)):
        found = evaluate(op, [x], axes=axes, keepdims=keepdims)
        wanted = onnx_reference(op, [x, np.array(axes)], keepdims=int(keepdims))
        # logarithms turn a relative error into an absolute one
        close(found, wanted, np.ones_like(wanted), roundings=2 * x.size)


def test_reductions_of_extremes() -> None:
    x = np.array([[np.inf, 1.0], [-np.inf, -np.inf], [1e300, 1e300]])
    found = evaluate("ReduceLogSumExp", [x], axes=(1,), keepdims=False)
    np.testing.assert_array_equal(found, [np.inf, -np.inf, 1e300])
    assert np.isnan(evaluate("ReduceMax", [np.array([1, np.nan], np.float32)], axes=(0,)))
    empty = np.zeros((2, 0), np.float32)
    assert evaluate("ReduceMax", [empty], axes=(1,), keepdims=False).tolist() == [-np.inf, -np.inf]
    assert evaluate("ReduceSum", [np.array([100, 100], np.int8)], axes=(0,)).dtype == np.int8
    assert evaluate("ReduceMean", [np.array([1, 2, 4], np.int32)], axes=(0,)).tolist() == [2]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(op: str, axis: int) -> None:
    x = np.random.default_rng(4).normal(0, 4, (3, 4, 5))
    close(evaluate(op, [x], axis=axis), onnx_reference(op, [x], axis=axis), x, np.full_like(x, np.abs(x).max()))
    sums = evaluate("Softmax", [x * 1000], axis=axis).sum(axis=axis)
    assert (np.abs(sums - 1) <= accumulated(x.shape[axis] + 1, EPSILON)).all()


def test_batch_normalization() -> None:
    rng = np.random.default_rng(5)
    arrays = [rng.normal(0, 1, (2, 3, 4, 5)), *rng.uniform(0.5, 2, (4, 3))]
    found = evaluate("BatchNormalization", arrays, epsilon=2.0**-10)
    close(found, onnx_reference("BatchNormalization", arrays, epsilon=2.0**-10), np.full_like(found, 10))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
def test_local_response_normalization(size: int) -> None:
    x = np.random.default_rng(6).normal(0, 1, (2, 7, 3, 4))
    attributes = {"size": size, "alpha": 0.25, "beta": 0.75, "bias": 1.5}
    sums = np.zeros_like(x)
    for channel in range(7):
        low, high = max(0, channel - (size - 1) // 2), min(6, channel + size // 2)
        sums[:, channel] = (x[:, low : high + 1] ** 2).sum(axis=1)
    close(evaluate("LRN", [x], **attributes), x / (1.5 + 0.25 / size * sums) ** 0.75)
    if size % 2 == 0:
        return  # ONNX Runtime has odd sizes only
    single = onnx_runtime("LRN", [x.astype(np.float32)], **attributes)
    assert np.abs(evaluate("LRN", [x], **attributes) - single).max() <= ROUNDINGS * DType.FP32.epsilon * np.abs(x).max()


@pytest.mark.parametrize(
    ("a", "b"), [((4, 5), (5, 6)), ((5,), (5,)), ((5,), (2, 5, 3)), ((2, 3, 5), (5,)), ((2, 1, 4, 5), (3, 5, 6))]
)
def test_matmul(a: tuple, b: tuple) -> None:
    x, y = np.random.default_rng(7).normal(size=a), np.random.default_rng(8).normal(size=b)
    found = evaluate("MatMul", [x, y])
    close(found, onnx_reference("MatMul", [x, y]), np.asarray(np.matmul(np.abs(x), np.abs(y))), roundings=10)


@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("c", [None, (), (6,), (4, 1), (1, 6), (4, 6)])
def test_gemm(trans_a: bool, trans_b: bool, c: tuple | None) -> None:
    rng = np.random.default_rng(9)
    arrays = [rng.normal(size=(5, 4) if trans_a else (4, 5)), rng.normal(size=(6, 5) if trans_b else (5, 6))]
    arrays += [] if c is None else [np.asarray(rng.normal(size=c))]
    found = evaluate("Gemm", arrays, alpha=0.5, beta=2.0, trans_a=trans_a, trans_b=trans_b)
    wanted = onnx_reference("Gemm", arrays, alpha=0.5, beta=2.0, transA=int(trans_a), transB=int(trans_b))
    close(found, wanted, np.full_like(found, 5 * max(np.abs(array).max() for array in arrays) ** 2))


def test_views_and_movement() -> None:
    x = np.arange(60.0).reshape(3, 4, 5)
    same = np.testing.assert_array_equal
    same(evaluate("Reshape", [x], shape=(5, 12)), x.reshape(5, 12))
    same(evaluate("Transpose", [x], perm=(2, 0, 1)), onnx_reference("Transpose", [x], perm=(2, 0, 1)))
    same(evaluate("Expand", [x[:, :1]], shape=(2, 3, 4, 5)), np.broadcast_to(x[:, :1], (2, 3, 4, 5)))
    same(evaluate("Slice", [x], starts=(2, 0, 4), sizes=(3, 2, 2), steps=(-1, 2, -4)), x[::-1, 0:4:2, ::-4])
    same(evaluate("Slice", [x], starts=(0, 0, 0), sizes=(0, 4, 5), steps=(1, 1, 1)), x[:0])
    same(evaluate("Concat", [x, x[:1]], axis=0), np.concatenate([x, x[:1]]))
    indices = np.array([[0, -1], [2, 1]])
    same(evaluate("Gather", [x, indices], axis=1), onnx_reference("Gather", [x, indices], axis=1))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize("dtype", [DType.FP64, DType.FP16, DType.BF16, DType.INT32], ids=str)
def test_pad(mode: str, dtype: DType) -> None:
    x = np.arange(12).reshape(3, 4).astype(dtype.numpy)
    found = evaluate("Pad", [x], pads=(1, 2, 2, 3), mode=mode, value=7.0)
    wide = x.astype(np.float64)
    wanted = onnx_reference("Pad", [wide, np.array([1, 2, 2, 3]), np.array(7.0)], mode=mode)
    np.testing.assert_array_equal(found.astype(np.float64), wanted)
