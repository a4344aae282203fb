"""1x1 convolutions that a depthwise convolution computes under its taps: numbers, reasons to decline, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import (
    Reasons,
    bias_of,
    chained,
    depthwise,
    input_of,
    pointwise,
    reasons_between,
    widened,
    windowed,
    with_residual,
)
from compiled import Builder, conv, evaluate, inputs_of, run, same
from hypothesis import strategies as st
from rule_checks import (
    check_machine_code,
    check_network,
    declined,
    emitted,
    in_every_mode,
    kernel_checks,
    plan_apart,
    reasons,
    reference_of,
    same_without,
)
from small_networks import inside, weights

from convc.analysis.explain import explain
from convc.analysis.figures import asked_bytes
from convc.frontends import zoo
from convc.ir import Value
from convc.ir.expansion import ExpandedWindow
from convc.ir.plan import Tile
from convc.ir.separable import SeparableContraction
from convc.passes import Switches, expansion_tiles, separable_tiles
from convc.passes.expansion import RULE
from convc.passes.tiling import alone_seconds
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.targets import target


def expand(b: Builder, x: Value, **attributes: Any) -> Value:
    return pointwise(b, x, 48, **attributes)


def fused(plan: Plan) -> list[ExpandedWindow | SeparableContraction]:
    kinds = (ExpandedWindow, SeparableContraction)
    return [problem for problem in plan.programs[0].problems if isinstance(problem, kinds) and problem.expansion]


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    return draw(windowed([(3, 1), (3, 2), (5, 1), (2, 1), (1, 1)], channels=(3, 16, 24, 40))) | {
        "channels": draw(st.sampled_from([2, 7, 16, 33])),
        "filters": draw(st.sampled_from([0, 5, 33])),
    }


def block(case: dict[str, Any]) -> Builder:
    """An expanded depthwise convolution over whole numbers, exact in every mode, and a 1x1 one behind it if it has
    filters."""
    b = Builder()
    channels, filters = case["channels"], case["filters"]
    y = pointwise(b, input_of(b, case), channels, *bias_of(case, channels))
    z = depthwise(b, chained(b, y, case["chain"]), case["size"], weights(channels), **case["window"])
    if filters:
        z = pointwise(b, b.add("Clip", z, min=-3.0, max=6.0), filters, weights(filters))
    b.output(with_residual(b, case, z))
    return b


@in_every_mode(cases())
def test_computes_what_the_operators_do(dtype: str, case: dict[str, Any]) -> None:
    b = block(case)
    assert len(fused(plan_apart(b, dtype=dtype))) == 1
    same(same_without(b, RULE, dtype), reference_of(b))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["Silu", "HardSwish", "Sigmoid"])
def test_functions_between_them(op: str) -> None:
    """Between identities: the function itself, whose slope is below 1.6."""
    b = Builder()
    x = b.input(np.linspace(-4, 4, 20 * 9, dtype=np.float32).reshape(1, 20, 3, 3))
    y = b.add(op, conv(b, x, np.eye(20, dtype=np.float32)[:, :, None, None]))
    b.output(conv(b, y, np.ones((20, 1, 1, 1), np.float32), groups=20))
    assert len(fused(plan_apart(b))) == 1
    found, wanted = run(b.graph, b.inputs)["y0"], evaluate(b.graph, b.inputs)["y0"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=16 * 2.0**-24 * 4)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("filters", [0, 4])
def test_padding_and_missing_channels_are_zero_where_the_operator_makes_infinity_of_zero(
    dtype: str, filters: int
) -> None:
    b = Builder()
    y = b.add("Reciprocal", conv(b, b.input(np.ones((1, 20, 5, 5), np.float32)), np.ones((6, 20, 1, 1), np.float32)))
    z = conv(b, y, np.ones((6, 1, 3, 3), np.float32), groups=6, pads=(1,) * 4)
    b.output(conv(b, z, np.ones((filters, 6, 1, 1), np.float32)) if filters else z)
    assert len(fused(plan_apart(b))) == 1
    assert np.isfinite(same_without(b, RULE, dtype)["y0"]).all()


@pytest.mark.usefixtures("interpreters")
def test_rounds_as_storing_the_expanded_tensor_would() -> None:
    """1 + 2⁻¹² is 1 in fp16: a sum that kept it would show it."""
    b = Builder()
    x = b.input(np.ones((1, 16, 4, 4), np.float32))
    y = conv(b, x, np.full((8, 16, 1, 1), 2.0**-4, np.float32), np.full(8, 2.0**-12, np.float32))
    b.output(conv(b, y, np.ones((8, 1, 2, 2), np.float32), groups=8))
    assert len(fused(plan_apart(b))) == 1
    assert (run(b.graph, b.inputs, dtype="fp16")["y0"] == 4).all()
    assert (run(b.graph, b.inputs, dtype="fp32")["y0"] == 4 + 2.0**-10).all()


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(("rows", "cols"), [(16, 16), (32, 64)])
def test_tiles_that_a_gpu_runs(monkeypatch: pytest.MonkeyPatch, rows: int, cols: int) -> None:
    tile = Tile(rows, cols, 32, num_warps=1, num_stages=1)
    monkeypatch.setattr(expansion_tiles, "ranked", lambda problem, target: [tile])
    b = block({**WIDE, "residual": True})
    launch = plan_apart(b, "interpreter").programs[0].launches[-1]
    assert (launch.steps[0].tile.rows, launch.steps[0].tile.cols) == (rows, cols)
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("split", [1, 5])
@pytest.mark.parametrize("size", [3, 5])
def test_tiles_of_a_whole_inverted_residual(monkeypatch: pytest.MonkeyPatch, size: int, split: int) -> None:
    """Several tiles along rows and columns, channels in blocks or split, windows unrolled or not."""
    tile = Tile(32, 16, 16, num_warps=1, num_stages=1, split_k=split)
    monkeypatch.setattr(separable_tiles, "ranked", lambda problem, target: [tile])
    b = block({**WIDE, "size": size, "filters": 24})
    assert plan_apart(b, "interpreter").programs[0].launches[-1].steps[0].tile.split_k == split
    same(run(b.graph, b.inputs, disable="last-block"), evaluate(b.graph, b.inputs))


WIDE: dict[str, Any] = {
    "shape": (1, 24, 13, 13),
    "size": 3,
    "window": {"pads": (1,) * 4, "strides": (2, 2)},
    "channels": 70,
    "chain": "clip",
    "filters": 0,
    "residual": False,
    "inside": True,
}


# -- networks ---------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(("name", "dtype"), [("efficientnet_b0", "fp16"), ("mobilenet_v2", "fp32")])
def test_networks_with_and_without(name: str, dtype: str) -> None:
    check_network(zoo.build(name, size=32, classes=10).graph, dtype, RULE)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("filters", [0, 24])
def test_kernels_one_by_one(filters: int) -> None:
    b = Builder()
    y = b.add("Silu", pointwise(b, inside(b, 1, 24, 9, 9), 40, weights(40)))
    z = b.add("Silu", depthwise(b, y, 3, weights(40), strides=(2, 2)))
    b.output(pointwise(b, z, filters) if filters else z)
    plan = plan_apart(b, "interpreter", dtype="fp16")
    assert len(fused(plan)) == 1
    checks = kernel_checks(plan, inputs_of(b.graph))
    assert len(checks) == len(plan.programs[0].launches) and all(check.ok for check in checks)
    inner = [edge for edge in explain(plan) if edge.source.startswith(("conv", "silu")) and "y0" not in edge.target]
    behind = ["depthwise-pointwise", "depthwise-pointwise"] if filters else ["conv-epilogue"]
    assert [edge.rule for edge in inner] == [RULE, RULE, *behind] and all(edge.fused for edge in inner)


@pytest.mark.parametrize(("name", "regions", "saved"), [("efficientnet_b0", 2, 5.5), ("mobilenet_v2", 9, 9.7)])
def test_what_the_zoo_gains(name: str, regions: int, saved: float) -> None:
    graph = zoo.build(name, weights="none").graph
    with_it, without = (make_plan(graph, Options(switches=Switches(disable=off))) for off in ((), (RULE,)))
    assert len(fused(with_it)) == regions
    (found,), (before,) = with_it.programs, without.programs
    assert len(before.launches) - len(found.launches) >= regions
    assert before.traffic.activations - found.traffic.activations >= saved * 1e6
    assert found.predicted_us <= before.predicted_us * 1.01


# -- reasons ----------------------------------------------------------------------------------------------------------
def _computed(b: Builder, x: Value) -> Value:
    return depthwise(b, b.add("Conv", x, b.input(weights(48, 24, 1, 1)), **{**PLAIN, "groups": 1}))


def _computed_filter(b: Builder, x: Value) -> Value:
    y = expand(b, x)
    return b.add("Conv", y, b.constant(weights(48, 1, 1, 1)), b.input(weights(48)), **{**PLAIN, "groups": 48})


PLAIN: dict[str, Any] = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
REASONS: Reasons = {
    "window": ("window of its own", lambda b, x: depthwise(b, conv(b, x, weights(48, 24, 3, 3)))),
    "stride": ("skips pixels", lambda b, x: depthwise(b, expand(b, x, strides=(2, 2)))),
    "pads": ("pads its input", lambda b, x: depthwise(b, expand(b, x, pads=(1,) * 4))),
    "groups": ("grouped", lambda b, x: depthwise(b, expand(b, inside(b, 1, 64, 6, 6), groups=2))),
    "channels": ("more than 64 channels", lambda b, x: depthwise(b, expand(b, inside(b, 1, 65, 6, 6)))),
    "computed weights": ("weights of the 1x1 convolution are computed at run time", _computed),
    "computed filter": ("depthwise weights are computed at run time", _computed_filter),
    "multiplier": (
        "several filters per channel",
        lambda b, x: conv(b, expand(b, x), weights(96, 1, 3, 3), groups=48),
    ),
    "taken": ("already belongs to another kernel", lambda b, x: depthwise(b, expand(b, depthwise(b, x)))),
    "broadcast": ("to a larger shape", lambda b, x: depthwise(b, widened(b, pointwise(b, x, 1)))),
    **reasons_between(expand, depthwise),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    reason, build = REASONS[case]
    said = declined(RULE, build)
    assert any(reason in text for text in said), said


def test_says_that_it_is_switched_off() -> None:
    plan = plan_apart(block(WIDE), switches=Switches(disable=(RULE,)))
    assert fused(plan) == [] and reasons(plan.fused, RULE) == ["the rule is switched off"]


@pytest.mark.parametrize(
    ("size", "stride", "op", "pays"), [(3, 2, "Silu", True), (3, 1, "Silu", False), (5, 1, "Relu", False)]
)
def test_declines_where_expanding_again_costs_more(size: int, stride: int, op: str, pays: bool) -> None:
    b = Builder()
    y = b.add(op, pointwise(b, b.input(np.zeros((1, 24, 56, 56), np.float32)), 144))
    b.output(depthwise(b, y, size, strides=(stride,) * 2))
    plan = plan_apart(b)
    assert len(fused(plan)) == pays
    assert any("expanding pixels again for every window" in reason for reason in reasons(plan.fused, RULE)) != pays


def test_nothing_is_said_where_no_dense_convolution_leads_to_it() -> None:
    b = Builder()
    b.output(depthwise(b, depthwise(b, b.input(weights(1, 24, 6, 6)))))
    b.output(pointwise(b, expand(b, b.input(weights(1, 24, 6, 6))), 48))
    assert reasons(plan_apart(b).fused, RULE) == []


# -- counting and machine code ----------------------------------------------------------------------------------------
def test_traffic_and_multiply_adds_count_each_byte_and_product_once() -> None:
    launch = plan_apart(block(WIDE)).programs[0].launches[-1]
    (problem,) = fused(plan_apart(block(WIDE)))
    assert launch.traffic.activations == 24 * 169 * 2 + 70 * 49 * 4
    assert launch.traffic.weights == 2 * 24 * 70 + 2 * 9 * 70 + 4 * (70 + 70)
    assert problem.macs == 169 * 24 * 70 + 49 * 9 * 70
    assert isinstance(problem, ExpandedWindow)
    assert problem.recomputed_macs(launch.steps[0].tile) == (49 * 9 - 169) * 24 * 70
    columns = -(-70 // launch.steps[0].tile.cols)
    assert asked_bytes(launch) == columns * 49 * 9 * 24 * 2


def test_traffic_and_multiply_adds_of_a_whole_inverted_residual() -> None:
    plan = plan_apart(block({**WIDE, "filters": 24}))
    launch, (problem,) = plan.programs[0].launches[-1], fused(plan)
    assert launch.traffic.activations == 24 * 169 * 2 + 24 * 49 * 4
    assert launch.traffic.weights == 2 * (24 * 70 + 9 * 70 + 70 * 24) + 4 * (70 + 70 + 24)
    assert problem.macs == 169 * 24 * 70 + 49 * 9 * 70 + 49 * 70 * 24
    assert isinstance(problem, SeparableContraction)
    again = problem.recomputed_macs(Tile(64, 16, 32))
    assert again == (2 * 49 * 9 - 169) * 24 * 70 + 49 * 9 * 70


def test_pixels_that_no_window_reaches_count_nowhere() -> None:
    b = Builder()
    b.output(depthwise(b, expand(b, inside(b, 1, 24, 9, 9)), 1, strides=(2, 2), pads=(0,) * 4))
    plan = plan_apart(b)
    (problem,) = fused(plan)
    assert isinstance(problem, ExpandedWindow)
    assert problem.recomputed_macs(plan.programs[0].launches[-1].steps[0].tile) == 0
    assert problem.macs == 25 * 24 * 48 + 25 * 48
    assert plan.programs[0].launches[-1].traffic.activations == 24 * 25 * 2 + 48 * 25 * 4


@pytest.mark.parametrize("filters", [0, 24])
def test_one_block_alone_takes_as_long_as_all_its_tiles(filters: int) -> None:
    """What the last block of a launch would take for it is no less than its share of a full GPU times the blocks."""
    plan = plan_apart(block({**WIDE, "shape": (1, 24, 57, 57), "filters": filters}))
    (problem,), gpu = fused(plan), target("sm_90")
    tile = next(
        step.tile for launch in plan.programs[0].launches for step in launch.steps if step.work.problem is problem
    )
    alone = alone_seconds(problem, tile, gpu)
    assert alone > 20 * tile.predicted_us * 1e-6


def test_source(golden: Callable[[str, str], None]) -> None:
    (problem,) = fused(plan_apart(block({**WIDE, "residual": True})))
    kernel = emitted(problem, Tile(32, 32, 32, num_warps=4, num_stages=3))
    golden("kernels/expand_depthwise.py", kernel.source)


def test_source_of_a_whole_inverted_residual(golden: Callable[[str, str], None]) -> None:
    (problem,) = fused(plan_apart(block({**WIDE, "filters": 24})))
    kernel = emitted(problem, Tile(16, 32, 64, num_warps=4, num_stages=2))
    golden("kernels/inverted_residual.py", kernel.source)


BLOCKS = [(16, 96, 112, 3, 2), (40, 240, 28, 3, 2), (24, 144, 56, 5, 2), (24, 144, 56, 3, 1)]
"""Of EfficientNet and MobileNet: channels in, expanded, extent, window, stride."""


def blocks(count: int, project: bool) -> Builder:
    b = Builder("blocks")
    for inputs, channels, extent, size, stride in BLOCKS[:count]:
        y = b.add("Silu", pointwise(b, inside(b, 1, inputs, extent, extent), channels, weights(channels)))
        z = b.add("Silu", depthwise(b, y, size, weights(channels), strides=(stride,) * 2))
        b.output(pointwise(b, z, 2 * inputs, weights(2 * inputs)) if project else z)
    return b


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize(("dtype", "count"), [("fp16", 4), ("tf32", 2), ("fp32", 2)])
def test_no_spills_and_tensor_cores(dtype: str, count: int, project: bool, tmp_path: Path) -> None:
    plan = plan_apart(blocks(count, project), "sm_80", "sm_90", dtype=dtype, policy="always")
    assert len(fused(plan)) == count
    ours = "conv1x1_depthwise"
    check_machine_code(plan, tmp_path, count, lambda kernel: kernel.name.startswith(ours), dtype != "fp32")
