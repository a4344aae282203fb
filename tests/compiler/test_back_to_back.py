"""Convolutions whose result the 1x1 convolution behind them takes from registers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from compiled import APART, Builder, conv, evaluate, planned, run_planned, same
from hypothesis import strategies as st
from rule_checks import check_machine_code, declined, emitted, in_every_mode, kernel_checks, reasons
from small_networks import POOL, inside, weights

from convc.analysis.explain import explain
from convc.analysis.figures import asked_bytes, loop_bytes, operations
from convc.api import plan
from convc.frontends import zoo
from convc.ir import Graph, Value
from convc.ir.chained import ChainedContraction
from convc.ir.plan import Tile
from convc.passes import Switches, back_to_back, chained_tiles
from convc.passes.back_to_back import RULE
from convc.passes.choice import Choice
from convc.passes.policies import Always
from convc.passes.traffic import traffic
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.targets import TARGETS


def fused(plan: Plan) -> list[ChainedContraction]:
    problems = [launch.steps[0].work.problem for launch in plan.programs[0].launches]
    return [problem for problem in problems if isinstance(problem, ChainedContraction)]


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    return draw(windowed([(1, 1), (3, 1), (3, 2), (2, 1)])) | {
        "middle": draw(st.sampled_from([1, 7, 16, 33])),
        "filters": draw(st.sampled_from([1, 16, 40])),
    }


def block(case: dict[str, Any]) -> Builder:
    """Two convolutions over small whole numbers, exact in every mode."""
    b = Builder()
    _, channels, *spatial = case["shape"]
    middle, filters = case["middle"], case["filters"]
    first = weights(middle, channels, *(case["size"],) * len(spatial))
    y = conv(b, input_of(b, case), first, *bias_of(case, middle), **case["window"])
    y = b.add("Clip", chained(b, y, case["chain"], low=-3.0, gate="Add"), min=-8.0, max=8.0)
    b.output(with_residual(b, case, pointwise(b, y, filters, weights(filters))))
    return b


@in_every_mode(cases())
def test_computes_what_the_operators_do(dtype: str, case: dict[str, Any]) -> None:
    b = block(case)
    found = planned(b.graph, dtype=dtype)
    assert len(fused(found)) == 1
    same(run_planned(found, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_channels_past_the_last_stay_zero_where_the_operator_makes_them_infinite() -> None:
    b = Builder()
    ones = conv(b, b.input(np.ones((1, 16, 4, 4), np.float32)), np.eye(20, 16, dtype=np.float32)[:, :, None, None] + 1)
    b.output(conv(b, b.add("Floor", b.add("Reciprocal", ones)), np.ones((4, 20, 1, 1), np.float32)))
    found = planned(b.graph)
    assert len(fused(found)) == 1
    same(run_planned(found, b.inputs), evaluate(b.graph, b.inputs))


WIDE: dict[str, Any] = {
    "shape": (2, 40, 9, 7),
    "size": 3,
    "window": {"pads": (1,) * 4},
    "middle": 33,
    "filters": 70,
    "chain": "clip",
    "residual": True,
    "inside": True,
}


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(("rows", "cols", "depth"), [(16, 16, 16), (64, 32, 32)])
@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_tiles_that_a_gpu_runs(monkeypatch: pytest.MonkeyPatch, rows: int, cols: int, depth: int, blocks: int) -> None:
    """Several tiles along rows, loops over channels, and columns divided among programs and within one."""
    tile = Tile(rows, cols, depth, num_warps=1, num_stages=1, col_blocks=blocks)
    monkeypatch.setattr(chained_tiles, "ranked", lambda problem, target: [tile])
    b = block(WIDE)
    found = planned(b.graph)
    assert found.programs[0].launches[-1].steps[0].tile.col_blocks == blocks
    same(run_planned(found, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_kernel_by_kernel_and_every_edge_explained() -> None:
    b = Builder()
    x = inside(b, 1, 32, 6, 6)
    y = b.add("Relu", conv(b, x, weights(16, 32, 3, 3), weights(16), pads=(1,) * 4))
    b.output(b.add("Relu", b.add("Add", pointwise(b, y, 32), x)))
    found = planned(b.graph, dtype="fp16")
    checks = kernel_checks(found, b.inputs)
    assert all(check.ok for check in checks) and checks[-1].rules == (RULE, "conv-epilogue")
    edges = [edge for edge in explain(found) if edge.kernel == checks[-1].kernel and edge.fused]
    assert {edge.rule for edge in edges if edge.target.startswith("conv")} == {RULE}
    assert {"conv-epilogue"} == {edge.rule for edge in edges if edge.source.startswith(("add", "conv8"))} - {RULE}


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(
    ("batch", "apart", "together"), [(4, "l2-slices", "last-block"), (8, "last-block", "l2-slices")]
)
def test_in_one_launch_with_others_and_in_slices_of_the_batch(batch: int, apart: str, together: str) -> None:
    b = Builder()
    y = b.add("Relu", conv(b, b.input(weights(batch, 6, 8, 8)), weights(16, 6, 3, 3), weights(16), pads=(1,) * 4))
    y = conv(b, b.add("Clip", pointwise(b, y), min=-3.0, max=3.0), weights(8, 24, 3, 3))
    y = b.add("MaxPool", b.add("Clip", y, min=-4.0, max=4.0), **POOL)
    b.output(b.add("Add", pointwise(b, b.add("Abs", pointwise(b, y, 4)), 8), y))
    switches = Switches(disable=(apart,))
    found = make_plan(b.graph, Options(("interpreter",), "fp32", switches=switches, policy=Always()))
    (program,) = found.programs
    assert len(fused(found)) >= 1 and (together == "last-block") == any(launch.rules for launch in program.launches)
    assert (together == "l2-slices") == (len(program.schedule) < len(program.launches))
    same(run_planned(found, b.inputs), evaluate(b.graph, b.inputs))


# -- networks ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "regions", "saved"), [("resnet50", 7, 4.0), ("efficientnet_b0", 16, 0.0)])
def test_what_the_zoo_gains(name: str, regions: int, saved: float) -> None:
    """ResNet's first two stages; both 1x1 convolutions of a squeeze-and-excitation block."""
    graph = zoo.build(name, weights="none").graph
    with_it, without = (
        plan(graph, "sm_90", "fp16", disable=(*APART.disable, *disabled)).programs[0] for disabled in ((), (RULE,))
    )
    assert sum(isinstance(launch.steps[0].work.problem, ChainedContraction) for launch in with_it.launches) == regions
    assert len(without.launches) - len(with_it.launches) == regions
    assert without.traffic.activations - with_it.traffic.activations >= saved * 1e6
    assert with_it.predicted_us < without.predicted_us


