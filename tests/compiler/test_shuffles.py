"""Kernels that store their result in the order that reshapes and transpositions behind them make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import shape_of
from compiled import APART, Builder, conv, evaluate, planned, run_planned, same
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_checks import emitted, kernel_checks
from small_networks import POOL, weights

from convc.analysis.explain import explain
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.ir import Value
from convc.ir.plan import Placement, Tile
from convc.passes import Switches
from convc.passes.shuffles import RULE, regrouped, sliced
from convc.planner import make_plan
from convc.program import Options, Plan

FEW = settings(settings.get_profile("shared-process"), max_examples=12)


def moved(b: Builder, x: Value, fine: tuple[int, ...], perm: tuple[int, ...], coarse: tuple[int, ...]) -> Value:
    y = b.add("Transpose", b.add("Reshape", x, shape=fine), perm=perm)
    return b.add("Reshape", y, shape=coarse)


def channel_shuffle(b: Builder, x: Value, groups: int = 2) -> Value:
    n, c, h, w = shape_of(b, x)
    return moved(b, x, (n, groups, c // groups, h, w), (0, 2, 1, 3, 4), (n, c, h, w))


def depth_to_space(b: Builder, x: Value, r: int = 2) -> Value:
    n, c, h, w = shape_of(b, x)
    return moved(b, x, (n, c // (r * r), r, r, h, w), (0, 1, 4, 2, 5, 3), (n, c // (r * r), h * r, w * r))


def space_to_depth(b: Builder, x: Value, r: int = 2) -> Value:
    n, c, h, w = shape_of(b, x)
    return moved(b, x, (n, c, h // r, r, w // r, r), (0, 3, 5, 1, 2, 4), (n, c * r * r, h // r, w // r))


def flatten(b: Builder, x: Value) -> Value:
    n, *rest = shape_of(b, x)
    return b.add("Reshape", x, shape=(n, int(np.prod(rest))))


MOVEMENTS = {"shuffle": channel_shuffle, "up": depth_to_space, "down": space_to_depth, "flatten": flatten}
WRITERS: dict[str, Callable[[Builder, Value], Value]] = {
    "chain": lambda b, x: b.add("Relu", b.add("Sub", x, b.constant(weights(16, 1, 1)))),
    "conv": lambda b, x: conv(b, x, weights(24, 16, 3, 3), weights(24), pads=(1,) * 4),
    "narrow": lambda b, x: b.add("Relu", conv(b, x, weights(8, 16, 1, 1))),
    "groups": lambda b, x: conv(b, x, weights(8, 4, 1, 1), groups=4),
    "depthwise": lambda b, x: conv(b, x, weights(32, 1, 3, 3), groups=16, pads=(1,) * 4),
    "pool": lambda b, x: b.add("MaxPool", x, **{**POOL, "strides": (1, 1)}),
    "separable": lambda b, x: conv(
        b, conv(b, x, weights(16, 1, 3, 3), groups=16, pads=(1,) * 4), weights(12, 16, 1, 1)
    ),
    "concat": lambda b, x: b.add("Concat", b.add("Abs", x), conv(b, x, weights(16, 16, 1, 1)), axis=1),
}


def apart(b: Builder, *disabled: str, **options: Any) -> Plan:
    switches = Switches(disable=(*APART.disable, *disabled))
    return make_plan(b.graph, Options(("interpreter",), "fp16", switches=switches, **options))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@settings(FEW, max_examples=16)
@given(
    st.sampled_from(sorted(WRITERS)), st.sampled_from(sorted(MOVEMENTS)), st.integers(1, 3), st.booleans(), st.data()
)
def test_what_lies_where(dtype: str, writer: str, movement: str, batch: int, stored: bool, data: st.DataObject) -> None:
    """stored: whether the moved tensor is a result of the network, in its own order, or stays inside."""
    b = Builder()
    h, w = (2 * data.draw(st.integers(1, 4)) for _ in range(2))
    x = b.add("Neg", b.input(weights(batch, 16, h, w)))
    y = MOVEMENTS[movement](b, WRITERS[writer](b, x))
    if not stored:
        rest = shape_of(b, y)[1:]
        y = (
            conv(b, y, weights(5, rest[0], 1, 1))
            if len(rest) == 3
            else b.add("MatMul", y, b.constant(weights(*rest, 5)))
        )
    b.output(y)
    plan = planned(b.graph, dtype=dtype)
    assert plan.layouts.declines == []
    assert not any(problem.mode == "copy" for problem in plan.programs[0].problems)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def test_launches_of_shuffle_networks() -> None:
    """Two units of ShuffleNet-v1 and of v2, and a sub-pixel convolution: one copy less for each movement."""
    for build, fewer in ((_units_1, 2), (_units_2, 2), (_sub_pixel, 1)):
        b = Builder()
        b.output(build(b))
        plans = apart(b), apart(b, RULE, "shuffle-in-reader")
        with_it, without = (len(plan.programs[0].launches) for plan in plans)
        assert with_it == without - fewer
        moved = [plan.programs[0].traffic.activations for plan in plans]
        assert moved[0] < moved[1]


def _units_1(b: Builder) -> Value:
    """Ma et al.'s predecessor: grouped 1x1, shuffle, depthwise, grouped 1x1, sum (Zhang et al. 2018)."""
    x = b.add("Neg", b.input(weights(1, 48, 8, 8)))
    for _ in range(2):
        y = channel_shuffle(b, b.add("Relu", conv(b, x, weights(48, 16, 1, 1), groups=3)), 3)
        y = conv(b, y, weights(48, 1, 3, 3), groups=48, pads=(1,) * 4)
        x = b.add("Relu", b.add("Add", x, conv(b, y, weights(48, 16, 1, 1), groups=3)))
    return x


