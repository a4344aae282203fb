"""Convolutions whose result the 1x1 convolution behind them takes from registers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import APART, Builder, conv, evaluate, integers, planned, run_planned, same
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import POOL, inside, weights

from convc.analysis.explain import explain
from convc.analysis.figures import asked_bytes, loop_bytes, operations
from convc.analysis.kernel_check import check_kernels
from convc.api import plan
from convc.codegen.cache import KernelCache
from convc.codegen.emit import emit
from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.ir import DType, Value
from convc.ir.chained import ChainedContraction
from convc.ir.plan import Tile
from convc.passes import Switches, back_to_back, chained_tiles, fuse
from convc.passes.back_to_back import RULE
from convc.passes.policies import Always
from convc.passes.traffic import traffic
from convc.planner import Options, Plan, make_plan, optimise
from convc.runtime.network import CompiledNetwork
from convc.targets import TARGETS

RANDOM = np.random.default_rng(3)
MODES = ("fp32", "tf32", "fp16", "bf16")


def fused(plan: Plan) -> list[ChainedContraction]:
    problems = [launch.steps[0].work.problem for launch in plan.programs[0].launches]
    return [problem for problem in problems if isinstance(problem, ChainedContraction)]


def reasons(plan: Plan) -> list[str]:
    return [decline.reason for decline in plan.fused.declines if decline.rule == RULE]


def pointwise(b: Builder, y: Value, filters: int = 24, *bias: np.ndarray, **attributes: Any) -> Value:
    shape = b.graph.type(y).shape
    kernel = (1,) * (len(shape) - 2)
    w = weights(filters, int(shape[1]) // attributes.get("groups", 1), *kernel)
    return conv(b, y, w, *bias, **attributes)


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))
    size, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (2, 1)]))
    reach = (size - 1) * dilation + 1
    return {
        "shape": (
            draw(st.integers(1, 3)),
            draw(st.sampled_from([3, 16, 21, 40])),
            *(reach + draw(st.integers(0, 4)) for _ in range(rank)),
        ),
        "size": size,
        "window": {
            "pads": tuple(draw(st.integers(0, reach - 1)) for _ in range(2 * rank)),
            "strides": (draw(st.integers(1, 2)),) * rank,
            "dilations": (dilation,) * rank,
        },
        "middle": draw(st.sampled_from([1, 7, 16, 33])),
        "filters": draw(st.sampled_from([1, 16, 40])),
        "chain": draw(st.sampled_from(["", "bias", "clip", "shift", "gate"])),
        "residual": draw(st.booleans()),
        "inside": draw(st.booleans()),
    }


def block(case: dict[str, Any]) -> Builder:
    """Two convolutions over small whole numbers, exact in every mode; "gate" reads a value twice."""
    b = Builder()
    x = inside(b, *case["shape"]) if case["inside"] else b.input(weights(*case["shape"]))
    middle, rank = case["middle"], len(case["shape"]) - 2
    first = weights(middle, case["shape"][1], *(case["size"],) * rank)
    y = conv(b, x, first, *([weights(middle)] if case["chain"] else []), **case["window"])
    if case["chain"] in ("clip", "gate"):
        y = b.add("Clip", y, min=-3.0, max=6.0)
    if case["chain"] == "gate":
        y = b.add("Add", b.add("Relu", y), b.add("Neg", y))
    if case["chain"] == "shift":
        y = b.add("Abs", b.add("Sub", b.constant(weights(1, middle, *(1,) * rank)), y))
    z = pointwise(b, b.add("Clip", y, min=-8.0, max=8.0), case["filters"], weights(case["filters"]))
    if case["residual"]:
        z = b.add("Relu", b.add("Add", b.input(weights(*map(int, b.graph.type(z).shape))), z))
    b.output(z)
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", MODES)
@settings(settings.get_profile("shared-process"), max_examples=8)
@given(cases())
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
    checks = list(check_kernels(found, CompiledNetwork(compile_plan(found)), "interpreter", b.inputs))
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
    assert fused(found) == [] and "dividing the work of both by pixels alone takes" in reasons(found)[0]
    (forced,) = planned(b.graph, "sm_90", dtype="fp16").programs
    assert forced.launches[-1].steps[0].tile.predicted_us > found.programs[0].predicted_us


# -- reasons ----------------------------------------------------------------------------------------------------------
def _first(b: Builder, x: Value, middle: int = 24) -> Value:
    return conv(b, x, weights(middle, 24, 3, 3))


def _computed(b: Builder, x: Value) -> Value:
    w = b.input(weights(24, 24, 3, 3))
    y = b.add("Conv", x, w, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1)
    return pointwise(b, y)


def _varying(b: Builder, x: Value) -> Value:
    return pointwise(b, b.add("Mul", _first(b, x), b.constant(weights(1, 1, 4, 4))))


def _too_many(b: Builder, x: Value) -> Value:
    y = _first(b, x)
    for seed in range(7):
        y = b.add("Min" if seed % 2 else "Max", y, b.constant(integers(np.random.default_rng(seed), (24, 1, 1), 9)))
    return pointwise(b, y)


def _several_readers(b: Builder, x: Value) -> Value:
    y = _first(b, x)
    b.output(b.add("ReduceMax", y, axes=(2, 3), keepdims=True))
    return pointwise(b, y)


def _not_a_float(b: Builder, x: Value) -> Value:
    return pointwise(b, b.add("Cast", b.add("Cast", _first(b, x), dtype=DType.INT32), dtype=DType.FP32))


def _another_kernel(b: Builder, x: Value) -> Value:
    y = conv(b, x, weights(24, 1, 3, 3), groups=24)
    return pointwise(b, pointwise(b, y))


REASONS: dict[str, tuple[str, Callable[[Builder, Value], Value]]] = {
    "window": ("every position", lambda b, x: conv(b, _first(b, x), weights(4, 24, 3, 3))),
    "pads": ("pads its input", lambda b, x: pointwise(b, _first(b, x), pads=(1,) * 4)),
    "stride": ("skips pixels", lambda b, x: pointwise(b, _first(b, x), strides=(2, 2))),
    "weights": ("computed at run time", _computed),
    "channels": ("136 channels between them", lambda b, x: pointwise(b, _first(b, x, 136))),
    "tensor": ("not constant", lambda b, x: pointwise(b, b.add("Mul", _first(b, x), b.input(weights(1, 24, 1, 1))))),
    "varying constant": ("varies from pixel to pixel", _varying),
    "many constants": ("more than 6", _too_many),
    "type": ("is int32", _not_a_float),
    "graph output": ("graph output", lambda b, x: pointwise(b, b.output(_first(b, x)))),
    "several readers": ("several operators read it", _several_readers),
    "another kernel": ("already belongs to another kernel", _another_kernel),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    b = Builder()
    reason, build = REASONS[case]
    b.output(build(b, b.input(weights(1, 24, 6, 6))))
    canonical, _ = optimise(b.graph, Options())
    found = fuse(canonical, Switches(), Always())
    assert not any(RULE in region.rules for region in found.regions)
    said = [decline.reason for decline in found.declines if decline.rule == RULE]
    assert len(said) == 1 and reason in said[0], said


def test_declines_where_no_tile_holds_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_to_back, "ranked", lambda *_: [])
    assert reasons(plan(block(WIDE).graph)) == ["no tile of both convolutions fits into a multiprocessor"]


def test_says_that_it_is_switched_off_and_nothing_of_other_convolutions() -> None:
    assert reasons(plan(block(WIDE).graph, disable=RULE)) == ["the rule is switched off"]
    b = Builder()
    x = b.input(weights(1, 64, 6, 6))
    b.output(pointwise(b, pointwise(b, x, 64), 32, groups=2))
    b.output(pointwise(b, conv(b, x, weights(64, 32, 3, 3), groups=2)))
    assert reasons(plan(b.graph)) == []


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
    golden("kernels/conv3x3_conv1x1.py", emit(problem, tile, lambda operand: operand.offset % 8 == 0).source)


BLOCKS = [(64, 3, 64, 256, 56, True), (128, 3, 128, 512, 28, True), (672, 1, 28, 672, 1, False)]
"""ResNet's first two stages, squeeze-and-excitation: channels, window, middle, filters, extent, residual sum."""


@pytest.mark.parametrize("dtype", ["fp16", "tf32", "fp32"])
def test_no_spills_and_tensor_cores(dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    b = Builder("blocks")
    for channels, size, middle, filters, extent, residual in BLOCKS:
        x = inside(b, 1, channels, extent, extent)
        y = conv(b, x, weights(middle, channels, size, size), weights(middle), pads=(size // 2,) * 4)
        z = pointwise(b, b.add("Relu", y), filters, weights(filters))
        b.output(b.add("Relu", b.add("Add", z, inside(b, 1, filters, extent, extent))) if residual else z)
    found = planned(b.graph, "sm_80", "sm_90", dtype=dtype)
    for program in compile_plan(found, KernelCache(tmp_path)).manifest.programs:
        kernels = [kernel for kernel in program.kernels if kernel.family == "chained"]
        assert len(kernels) == len(BLOCKS)
        for kernel in kernels:
            assert kernel.binary.spill_bytes == 0 and kernel.binary.registers <= 255, kernel.name
            assert kernel.binary.shared_bytes <= TARGETS[program.target].shared_bytes
            assert (kernel.binary.tensor_core_instructions > 0) == (dtype != "fp32"), kernel.name