def test_declines_where_the_tiles_take_longer() -> None:
    """14x14 pixels are 4 tiles of 64 for 132 multiprocessors; apart, the 3x3 convolution over 512 channels is split."""
    b = Builder()
    x = b.input(np.zeros((1, 512, 14, 14), np.float32))
    b.output(pointwise(b, b.add("Relu", conv(b, x, weights(128, 512, 3, 3), pads=(1,) * 4)), 128))
    found = plan(b.graph, "sm_90", "fp16", disable=APART.disable)
    assert fused(found) == [] and "dividing the work of both by pixels alone takes" in reasons(found.fused, RULE)[0]
    (forced,) = planned(b.graph, "sm_90", dtype="fp16").programs
    assert forced.launches[-1].steps[0].tile.predicted_us > found.programs[0].predicted_us


# -- reasons ----------------------------------------------------------------------------------------------------------
def _first(b: Builder, x: Value, middle: int = 24) -> Value:
    return conv(b, x, weights(middle, 24, 3, 3))


def _computed(b: Builder, x: Value) -> Value:
    w = b.input(weights(24, 24, 3, 3))
    y = b.add("Conv", x, w, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1)
    return pointwise(b, y)


def _another_kernel(b: Builder, x: Value) -> Value:
    return pointwise(b, pointwise(b, depthwise(b, x, pads=(0,) * 4)))


REASONS: Reasons = {
    "window": ("every position", lambda b, x: conv(b, _first(b, x), weights(4, 24, 3, 3))),
    "pads": ("pads its input", lambda b, x: pointwise(b, _first(b, x), pads=(1,) * 4)),
    "stride": ("skips pixels", lambda b, x: pointwise(b, _first(b, x), strides=(2, 2))),
    "weights": ("computed at run time", _computed),
    "channels": ("136 channels between them", lambda b, x: pointwise(b, _first(b, x, 136))),
    "another kernel": ("already belongs to another kernel", _another_kernel),
    "broadcast": ("to a larger shape", lambda b, x: pointwise(b, widened(b, _first(b, x, 1)))),
    **reasons_between(_first, pointwise),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    reason, build = REASONS[case]
    (said,) = declined(RULE, build, Always())
    assert reason in said


def test_compares_kernels_with_the_features_that_they_will_have() -> None:
    """Two products apart take longer without descriptors, where a GPU has them."""
    b = Builder()
    b.output(pointwise(b, conv(b, inside(b, 8, 512, 28, 28), weights(128, 512, 1, 1)), 512))
    with_them, without = (slower(b, Switches(disable=off)) for off in ((), ("descriptors",)))
    assert without["sm_80"] == with_them["sm_80"]
    assert without["sm_120"] < with_them["sm_120"]


@dataclass(frozen=True)
class Recorder(Always):
    """Takes every choice, and keeps them."""

    seen: list[Choice] = field(default_factory=list)

    def refusal(self, choice: Choice, graph: Graph) -> None:
        self.seen.append(choice)


def slower(b: Builder, switches: Switches) -> Mapping[str, float]:
    """Seconds by which the only chain of a network is slower than its convolutions one by one, by GPU."""
    policy = Recorder()
    make_plan(b.graph, Options((), switches=switches, policy=policy))
    (choice,) = [choice for choice in policy.seen if choice.rule == RULE]
    return choice.slower


def test_declines_where_no_tile_holds_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_to_back, "ranked", lambda *_: [])
    assert reasons(plan(block(WIDE).graph).fused, RULE) == ["no tile of both convolutions fits into a multiprocessor"]