def _units_2(b: Builder) -> Value:
    """Split, 1x1, depthwise, 1x1, concatenation, shuffle (Ma et al. 2018)."""
    x = b.add("Neg", b.input(weights(1, 32, 8, 8)))
    for _ in range(2):
        left, right = (b.add("Slice", x, starts=(0, at, 0, 0), sizes=(1, 16, 8, 8), steps=(1,) * 4) for at in (0, 16))
        y = b.add("Relu", conv(b, right, weights(16, 16, 1, 1)))
        y = conv(b, y, weights(16, 1, 3, 3), groups=16, pads=(1,) * 4)
        y = b.add("Relu", conv(b, y, weights(16, 16, 1, 1)))
        x = channel_shuffle(b, b.add("Concat", left, y, axis=1))
    return b.add("Abs", x)


def _sub_pixel(b: Builder) -> Value:
    """Upscaling by a convolution with r² times the channels (Shi et al. 2016)."""
    x = b.add("Neg", b.input(weights(1, 16, 8, 8)))
    return depth_to_space(b, conv(b, x, weights(12, 16, 3, 3), pads=(1,) * 4))


# -- readers ----------------------------------------------------------------------------------------------------------
def upsampled(b: Builder, x: Value, r: int) -> Value:
    """Nearest neighbours, as exporters write them."""
    n, c, h, w = shape_of(b, x)
    y = b.add("Expand", b.add("Reshape", x, shape=(n, c, h, 1, w, 1)), shape=(n, c, h, r, w, r))
    return b.add("Reshape", y, shape=(n, c, h * r, w * r))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@FEW
@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from(["sum", "chain", "output", "twice"]), st.booleans())
def test_elementwise_operators_read_through_upsampling(
    dtype: str, r: int, batch: int, reader: str, inner: bool
) -> None:
    """A feature pyramid: the coarse level is added to a 1x1 convolution of the fine one, and is nowhere in fine."""
    b = Builder()
    coarse = b.input(weights(batch, 8, 3, 5))
    coarse = (
        b.add("ReduceMax", b.add("Reshape", coarse, shape=(1, batch, 8, 3, 5)), axes=(0,), keepdims=False)
        if inner
        else coarse
    )
    fine = upsampled(b, coarse, r + 1)
    lateral = conv(b, b.input(weights(batch, 16, 3 * r + 3, 5 * r + 5)), weights(8, 16, 1, 1))
    y = b.add("Add", lateral, fine) if reader != "chain" else b.add("Abs", fine)
    if reader == "twice":
        y = b.add("Mul", b.add("Relu", fine), y)
    if reader in ("chain", "twice"):
        b.output(y)  # so that the convolution does not compute it
    b.output(y if reader == "output" else conv(b, y, weights(5, 8, 3, 3)))
    plan = planned(b.graph, dtype=dtype)
    assert plan.layouts.read_through
    assert not any(problem.mode == "copy" for problem in plan.programs[0].problems)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_a_shuffle_that_its_writer_cannot_do_is_read_through() -> None:
    b = Builder()
    x = _inside(b)
    b.output(b.add("ReduceMax", x, axes=(2, 3), keepdims=True))
    b.output(b.add("Abs", channel_shuffle(b, x)))
    plan = planned(b.graph, dtype="fp16")
    assert len(plan.layouts.read_through) == 1
    assert not any(problem.mode == "copy" for problem in plan.programs[0].problems)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def test_bytes_that_are_read_through_upsampling_count_once() -> None:
    b = Builder()
    b.output(
        b.add("Abs", upsampled(b, b.add("ReduceMax", b.input(weights(2, 1, 8, 3, 5)), axes=(0,), keepdims=False), 2))
    )
    for disabled, copied in (("shuffle-in-reader", 2 * 8 * 15 * 4 * 2), ("", 0)):
        plan = apart(b, *([disabled] if disabled else []))
        assert plan.programs[0].traffic.activations == 8 * 15 * (2 * 4 + 2 + 2 + 4 * 4) + copied
    edges = [edge for edge in explain(apart(b)) if edge.rule == "shuffle-in-reader"]
    assert [edge.reason for edge in edges] == ["a view: what reads it steps through this tensor in its order"]


