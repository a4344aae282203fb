"""Rewrites keep what a graph computes, in float64, and decline where they would not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from compiled import Builder, conv, evaluate

from convc.ir import Graph, Value
from convc.passes.canonical.affine import fold_batch_norm, fold_scale, fold_shift
from convc.passes.canonical.concat import nest_concat
from convc.passes.canonical.constants import fold_constants
from convc.passes.canonical.groups import block_diagonal, merge_factor, merge_groups
from convc.passes.canonical.padding import fold_pad
from convc.passes.canonical.scaling import merge_affine
from convc.passes.canonical.views import flatten_into_weights, isolate_outputs, simplify_views

Rewrite = Callable[[Graph], bool]
RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def applied(b: Builder, rewrite: Rewrite) -> Counter[str]:
    """Operators after a rewrite that must fire and keep the results: weights are rounded to fp32 once (the bound)."""
    expected = evaluate(b.graph, b.inputs)
    assert rewrite(b.graph)
    b.graph.prune()
    found = evaluate(b.graph, b.inputs)
    for name, array in expected.items():
        scale = np.abs(array).max(initial=0) + 1
        np.testing.assert_allclose(found[name], array, rtol=0, atol=64 * 2.0**-24 * scale)
    return operators(b.graph)


def declined(b: Builder, rewrite: Rewrite) -> None:
    before = b.graph.copy()
    assert not rewrite(b.graph)
    b.graph.prune()
    assert b.graph == before


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes() if node.op not in ("Input", "Output", "Constant"))


def image(b: Builder, channels: int = 4, size: int = 6) -> Value:
    return b.input(normal(2, channels, size, size))


# -- batch normalisation, scale and shift -------------------------------------------------------------------------
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


def test_a_constant_divided_by_a_convolution_and_scaled_products_decline() -> None:
    b = Builder()
    y = conv(b, image(b), normal(6, 4, 1, 1))
    b.output(b.add("Div", b.constant(np.float32(2)), y))
    product = b.add("Gemm", b.input(normal(3, 5)), b.constant(normal(5, 7)), alpha=0.5)
    b.output(b.add("Mul", product, b.constant(normal(7))))
    declined(b, fold_scale)


def test_batch_norm_with_a_broken_variance_declines() -> None:
    b = Builder()
    b.output(norm(b, conv(b, image(b), normal(6, 4, 1, 1)), 6, variance=np.full(6, -1, np.float32)))
    declined(b, fold_batch_norm)


def test_scales_and_shifts_merge() -> None:
    """(c − x/255) / d per channel, and once more behind an operator between."""
    b = Builder()
    y = b.add("Div", image(b), b.constant(255.0))
    y = b.add("Div", b.add("Sub", b.constant(normal(4, 1, 1)), y), b.constant(np.abs(normal(1, 4, 1, 1)) + 1))
    y = b.add("Relu", y)
    b.output(b.add("Mul", b.add("Mul", y, b.constant(2.0)), b.constant(0.5)))
    assert applied(b, merge_affine) == {"Mul": 1, "Add": 1, "Relu": 1}


@pytest.mark.parametrize("case", ["two already", "read twice", "per pixel", "not finite", "a quotient", "half"])
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
        y = b.add("Div", y, b.constant(last))
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


# -- padding ------------------------------------------------------------------------------------------------------
def pad(b: Builder, x: Value, pads: tuple[int, ...] = (0, 0, 1, 0, 0, 0, 2, 1), **attributes: object) -> Value:
    return b.add("Pad", x, pads=pads, **attributes)


def average(b: Builder, x: Value, kernel: int = 4, **attributes: object) -> Value:
    window = {"kernel_shape": (kernel,) * 2, "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    return b.add("AveragePool", x, **{"ceil_mode": False, "count_include_pad": False, **window, **attributes})


def test_zero_padding_folds() -> None:
    b = Builder()
    b.output(conv(b, pad(b, image(b)), normal(6, 4, 3, 3), pads=(1, 0, 0, 1)))
    b.output(average(b, pad(b, image(b))))
    b.output(average(b, pad(b, image(b)), pads=(1,) * 4, count_include_pad=True))
    assert applied(b, fold_pad) == {"Conv": 1, "AveragePool": 2}


def test_padding_that_is_not_a_window_s_own_declines() -> None:
    b = Builder()
    weights = normal(6, 4, 3, 3)
    b.output(conv(b, pad(b, image(b), value=1.0), weights))
    b.output(conv(b, pad(b, image(b), mode="edge"), weights))
    b.output(conv(b, pad(b, image(b), mode="reflect"), weights))
    b.output(conv(b, pad(b, image(b, 3), (0, 1, 0, 0, 0, 0, 0, 0)), weights))
    b.output(average(b, pad(b, image(b)), pads=(1,) * 4))
    b.output(average(b, pad(b, image(b)), ceil_mode=True))
    b.output(average(b, pad(b, image(b)), kernel=2))
    declined(b, fold_pad)


# -- groups -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("groups, depth, filters", [(8, 4, 4), (4, 3, 5), (6, 2, 1), (32, 4, 4)])
def test_groups_merge(groups: int, depth: int, filters: int) -> None:
    b = Builder()
    x = b.input(normal(1, groups * depth, 5, 4))
    b.output(conv(b, x, normal(groups * filters, depth, 3, 3), normal(groups * filters), groups=groups))
    assert applied(b, merge_groups) == {"Conv": 1}
    (node,) = b.graph.of_kind("Conv")
    assert node.attributes["groups"] < groups
    assert b.graph.type(b.graph.inputs(node)[1]).shape[1] >= min(16, groups * depth)


def test_groups_that_need_no_merging() -> None:
    assert merge_factor(1, 64, 3) == merge_factor(8, 8, 1) == merge_factor(4, 64, 16) == 1
    b = Builder()
    attributes = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    b.output(b.add("Conv", image(b, 8), b.input(normal(8, 2, 3, 3)), groups=4, **attributes))
    b.output(conv(b, image(b, 8), normal(8, 1, 3, 3), groups=8))
    declined(b, merge_groups)


def test_a_block_diagonal() -> None:
    weight = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    expected = [[1, 2, 0, 0], [0, 0, 3, 4], [5, 6, 0, 0], [0, 0, 7, 8]]
    np.testing.assert_array_equal(block_diagonal(weight, 4, 2), expected)


# -- concatenation, views, constants ------------------------------------------------------------------------------
def test_concatenations_with_a_common_beginning_nest() -> None:
    b = Builder()
    parts = [b.add("Relu", image(b)) for _ in range(4)]
    for count in (2, 3, 4):
        b.output(b.add("Concat", *parts[:count], axis=1))
    assert applied(b, nest_concat)["Concat"] == 3
    assert [len(b.graph.inputs(node)) for node in b.graph.of_kind("Concat")] == [2, 2, 2]


def test_concatenations_that_differ_do_not_nest() -> None:
    b = Builder()
    x, y, z = image(b), image(b), image(b)
    b.output(b.add("Concat", x, y, axis=1))
    b.output(b.add("Concat", x, y, z, axis=2))
    b.output(b.add("Concat", y, x, z, axis=1))
    declined(b, nest_concat)


@pytest.mark.parametrize("trans_b", [True, False])
def test_flattening_moves_into_the_weights(trans_b: bool) -> None:
    b = Builder()
    flat = b.add("Reshape", image(b, 3, 4), shape=(2, 48))
    weights = b.constant(normal(5, 48) if trans_b else normal(48, 5))
    b.output(b.add("Gemm", flat, weights, b.constant(normal(5)), trans_b=trans_b))
    b.output(b.add("MatMul", flat, b.constant(normal(48, 2))))
    found = applied(b, flatten_into_weights)
    assert found["Transpose"] == 2 and found["Reshape"] == 2


def test_what_is_no_flattening_stays() -> None:
    b = Builder()
    flat = b.add("Reshape", image(b, 3, 4), shape=(2, 48))
    b.output(b.add("Gemm", flat, b.input(normal(48, 5))))
    b.output(b.add("Gemm", flat, b.constant(normal(2, 5)), trans_a=True))
    b.output(b.add("MatMul", b.add("Reshape", image(b, 3, 4), shape=(4, 24)), b.constant(normal(24, 2))))
    b.output(b.add("MatMul", b.add("Reshape", b.input(normal(2, 9, 1, 1)), shape=(2, 9)), b.constant(normal(9, 2))))
    b.output(b.add("MatMul", b.constant(normal(4, 2)), b.add("Reshape", image(b, 3, 4), shape=(2, 48))))
    declined(b, flatten_into_weights)


def test_views_that_change_nothing_go_and_others_compose() -> None:
    b = Builder()
    x = b.input(normal(2, 3, 4))
    there = b.add("Transpose", x, perm=(1, 2, 0))
    b.output(b.add("Relu", b.add("Transpose", there, perm=(2, 0, 1))))
    twice = b.add("Reshape", b.add("Reshape", x, shape=(6, 4)), shape=(2, 2, 6))
    b.output(b.add("Relu", twice))
    same = b.add("Slice", x, starts=(0, 0, 0), sizes=(2, 3, 4), steps=(1, 1, 1))
    b.output(b.add("Relu", b.add("Pad", b.add("Concat", same, axis=0), pads=(0,) * 6)))
    assert applied(b, simplify_views) == {"Relu": 3, "Reshape": 1}


def test_a_reversal_is_no_identity() -> None:
    b = Builder()
    b.output(b.add("Slice", b.input(normal(1, 4)), starts=(0, 3), sizes=(1, 4), steps=(1, -1)))
    b.output(b.add("Reshape", b.input(normal(2, 2)), shape=(4,)))
    b.output(b.add("Transpose", b.input(normal(3, 3)), perm=(1, 0)))
    declined(b, simplify_views)


def test_constants_fold_through_everything() -> None:
    b = Builder()
    c = b.add("Relu", b.add("Transpose", b.constant(normal(3, 2)), perm=(1, 0)))
    b.output(b.add("Add", b.input(normal(2, 3)), b.add("Mul", c, b.constant(np.float32(0.1)))))
    assert applied(b, fold_constants) == {"Add": 1}


def test_outputs_have_kernels_of_their_own() -> None:
    b = Builder()
    x = b.input(normal(2, 3))
    y = b.add("Relu", x)
    for value in (x, y, y, b.constant(normal(2)), b.add("Slice", y, starts=(0, 0), sizes=(1, 3), steps=(1, 1))):
        b.output(value)
    assert applied(b, isolate_outputs)["Copy"] >= 3
    producers = [b.graph.inputs(node)[0] for node in b.graph.graph_outputs]
    assert len(set(producers)) == len(producers)