def test_says_that_it_is_switched_off_and_nothing_of_other_convolutions() -> None:
    assert reasons(plan(block(WIDE).graph, disable=RULE).fused, RULE) == ["the rule is switched off"]
    b = Builder()
    x = b.input(weights(1, 64, 6, 6))
    b.output(pointwise(b, pointwise(b, x, 64), 32, groups=2))
    b.output(pointwise(b, conv(b, x, weights(64, 32, 3, 3), groups=2)))
    assert reasons(plan(b.graph).fused, RULE) == []


# -- counting and machine code ----------------------------------------------------------------------------------------
def test_traffic_and_multiply_adds_count_each_byte_and_product_once() -> None:
    b = block(WIDE)
    launch = planned(b.graph, "sm_90", dtype="fp16").programs[0].launches[-1]
    problem = launch.steps[0].work.problem
    assert isinstance(problem, ChainedContraction)
    pixels = 2 * 9 * 7
    between_zeros = (1 * 8 + 1) + 2 * 10 * 8
    assert launch.traffic.activations == 2 * 40 * between_zeros + 2 * 4 * 70 * pixels
    assert launch.traffic.weights == 2 * (40 * 9 * 33 + 33 * 70) + 4 * (33 + 70)
    assert traffic(problem) == launch.traffic
    assert problem.macs == pixels * (40 * 9 * 33 + 33 * 70)
    # behind the first: bias, two clips, which are one where they follow each other
    assert operations(problem) - 2 * problem.macs == pixels * (33 * len(problem.first.statements) + 70 * 3)
    tile = Tile(64, 16, 32, col_blocks=2)
    assert problem.programs(tile) == 2 * 3
    assert problem.recomputed_macs(tile) == 2 * problem.first.macs
    assert asked_bytes(launch) >= loop_bytes(problem) == 2 * (40 * between_zeros + 40 * 9 * 33 + 33 * 70)


@pytest.mark.parametrize("gpu", [name for name, gpu in TARGETS.items() if not gpu.is_interpreter])
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_there_is_a_tile_for_every_size(gpu: str, dtype: str) -> None:
    for middle, filters, pixels in ((1, 1, 1), (128, 1, 1), (128, 2048, 7), (64, 4096, 40)):
        b = Builder()
        b.output(pointwise(b, pointwise(b, inside(b, 1, 1024, pixels, pixels), middle), filters))
        (program,) = planned(b.graph, gpu, dtype=dtype).programs
        assert isinstance(program.launches[-1].steps[0].work.problem, ChainedContraction)


def test_source(golden: Callable[[str, str], None]) -> None:
    (problem,) = fused(planned(block(WIDE).graph, "sm_90", dtype="fp16"))
    tile = Tile(64, 32, 32, num_warps=4, num_stages=3, col_blocks=2)
    golden("kernels/conv3x3_conv1x1.py", emitted(problem, tile).source)


BLOCKS = [(64, 3, 64, 256, 56, True), (128, 3, 128, 512, 28, True), (672, 1, 28, 672, 1, False)]
"""ResNet's first two stages, squeeze-and-excitation: channels, window, middle, filters, extent, residual sum."""


@pytest.mark.parametrize("dtype", ["fp16", "tf32", "fp32"])
def test_no_spills_and_tensor_cores(dtype: str, tmp_path: Path) -> None:
    b = Builder("blocks")
    for channels, size, middle, filters, extent, residual in BLOCKS:
        x = inside(b, 1, channels, extent, extent)
        y = conv(b, x, weights(middle, channels, size, size), weights(middle), pads=(size // 2,) * 4)
        z = pointwise(b, b.add("Relu", y), filters, weights(filters))
        b.output(b.add("Relu", b.add("Add", z, inside(b, 1, filters, extent, extent))) if residual else z)
    found = planned(b.graph, "sm_80", "sm_90", dtype=dtype)
    check_machine_code(found, tmp_path, len(BLOCKS), lambda kernel: kernel.family == "chained", dtype != "fp32")
