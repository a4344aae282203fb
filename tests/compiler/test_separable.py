"""Depthwise convolutions that the 1x1 convolution behind them computes: numbers, reasons to decline, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import Reasons, bias_of, chained, depthwise, input_of, pointwise, reasons_between, windowed, with_residual
from compiled import Builder, conv, evaluate, run, same
from hypothesis import strategies as st
from rule_checks import (
    check_machine_code,
    check_network,
    declined,
    emitted,
    in_every_mode,
    plan_of,
    reasons,
    reference_of,
    same_without,
)
from small_networks import POOL, inside, weights

from convc.frontends import zoo
from convc.ir import Value
from convc.ir.plan import Tile
from convc.ir.separable import SeparableContraction
from convc.passes import Switches, separable_tiles
from convc.passes.separable import RULE
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.targets import TARGETS


def fused(plan: Plan) -> list[SeparableContraction]:
    problems = plan.programs[0].problems
    return [problem for problem in problems if isinstance(problem, SeparableContraction)]


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    return draw(windowed([(3, 1), (3, 2), (5, 1), (2, 1), (1, 1)])) | {
        "filters": draw(st.sampled_from([1, 7, 16, 33])),
    }


def block(case: dict[str, Any]) -> Builder:
    """A separable convolution over whole numbers, exact in every mode."""
    b = Builder()
    y = depthwise(b, input_of(b, case), case["size"], *bias_of(case, case["shape"][1]), **case["window"])
    z = pointwise(b, chained(b, y, case["chain"]), case["filters"], weights(case["filters"]))
    b.output(with_residual(b, case, z))
    return b


@in_every_mode(cases())
def test_computes_what_the_operators_do(dtype: str, case: dict[str, Any]) -> None:
    b = block(case)
    assert len(fused(plan_of(b, dtype=dtype))) == 1
    same(same_without(b, RULE, dtype), reference_of(b))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["Silu", "HardSwish", "Sigmoid"])
def test_functions_between_them(op: str) -> None:
    """Behind a depthwise identity and before a 1x1 one: the function itself, whose slope is below 1.6."""
    b = Builder()
    x = b.input(np.linspace(-4, 4, 20 * 9, dtype=np.float32).reshape(1, 20, 3, 3))
    eye = np.eye(20, dtype=np.float32)[:, :, None, None]
    b.output(conv(b, b.add(op, conv(b, x, np.ones((20, 1, 1, 1), np.float32), groups=20)), eye))
    assert len(fused(plan_of(b))) == 1
    found, wanted = run(b.graph, b.inputs)["y0"], evaluate(b.graph, b.inputs)["y0"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=16 * 2.0**-24 * 4)


@pytest.mark.usefixtures("interpreters")
def test_channels_past_the_last_stay_zero_where_the_operator_makes_them_infinite() -> None:
    b = Builder()
    x = b.input(np.ones((1, 20, 4, 4), np.float32))
    ones = conv(b, x, np.ones((20, 1, 1, 1), np.float32), groups=20)
    b.output(conv(b, b.add("Reciprocal", ones), np.ones((4, 20, 1, 1), np.float32)))
    assert len(fused(plan_of(b))) == 1
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("split", [1, 3])
@pytest.mark.parametrize(("rows", "cols", "depth"), [(16, 16, 16), (32, 64, 16)])
def test_tiles_that_a_gpu_runs(monkeypatch: pytest.MonkeyPatch, rows: int, cols: int, depth: int, split: int) -> None:
    """Several tiles along rows and columns, loops over the channels and split-K, in the interpreter."""
    tile = Tile(rows, cols, depth, num_warps=1, num_stages=1, split_k=split)
    monkeypatch.setattr(separable_tiles, "ranked", lambda problem, target: [tile])
    b = block({**WIDE, "residual": True})
    apart = Switches(disable=("last-block",))
    assert plan_of(b, "interpreter", switches=apart).programs[0].launches[-1].steps[0].tile.split_k == split
    same(run(b.graph, b.inputs, disable="last-block"), evaluate(b.graph, b.inputs))


WIDE = {
    "shape": (1, 90, 7, 7),
    "size": 3,
    "window": {"pads": (1,) * 4},
    "filters": 70,
    "chain": "clip",
    "residual": False,
    "inside": True,
}


# -- networks ---------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_mobilenet_with_and_without(dtype: str) -> None:
    check_network(zoo.build("mobilenet_v2", size=32, classes=10).graph, dtype, RULE)


@pytest.mark.parametrize(
    ("name", "launches", "megabytes", "regions"), [("mobilenet_v1", 16, 21.6, 13), ("mobilenet_v2", 37, 25.6, 17)]
)
def test_what_the_zoo_gains(name: str, launches: int, megabytes: float, regions: int) -> None:
    plan = make_plan(zoo.build(name).graph, Options(("sm_80", "sm_90", "interpreter")))
    assert len(fused(plan)) == regions
    for program in plan.programs:
        moved = program.traffic.activations + program.traffic.weights
        assert len(program.launches) <= launches and moved <= megabytes * 1e6


# -- reasons ----------------------------------------------------------------------------------------------------------
def _computed(b: Builder, x: Value) -> Value:
    y = b.add("Conv", x, b.constant(weights(24, 1, 3, 3)), b.input(weights(24)), groups=24, **WINDOW)
    return pointwise(b, y)


WINDOW = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1)}
REASONS: Reasons = {
    "multiplier": (
        "several filters per channel",
        lambda b, x: pointwise(b, conv(b, x, weights(48, 1, 3, 3), groups=24)),
    ),
    "computed weights": ("computed at run time", _computed),
    "stride": ("skips pixels", lambda b, x: pointwise(b, depthwise(b, x), strides=(2, 2))),
    "pads": ("pads its input", lambda b, x: pointwise(b, depthwise(b, x), pads=(1,) * 4)),
    "groups": ("grouped", lambda b, x: pointwise(b, depthwise(b, inside(b, 1, 64, 6, 6)), groups=2)),
    "window": ("every position", lambda b, x: conv(b, depthwise(b, x), weights(4, 24, 3, 3))),
    **reasons_between(depthwise, pointwise),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    reason, build = REASONS[case]
    said = declined(RULE, build)
    assert any(reason in text for text in said), said


def test_what_reads_through_a_window_ends_in_no_pooling() -> None:
    b = Builder()
    z = pointwise(b, depthwise(b, inside(b, 1, 24, 8, 8)))
    b.output(b.add("MaxPool", z, **{**POOL, "kernel_shape": (2, 2), "pads": (0,) * 4}))
    plan = plan_of(b)
    assert len(fused(plan)) == 1
    (reason,) = reasons(plan.fused, "conv-pool")
    assert "already belongs to another kernel" in reason


def test_says_that_it_is_switched_off() -> None:
    b = block(WIDE)
    plan = plan_of(b, switches=Switches(disable=(RULE,)))
    assert fused(plan) == [] and reasons(plan.fused, RULE) == ["the rule is switched off"]


@pytest.mark.parametrize(("batch", "filters", "pays"), [(32, 256, True), (1, 512, True), (64, 1024, False)])
def test_declines_where_computing_it_again_costs_more(batch: int, filters: int, pays: bool) -> None:
    """Bytes and a launch against depthwise sums made again for every 256 filters, in seconds on the H200."""
    b = Builder()
    b.output(pointwise(b, depthwise(b, b.input(np.zeros((batch, 64, 28, 28), np.float32))), filters))
    plan = plan_of(b)
    assert len(fused(plan)) == pays
    assert any("multiply-adds and " in reason for reason in reasons(plan.fused, RULE)) != pays
    middle = batch * 64 * 28 * 28
    launch = min(gpu.launch_s * gpu.dram_bytes_per_s for gpu in TARGETS.values() if not gpu.is_interpreter)
    assert pays == (4 * middle + launch >= (filters // 256 - 1) * (middle * 9 * 3 / 5 + 1.6 * middle))


def test_nothing_is_said_where_no_depthwise_convolution_leads_to_it() -> None:
    b = Builder()
    b.output(pointwise(b, b.add("Relu", pointwise(b, b.input(weights(1, 24, 6, 6))))))
    b.output(depthwise(b, depthwise(b, b.input(weights(1, 24, 6, 6)))))
    assert reasons(plan_of(b).fused, RULE) == []


# -- counting and machine code ----------------------------------------------------------------------------------------
def test_traffic_and_multiply_adds_count_each_byte_and_product_once() -> None:
    plan = plan_of(block({**WIDE, "residual": True}))
    launch = plan.programs[0].launches[-1]
    (problem,) = launch.problems
    assert isinstance(problem, SeparableContraction)
    read, residual, written = 90 * 49 * 2, 70 * 49 * 4, 70 * 49 * 4
    assert launch.traffic.activations == read + residual + written
    assert launch.traffic.weights == 2 * 90 * 9 + 2 * 90 * 70 + 4 * (90 + 70)
    assert problem.macs == 49 * 90 * 9 + 49 * 90 * 70
    tile = Tile(64, 32, 32)
    assert problem.recomputed_macs(tile) == 2 * 49 * 90 * 9


def test_source(golden: Callable[[str, str], None]) -> None:
    b = block({**WIDE, "residual": True, "window": {"pads": (1,) * 4, "strides": (2, 2)}})
    (problem,) = fused(plan_of(b))
    kernel = emitted(problem, Tile(16, 64, 32, num_warps=4, num_stages=2, split_k=1))
    golden("kernels/depthwise_pointwise.py", kernel.source)


BLOCKS = [(96, 24, 56, 3, 2), (672, 192, 14, 5, 2), (960, 320, 7, 3, 1), (512, 512, 14, 3, 1)]
"""Of MobileNet and of EfficientNet without its gates: channels, filters, extent, window, stride."""


def blocks(count: int) -> Builder:
    b = Builder("blocks")
    for channels, filters, extent, size, stride in BLOCKS[:count]:
        y = depthwise(b, inside(b, 1, channels, extent, extent), size, weights(channels), strides=(stride,) * 2)
        b.output(pointwise(b, b.add("Silu", y), filters, weights(filters)))
    return b


@pytest.mark.parametrize(("dtype", "count"), [("fp16", 4), ("tf32", 2), ("fp32", 2)])
def test_no_spills_and_tensor_cores(dtype: str, count: int, tmp_path: Path) -> None:
    plan = plan_of(blocks(count), "sm_80", "sm_90", dtype=dtype)
    assert len(fused(plan)) == count
    check_machine_code(plan, tmp_path, count, lambda kernel: kernel.family == "separable", dtype != "fp32")