@pytest.mark.parametrize("reader", ["conv", "pool", "concat", "output", "prologue"])
def test_other_readers_read_a_copy(reader: str) -> None:
    b = Builder()
    y = upsampled(b, b.add("ReduceMax", b.input(weights(2, 1, 8, 3, 5)), axes=(0,), keepdims=False), 2)
    if reader == "prologue":
        y = b.add("Neg", y)
    if reader in ("conv", "prologue"):
        y = conv(b, y, weights(5, 8, 1, 1))
    if reader == "pool":
        y = b.add("MaxPool", y, **POOL)
    if reader == "concat":
        y = b.add("Concat", y, b.input(weights(1, 8, 6, 10)), axis=1)
    b.output(y)
    plan = planned(b.graph)
    assert plan.layouts.read_through == frozenset()
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("case", ["pooled", "channels"])
def test_epilogues_that_read_a_copy(case: str) -> None:
    """A kernel that pools what it stores, and one whose channels would step unevenly."""
    b = Builder()
    if case == "pooled":
        y = upsampled(b, b.add("ReduceMax", b.input(weights(2, 1, 8, 3, 5)), axes=(0,), keepdims=False), 2)
    else:
        x = b.add("Neg", b.input(weights(1, 8, 6, 10)))
        b.output(b.add("ReduceMax", x, axes=(2, 3), keepdims=True))
        y = channel_shuffle(b, x)
    y = b.add("Add", conv(b, b.input(weights(1, 16, 6, 10)), weights(8, 16, 1, 1)), y)
    b.output(b.add("ReduceMax", y, axes=(2, 3), keepdims=True) if case == "pooled" else y)
    plan = planned(b.graph)
    assert plan.layouts.read_through == frozenset()
    assert any(problem.mode == "copy" for problem in plan.programs[0].problems)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


# -- reasons ----------------------------------------------------------------------------------------------------------
def _inside(b: Builder, channels: int = 16) -> Value:
    return b.add("Neg", b.input(weights(4, channels, 8, 8)))


def _read_elsewhere(b: Builder) -> Value:
    x = _inside(b)
    b.output(b.add("ReduceMax", x, axes=(2, 3), keepdims=True))
    return channel_shuffle(b, x)


def _not_dividing(b: Builder) -> Value:
    y = b.add("Transpose", b.add("Neg", b.input(weights(4, 6))), perm=(1, 0))
    return b.add("Softmax", b.add("Reshape", y, shape=(8, 3)), axis=1)


def _batch(b: Builder) -> Value:
    return b.add("Abs", moved(b, _inside(b), (2, 2, 16, 8, 8), (1, 0, 2, 3, 4), (4, 16, 8, 8)))


def _pooling(b: Builder, x: Value) -> Value:
    y = conv(b, x, weights(8, 16, 3, 3), pads=(1,) * 4)
    return b.add("MaxPool", y, **{**POOL, "kernel_shape": (2, 2), "pads": (0,) * 4})


def _pooled(b: Builder) -> Value:
    return channel_shuffle(b, _pooling(b, _inside(b)))


def _uneven_slices(b: Builder) -> Value:
    x = _inside(b)
    return channel_shuffle(b, b.add("Concat", b.add("Abs", x), conv(b, x, weights(8, 16, 1, 1)), axis=1))


def _pooled_part(b: Builder) -> Value:
    return channel_shuffle(b, b.add("Concat", *(_pooling(b, _inside(b)) for _ in range(2)), axis=2))


def _uneven_slices_of_a_part(b: Builder) -> Value:
    parts = (b.add("Concat", _inside(b, 4), _inside(b, 2), axis=1) for _ in range(2))
    return channel_shuffle(b, b.add("Concat", *parts, axis=2))


def _uneven_groups_of_a_part(b: Builder) -> Value:
    parts = (conv(b, _inside(b, 48), weights(6, 16, 1, 1), groups=3) for _ in range(2))
    return channel_shuffle(b, b.add("Concat", *parts, axis=2))


def _put_in_place(b: Builder) -> Value:
    return channel_shuffle(
        b, b.add("ScatterND", _inside(b), b.constant(np.array([[1]])), b.input(weights(1, 16, 8, 8)))
    )


def _uneven_groups(b: Builder) -> Value:
    return channel_shuffle(b, conv(b, _inside(b, 48), weights(6, 16, 1, 1), groups=3), 2)


