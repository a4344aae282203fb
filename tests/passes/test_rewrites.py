"""Rewrites keep what a graph computes, in float64, and decline where they would not."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import Builder, conv
from rewriting import applied, declined, image, normal

from convc.ir import Value
from convc.passes.canonical.concat import nest_concat
from convc.passes.canonical.constants import fold_constants
from convc.passes.canonical.groups import block_diagonal, merge_factor, merge_groups
from convc.passes.canonical.padding import fold_pad
from convc.passes.canonical.views import flatten_into_weights, isolate_outputs, simplify_views


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


def largest(b: Builder, x: Value, kernel: int = 3, **attributes: object) -> Value:
    window = {"kernel_shape": (kernel,) * 2, "strides": (2, 2), "pads": (0, 0, 1, 0), "dilations": (1, 1)}
    return b.add("MaxPool", x, **{**window, "ceil_mode": False, **attributes})


@pytest.mark.parametrize(
    ("op", "value"), [("Neg", -np.inf), ("Relu", 0.0), ("Relu", -1.0), ("Abs", 0.0), ("Clip", 0.0)]
)
def test_padding_that_is_never_the_largest_folds(op: str, value: float) -> None:
    b = Builder()
    x = b.add(op, image(b), **({"min": 0.0, "max": 6.0} if op == "Clip" else {}))
    b.output(largest(b, pad(b, x, (0, 0, 1, 1, 0, 0, 1, 0), value=float(value))))
    assert applied(b, fold_pad) == {op: 1, "MaxPool": 1}


@pytest.mark.parametrize(
    ("op", "value", "kernel", "attributes"),
    [
        ("Neg", 0.0, 3, {}),
        ("Relu", 1.0, 3, {}),
        ("Clip", 0.0, 3, {}),
        ("Relu", 0.0, 2, {}),
        ("Relu", 0.0, 3, {"ceil_mode": True}),
    ],
)
def test_padding_that_may_be_the_largest_declines(
    op: str, value: float, kernel: int, attributes: dict[str, object]
) -> None:
    b = Builder()
    x = b.add(op, image(b), **({"min": -1.0, "max": 6.0} if op == "Clip" else {}))
    b.output(largest(b, pad(b, x, value=value), kernel, **attributes))
    declined(b, fold_pad)


@pytest.mark.parametrize(("size", "folds"), [(2, False), (3, True)])
def test_windows_that_step_over_all_of_their_input_see_padding_alone(size: int, folds: bool) -> None:
    """With a dilation of 3, windows of 2 places reach from one side of 2 pixels to the other."""
    b = Builder()
    x = b.add("Relu", b.input(np.ones((1, 2, size, size), np.float32)))
    b.output(largest(b, pad(b, x, (0, 0, 2, 2, 0, 0, 2, 2)), 2, dilations=(3, 3), strides=(1, 1), pads=(0,) * 4))
    if folds:
        assert applied(b, fold_pad) == {"Relu": 1, "MaxPool": 1}
    else:
        declined(b, fold_pad)


def test_padding_that_is_not_a_window_s_own_declines() -> None:
    b = Builder()
    weights = normal(6, 4, 3, 3)
    b.output(conv(b, pad(b, image(b), value=1.0), weights))
    b.output(conv(b, pad(b, image(b), mode="edge"), weights))
    b.output(conv(b, pad(b, image(b), mode="reflect"), weights))
    b.output(conv(b, pad(b, image(b, 3), (0, 1, 0, 0, 0, 0, 0, 0)), weights))
    b.output(conv(b, pad(b, image(b), (1, 0, 0, 0, 0, 0, 0, 0)), weights))
    window = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": False}
    b.output(b.add("MaxPool", pad(b, image(b)), **window))
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
    b.output(b.add("Concat", x, z, y, axis=1))  # one operand in common
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
    b.output(b.add("MatMul", b.add("Reshape", image(b, 1, 3), shape=(2, 9)), b.constant(normal(9, 2))))
    b.output(b.add("MatMul", flat, b.constant(normal(3, 48, 2))))
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
