"""Batch normalisation, scales and shifts: what weights and biases take, what merges, and each reason to leave them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compiled import Builder, conv
from rewriting import Rewrite, applied, declined, image, normal

from convc.ir import Value
from convc.passes.canonical.affine import expand_batch_norm, fold_batch_norm, fold_scale, fold_shift
from convc.passes.canonical.scaling import merge_affine


def norm(b: Builder, x: Value, channels: int, **replaced: np.ndarray) -> Value:
    arrays = {"scale": normal(channels), "bias": normal(channels), "mean": normal(channels)}
    arrays |= {"variance": np.abs(normal(channels)) + np.float32(0.5)} | replaced
    return b.add("BatchNormalization", x, *map(b.constant, arrays.values()), epsilon=1e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_folds(bias: bool, groups: int) -> None:
    b = Builder()
    y = conv(b, image(b), normal(6, 4 // groups, 3, 3), *([normal(6)] if bias else []), groups=groups)
    b.output(norm(b, y, 6))
    assert applied(b, fold_batch_norm) == {"Conv": 1}


SHAPES = [(), (1,), (6, 1, 1), (1, 6, 1, 1), (1, 1, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op, first", [("Mul", False), ("Mul", True), ("Div", False)])
def test_scale_folds(op: str, first: bool, shape: tuple[int, ...]) -> None:
    b = Builder()
    y, s = conv(b, image(b), normal(6, 4, 1, 1), normal(6)), b.constant(np.abs(normal(*shape)) + np.float32(0.5))
    b.output(b.add(op, *((s, y) if first else (y, s))))
    assert applied(b, fold_scale) == {"Conv": 1}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("op, first", [("Add", False), ("Add", True), ("Sub", False)])
def test_shift_folds(op: str, first: bool, shape: tuple[int, ...]) -> None:
    b = Builder()
    y, t = conv(b, image(b), normal(6, 4, 1, 1), normal(6)), b.constant(np.asarray(normal(*shape)))
    b.output(b.add(op, *((t, y) if first else (y, t))))
    assert applied(b, fold_shift) == {"Conv": 1}


@pytest.mark.parametrize("trans_b", [False, True])
def test_a_matrix_product_takes_scale_and_shift(trans_b: bool) -> None:
    b = Builder()
    x, w = b.input(normal(3, 5)), b.constant(normal(7, 5) if trans_b else normal(5, 7))
    product = b.add("Gemm", x, w, b.constant(normal(7)), trans_b=trans_b)
    b.output(b.add("Add", b.add("Mul", product, b.constant(normal(7))), b.constant(normal(1, 7))))
    assert applied(b, fold_scale) == {"Gemm": 1, "Add": 1}
    assert applied(b, fold_shift) == {"Gemm": 1}


def per_pixel(b: Builder) -> Value:
    return b.constant(normal(1, 1, 6, 6))


FACTORS: dict[str, Callable[[Builder], Value]] = {
    "per pixel": per_pixel,
    "per image": lambda b: b.constant(normal(2, 1, 1, 1)),
    "computed": lambda b: b.input(normal(6, 1, 1)),
    "infinite": lambda b: b.constant(np.array([np.inf] + [1] * 5, np.float32).reshape(6, 1, 1)),
    "NaN": lambda b: b.constant(np.float32(np.nan)),
    "overflowing": lambda b: b.constant(np.full((6, 1, 1), 3e38, np.float32)),
    "larger": lambda b: b.constant(normal(3, 1, 1, 1, 1)),
}


@pytest.mark.parametrize("factor", FACTORS)
def test_scale_declines(factor: str) -> None:
    b = Builder()
    b.output(b.add("Mul", conv(b, image(b), np.float32(8) + np.abs(normal(6, 4, 1, 1))), FACTORS[factor](b)))
    declined(b, fold_scale)


@pytest.mark.parametrize("addend", [name for name in FACTORS if name != "overflowing"])
def test_shift_declines(addend: str) -> None:
    b = Builder()
    b.output(b.add("Add", conv(b, image(b), normal(6, 4, 1, 1)), FACTORS[addend](b)))
    declined(b, fold_shift)


@pytest.mark.parametrize("rewrite", [fold_scale, fold_shift, fold_batch_norm])
def test_a_convolution_that_others_read_is_left_alone(rewrite: Rewrite) -> None:
    b = Builder()
    y = conv(b, image(b), normal(6, 4, 1, 1))
    b.output(y)
    b.output(b.add("Mul", y, b.constant(np.float32(2))))
    b.output(b.add("Add", y, b.constant(np.float32(2))))
    b.output(norm(b, y, 6))
    declined(b, rewrite)


@pytest.mark.parametrize("rewrite", [fold_scale, fold_shift, fold_batch_norm])
def test_weights_or_biases_that_are_computed_decline(rewrite: Rewrite) -> None:
    b = Builder()
    x, attributes = image(b), {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "groups": 1}
    for weights, bias in (
        (b.input(normal(6, 4, 1, 1)), b.constant(normal(6))),
        (b.constant(normal(6, 4, 1, 1)), b.input(normal(6))),
    ):
        b.output(b.add("Mul", b.add("Conv", x, weights, bias, **attributes), b.constant(np.float32(2))))
        b.output(b.add("Add", b.add("Conv", x, weights, bias, **attributes), b.constant(np.float32(2))))
        b.output(norm(b, b.add("Conv", x, weights, bias, **attributes), 6))
    declined(b, rewrite)


@pytest.mark.parametrize(("op", "rewrite"), [("Div", fold_scale), ("Sub", fold_shift)])
def test_a_constant_divided_by_a_convolution_or_less_it_declines(op: str, rewrite: Rewrite) -> None:
    b = Builder()
    b.output(b.add(op, b.constant(np.float32(2)), conv(b, image(b), normal(6, 4, 1, 1))))
    declined(b, rewrite)


def test_products_of_integers_stay() -> None:
    b = Builder()
    product = b.add("Gemm", b.input(np.ones((3, 5), np.int32)), b.constant(np.ones((5, 7), np.int32)))
    b.output(b.add("Mul", product, b.constant(np.full(7, 2, np.int32))))
    declined(b, fold_scale)


@pytest.mark.parametrize("rewrite", [fold_scale, fold_shift, fold_batch_norm])
@pytest.mark.parametrize("factor", ["alpha", "beta", "bias per row"])
def test_scaled_products_and_biases_that_vary_along_rows_decline(factor: str, rewrite: Rewrite) -> None:
    b = Builder()
    for op in ("Mul", "Add", "BatchNormalization"):
        operands = b.input(normal(3, 5)), b.constant(normal(5, 7)), b.constant(normal(3, 1))
        product = b.add("Gemm", *operands, **({} if factor == "bias per row" else {factor: 0.5}))
        b.output(norm(b, product, 7) if op == "BatchNormalization" else b.add(op, product, b.constant(normal(7))))
    declined(b, rewrite)


BROKEN: dict[str, dict[str, np.ndarray]] = {
    "a negative variance": {"variance": np.full(6, -1, np.float32)},
    "an infinite shift": {"bias": np.full(6, np.inf, np.float32)},
}


@pytest.mark.parametrize("statistics", [*BROKEN, "overflowing weights", "a computed mean"])
def test_batch_norm_folds_constant_and_finite_statistics_only(statistics: str) -> None:
    b = Builder()
    replaced = BROKEN.get(statistics, {})
    if statistics == "overflowing weights":
        replaced = {"scale": np.full(6, 3e38, np.float32)}
    y = norm(b, conv(b, image(b), np.float32(8) + np.abs(normal(6, 4, 1, 1))), 6, **replaced)
    if statistics == "a computed mean":
        use = next(use for use in b.graph.users(b.graph.inputs(y.node)[3]) if use.node == y.node)
        b.graph.rewire(use, b.input(normal(6)))
    b.output(y)
    declined(b, fold_batch_norm)


def test_batch_norm_becomes_two_constants_per_channel() -> None:
    b = Builder()
    b.output(norm(b, image(b), 4))
    b.output(norm(b, b.input(normal(3, 5)), 5))
    assert applied(b, expand_batch_norm) == {"Mul": 2, "Add": 2}


@pytest.mark.parametrize("statistics", [*BROKEN, "a computed mean", "half"])
def test_batch_norm_stays_whole(statistics: str) -> None:
    b = Builder()
    half = np.float16 if statistics == "half" else np.float32
    x = b.input(normal(2, 6, 5, 5).astype(half))
    arrays = {name: np.full(6, 2, half) for name in ("scale", "bias", "mean", "variance")}
    arrays |= BROKEN.get(statistics, {})
    operands = {name: b.constant(array) for name, array in arrays.items()}
    if statistics == "a computed mean":
        operands["mean"] = b.input(normal(6))
    b.output(b.add("BatchNormalization", x, *operands.values(), epsilon=1e-3))
    declined(b, expand_batch_norm)


def test_scales_and_shifts_merge() -> None:
    """(c − x/255) / d per channel, and once more behind an operator between."""
    b = Builder()
    y = b.add("Div", image(b), b.constant(255.0))
    y = b.add("Div", b.add("Sub", b.constant(normal(4, 1, 1)), y), b.constant(np.abs(normal(1, 4, 1, 1)) + 1))
    y = b.add("Relu", y)
    b.output(b.add("Mul", b.add("Mul", y, b.constant(2.0)), b.constant(0.5)))
    assert applied(b, merge_affine) == {"Mul": 1, "Add": 1, "Relu": 1}


@pytest.mark.parametrize(
    "case", ["two already", "read twice", "per pixel", "computed", "not finite", "a quotient", "half"]
)
def test_scales_and_shifts_that_do_not_merge(case: str) -> None:
    b = Builder()
    x = b.input(normal(2, 4, 6, 6).astype(np.float16 if case == "half" else np.float32))
    kind = np.float16 if case == "half" else np.float32
    s, t = (b.constant(normal(4, 1, 1).astype(kind)) for _ in range(2))
    last = {"per pixel": normal(6, 6), "not finite": np.zeros((), np.float32)}.get(case, normal(4, 1, 1).astype(kind))
    y = b.add("Add", b.add("Mul", x, s), t)
    if case == "read twice":
        b.output(b.add("Relu", y))
    if case == "a quotient":
        y = b.add("Div", b.constant(last), y)
    elif case != "two already":
        y = b.add("Div", y, b.input(last) if case == "computed" else b.constant(last))
    b.output(y)
    declined(b, merge_affine)


def test_folding_rounds_once() -> None:
    """fp32 weights after folding are the float64 products rounded, not rounded twice."""
    b = Builder()
    weights, scale = normal(6, 4, 3, 3), normal(6)
    b.output(norm(b, conv(b, image(b), weights), 6, scale=scale, variance=np.full(6, 3, np.float32)))
    fold_batch_norm(b.graph)
    b.graph.prune()
    factors = scale.astype(np.float64) / np.sqrt(np.float64(3) + 1e-3)
    expected = (weights * factors[:, None, None, None]).astype(np.float32)
    np.testing.assert_array_equal(b.constants_of("Conv")[0], expected)
