"""Pooling that a 1x1 convolution computes while it loads its operand: numbers, reasons to decline, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import Reasons, chained, input_of, pointwise, reasons_between, widened, windowed, with_residual
from compiled import GROUPING, Builder, conv, evaluate, run, same
from hypothesis import strategies as st
from rule_checks import (
    check_machine_code,
    check_network,
    declined,
    emitted,
    in_every_mode,
    kernel_checks,
    plan_of,
    reasons,
    reference_of,
    same_without,
)
from small_networks import NETWORKS, POOL, inside, weights

from convc.analysis.explain import explain
from convc.frontends import zoo
from convc.ir import Value
from convc.ir.plan import Tile
from convc.ir.separable import SeparableContraction
from convc.passes import Switches, separable_tiles
from convc.passes.pool_conv import RULE
from convc.planner import make_plan
from convc.program import Options, Plan


def pool(b: Builder, x: Value, op: str = "MaxPool", **attributes: Any) -> Value:
    counted = {"count_include_pad": False} if op == "AveragePool" else {}
    return b.add(op, x, **{**POOL, "strides": (1, 1), **counted, **attributes})


def fused(plan: Plan) -> list[SeparableContraction]:
    steps = [step for launch in plan.programs[0].launches for step in launch.steps]
    problems = [step.work.problem for step in steps if RULE in step.work.region.rules]
    assert all(isinstance(problem, SeparableContraction) for problem in problems)
    return problems  # type: ignore[return-value]


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    case = draw(windowed([(3, 1), (3, 2), (4, 1), (2, 1)], chains=("", "clip", "gate"), pooled=True))
    op = draw(st.sampled_from(["MaxPool", "MaxPool", "AveragePool"]))
    kernel = {"kernel_shape": (case["size"],) * (len(case["shape"]) - 2), "ceil_mode": draw(st.booleans())}
    counted = {"count_include_pad": draw(st.booleans())} if op == "AveragePool" else {}
    return case | {
        "op": op,
        "window": case["window"] | kernel | counted,
        "filters": draw(st.sampled_from([1, 7, 16, 33])),
        "readers": draw(st.integers(1, 3)),
    }


def block(case: dict[str, Any]) -> Builder:
    """Pooling and what reads it, over whole numbers: maxima are exact in every mode, and so are averages in fp32 whose
    windows hold a power of two."""
    b = Builder()
    y = chained(b, pool(b, input_of(b, case), case["op"], **case["window"]), case["chain"])
    for filters in range(case["filters"], case["filters"] + case["readers"]):
        b.output(with_residual(b, case, pointwise(b, y, filters, weights(filters))))
    return b


@in_every_mode(cases())
def test_computes_what_the_operators_do(dtype: str, case: dict[str, Any]) -> None:
    b = block(case)
    assert len(fused(plan_of(b, dtype=dtype))) == case["readers"]
    found, wanted = same_without(b, RULE, dtype), reference_of(b)
    if case["op"] == "MaxPool":
        same(found, wanted)
    elif dtype == "fp32":
        terms = (1 + case["shape"][1]) * 40  # a product of at most 36, gated, per channel
        for name, array in found.items():
            np.testing.assert_allclose(array, wanted[name], rtol=0, atol=4 * terms * 2.0**-24)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("channels", [5, 16])
def test_special_values(dtype: str, channels: int) -> None:
    """A NaN in a window is its maximum, and −∞ is below everything but the padding."""
    b = Builder()
    array = np.full((1, channels, 6, 6), -np.inf, np.float32)
    array[0, 0, 1, 1], array[0, 1, 4, 4], array[0, 2] = np.nan, 3.0, 1.0
    y = pool(b, b.add("Neg", b.add("Neg", b.input(array))))
    b.output(conv(b, y, np.eye(channels, dtype=np.float32)[:, :, None, None]))
    assert len(fused(plan_of(b))) == 1
    found = same_without(b, RULE, dtype)
    same(found, evaluate(b.graph, b.inputs))
    assert np.isnan(found["y0"][0, 0, 0, 0])


@pytest.mark.usefixtures("interpreters")
def test_channels_past_the_last_stay_zero_where_the_operator_makes_them_infinite() -> None:
    b = Builder()
    y = b.add("Reciprocal", pool(b, b.input(np.ones((1, 20, 4, 4), np.float32)), "AveragePool", pads=(0,) * 4))
    b.output(conv(b, y, np.ones((4, 20, 1, 1), np.float32)))
    assert len(fused(plan_of(b))) == 1
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_tiles_that_a_gpu_runs(monkeypatch: pytest.MonkeyPatch, op: str, split: int) -> None:
    """Several tiles along rows and columns, loops over the channels and split-K, in the interpreter."""
    tile = Tile(16, 32, 16, num_warps=1, num_stages=1, split_k=split)
    monkeypatch.setattr(separable_tiles, "ranked", lambda problem, target: [tile])
    b = block({**WIDE, "op": op, "residual": True, "window": {"kernel_shape": (2, 2), "pads": (0, 0, 1, 1)}})
    apart = Switches(disable=("last-block",))
    assert plan_of(b, "interpreter", switches=apart).programs[0].launches[-1].steps[0].tile.split_k == split
    same(run(b.graph, b.inputs, disable="last-block"), run(b.graph, b.inputs, disable=f"{RULE},last-block"))


WIDE: dict[str, Any] = {
    "op": "MaxPool",
    "shape": (1, 90, 7, 7),
    "window": {},
    "filters": 70,
    "chain": "",
    "residual": False,
    "readers": 1,
    "inside": True,
}


# -- networks ---------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_inception_with_and_without(dtype: str) -> None:
    check_network(NETWORKS["inception"](), dtype, RULE)


@pytest.mark.usefixtures("interpreters")
def test_kernels_one_by_one_where_two_of_them_pool_the_same_tensor() -> None:
    b = block({**WIDE, "shape": (1, 20, 7, 7), "filters": 9, "readers": 2})
    plan = plan_of(b, "interpreter", dtype="fp16")
    assert len(fused(plan)) == 2
    checks = kernel_checks(plan, b.inputs)
    steps = [step for launch in plan.programs[0].launches for step in launch.steps]
    assert len(checks) == len(steps) and all(check.ok for check in checks)
    edges = [edge for edge in explain(plan) if edge.source.startswith("maxpool")]
    assert len(edges) == 2 and all(edge.rule == RULE for edge in edges)


@pytest.mark.parametrize(("name", "regions", "saved"), [("googlenet", 9, 3.7), ("squeezenet1_1", 2, 0.5)])
def test_what_the_zoo_gains(name: str, regions: int, saved: float) -> None:
    with_it, without = (
        make_plan(zoo.build(name).graph, Options(("sm_90",), switches=Switches(disable=disabled)))
        for disabled in (GROUPING, (*GROUPING, RULE))
    )
    assert len(fused(with_it)) == regions
    (found,), (before,) = with_it.programs, without.programs
    assert len(before.launches) - len(found.launches) == regions
    assert before.traffic.activations - found.traffic.activations >= saved * 1e6


# -- reasons ----------------------------------------------------------------------------------------------------------
def _another_reader(b: Builder, x: Value) -> Value:
    y = pool(b, x)
    b.output(conv(b, y, weights(4, 24, 3, 3)))
    return pointwise(b, y)


def _another_chain(b: Builder, x: Value) -> Value:
    y = pool(b, x)
    b.output(pointwise(b, b.add("Relu", y)))
    return pointwise(b, y)


def _pools_again(b: Builder, x: Value) -> Value:
    return pool(b, pointwise(b, pool(b, x)), kernel_shape=(2, 2), strides=(2, 2), pads=(0,) * 4)


REASONS: Reasons = {
    "stride": ("skips pixels", lambda b, x: pointwise(b, pool(b, x), strides=(2, 2))),
    "pads": ("pads its input", lambda b, x: pointwise(b, pool(b, x), pads=(1,) * 4)),
    "groups": ("grouped", lambda b, x: pointwise(b, pool(b, inside(b, 1, 64, 6, 6)), groups=2)),
    "window": ("every position", lambda b, x: conv(b, pool(b, x), weights(4, 24, 3, 3))),
    "another reader": ("Conv reads the pooled tensor too", _another_reader),
    "another chain": ("Relu reads the pooled tensor too", _another_chain),
    "taken": ("already belongs to another kernel", _pools_again),
    "broadcast": ("to a larger shape", lambda b, x: pointwise(b, widened(b, pool(b, pointwise(b, x, 1))))),
    **reasons_between(pool, pointwise, "ReduceMax reads the pooled tensor too"),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    reason, build = REASONS[case]
    said = declined(RULE, build)
    assert any(reason in text for text in said), said


def test_says_that_it_is_switched_off() -> None:
    plan = plan_of(block(WIDE), switches=Switches(disable=(RULE,)))
    assert fused(plan) == [] and reasons(plan.fused, RULE) == ["the rule is switched off"]


def test_declines_for_all_readers_where_pooling_again_costs_more() -> None:
    """Four readers of windows whose input is four times as large: reading it again is more than the pooled tensor."""
    b = Builder()
    y = pool(b, b.input(np.zeros((64, 64, 56, 56), np.float32)), strides=(2, 2))
    for filters in (64, 128, 256, 512):
        b.output(pointwise(b, y, filters))
    plan = plan_of(b)
    assert fused(plan) == []
    said = reasons(plan.fused, RULE)
    assert len(said) == 4 and all("pooling again for every reader" in reason for reason in said)


def test_nothing_is_said_where_no_pooling_leads_to_it() -> None:
    b = Builder()
    b.output(pool(b, pointwise(b, b.add("Relu", b.input(weights(1, 24, 6, 6))))))
    assert reasons(plan_of(b).fused, RULE) == []


# -- counting and machine code ----------------------------------------------------------------------------------------
def test_traffic_and_multiply_adds_count_each_byte_and_product_once() -> None:
    (launch,) = plan_of(block({**WIDE, "inside": False})).programs[0].launches
    (problem,) = launch.problems
    assert launch.traffic.activations == 90 * 49 * 4 + 70 * 49 * 4
    assert launch.traffic.weights == 2 * 90 * 70 + 4 * 70
    assert isinstance(problem, SeparableContraction) and problem.macs == 49 * 90 * 70
    assert problem.window_elements == 49 * 90 * 9 and problem.recomputed_macs(launch.steps[0].tile) == 0


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_source(op: str, golden: Callable[[str, str], None]) -> None:
    b = block({**WIDE, "op": op, "chain": "clip", "window": {"strides": (2, 2)}})
    (problem,) = fused(plan_of(b))
    kernel = emitted(problem, Tile(16, 64, 32, num_warps=4, num_stages=2))
    golden(f"kernels/{'max' if op == 'MaxPool' else 'average'}_pool_conv1x1.py", kernel.source)


BLOCKS = [(192, 32, 28, 1), (832, 128, 7, 1), (128, 32, 55, 2), (64, 64, 56, 2)]
"""Of GoogLeNet, SqueezeNet and ResNet: channels, filters, extent of the input, stride."""


def blocks(count: int) -> Builder:
    b = Builder("blocks")
    for index, (channels, filters, extent, stride) in enumerate(BLOCKS[:count]):
        op = "AveragePool" if index == 1 else "MaxPool"
        y = pool(b, inside(b, 1, channels, extent, extent), op, strides=(stride,) * 2)
        b.output(pointwise(b, y, filters, weights(filters)))
    return b


@pytest.mark.parametrize(("dtype", "count"), [("fp16", 4), ("tf32", 2), ("fp32", 2)])
def test_no_spills_and_tensor_cores(dtype: str, count: int, tmp_path: Path) -> None:
    plan = plan_of(blocks(count), "sm_80", "sm_90", dtype=dtype)
    assert len(fused(plan)) == count
    check_machine_code(plan, tmp_path, count, lambda kernel: kernel.family == "separable", dtype != "fp32")