REASONS: dict[str, tuple[str, Callable[[Builder], Value]]] = {
    "read elsewhere": ("something else reads it", _read_elsewhere),
    "not dividing": ("do not divide into those of the result", _not_dividing),
    "batch": ("it would take the batch apart", _batch),
    "pooled": ("its kernel pools what it stores", _pooled),
    "slices": ("its slices do not divide", _uneven_slices),
    "groups": ("its groups do not divide", _uneven_groups),
    "a pooled part": ("its kernel pools what it stores", _pooled_part),
    "slices of a part": ("its slices do not divide", _uneven_slices_of_a_part),
    "groups of a part": ("its groups do not divide", _uneven_groups_of_a_part),
    "put in place": ("stores where indices say", _put_in_place),
}


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    reason, build = REASONS[case]
    b = Builder()
    y = build(b)
    rest = shape_of(b, y)
    b.output(conv(b, y, weights(5, rest[1], 1, 1)) if len(rest) == 4 else y)
    plan = planned(b.graph, dtype="fp16")
    (decline,) = plan.layouts.declines
    assert decline.rule == RULE and reason in decline.reason, decline
    assert any(edge.reason == f"a copy: {decline.reason}" for edge in explain(plan))
    if case != "not dividing":
        same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def test_switched_off_and_explained() -> None:
    b = Builder()
    b.output(conv(b, channel_shuffle(b, conv(b, _inside(b), weights(16, 16, 1, 1))), weights(5, 16, 1, 1)))
    plan = apart(b)
    assert [decline.reason for decline in apart(b, RULE).layouts.declines] == ["the rule is switched off"]
    into = [edge for edge in explain(plan) if edge.target.startswith(("reshape", "transpose"))]
    assert len(into) == 3
    assert {(edge.rule, edge.reason) for edge in into} == {(RULE, "a view: the kernel in front stores in its order")}


def test_free_views_are_left_alone() -> None:
    b = Builder()
    b.output(b.add("Softmax", b.add("Transpose", b.add("Neg", b.input(weights(4, 6))), perm=(1, 0)), axis=1))
    plan = apart(b)
    assert plan.layouts.shuffles == frozenset() and plan.layouts.declines == []


# -- arithmetic -------------------------------------------------------------------------------------------------------
def test_regrouping() -> None:
    assert regrouped((((2, 1), (6, 2)),), (3, 4)) is None
    assert regrouped((((2, 1), (6, 2)),), (2, 2, 3)) == (((2, 1),), ((2, 6),), ((3, 2),))
    assert regrouped((((3, 8),), ((8, 1),)), (24,)) == (((24, 1),),)
    assert regrouped((((4, 1),), ((1, 9),), ((2, 4),)), (8, 1)) == (((4, 1), (2, 4)), ((1, 0),))


def test_slices_of_parts() -> None:
    whole = Placement(0, None, (1, 8), (8, 2), 5, (((1, 8),), ((2, 1), (4, 2))))  # type: ignore[arg-type]
    first, second = (sliced(whole, 1, start, (1, 4)) for start in (0, 4))
    assert first is not None and (first.strides, first.offset, first.parts) == ((8, 2), 5, ())
    assert second is not None and (second.strides, second.offset, second.parts) == ((8, 2), 6, ())
    half = sliced(whole, 1, 2, (1, 2))
    assert half is not None and (half.strides[1], half.offset) == (2, 9)
    assert sliced(whole, 1, 1, (1, 3)) is None and whole.span == 8


# -- checks, text, machine code ---------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
def test_kernels_are_checked_one_by_one() -> None:
    b = Builder()
    b.output(_units_2(b))
    plan = apart(b)
    checks = kernel_checks(plan, b.inputs)
    assert plan.layouts.shuffles and all(check.ok for check in checks)


def test_source(golden: Callable[[str, str], None]) -> None:
    b = Builder()
    y = conv(b, b.input(weights(1, 32, 14, 14)), weights(64, 32, 1, 1))
    b.output(conv(b, channel_shuffle(b, y, 4), weights(5, 64, 3, 3)))
    plan = planned(b.graph, "sm_90", dtype="fp16")
    problem = plan.programs[0].launches[0].problems[0]
    kernel = emitted(problem, Tile(64, 64, 32, num_warps=4, num_stages=3))
    golden("kernels/conv1x1_shuffle.py", kernel.source)


def test_no_spills(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    b = Builder()
    x = b.input(weights(1, 64, 28, 28))
    y = depth_to_space(b, channel_shuffle(b, conv(b, x, weights(256, 64, 3, 3), pads=(1,) * 4), 4))
    b.output(conv(b, y, weights(64, 64, 1, 1)))
    plan = planned(b.graph, "sm_80", "sm_90", dtype="fp16")
    assert plan.layouts.shuffles
    for program in compile_plan(plan, KernelCache(tmp_path)).manifest.programs:
        assert all(kernel.binary.spill_bytes == 0 for kernel in program.kernels)
