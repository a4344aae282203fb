"""1x1 convolutions that a depthwise convolution computes under its taps: numbers, reasons to decline, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, inputs_of, integers, run, same
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import inside, weights

from convc.analysis.explain import explain
from convc.analysis.figures import asked_bytes
from convc.analysis.kernel_check import check_kernels
from convc.analysis.verify import reference_outputs, verify
from convc.codegen.cache import KernelCache
from convc.codegen.emit import emit
from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.frontends.export import export_onnx
from convc.ir import DType, Value
from convc.ir.expansion import ExpandedWindow
from convc.ir.plan import Tile
from convc.ir.separable import SeparableContraction
from convc.passes import Switches, expansion_tiles, fuse, separable_tiles
from convc.passes.expansion import RULE
from convc.passes.tiling import alone_seconds
from convc.planner import Options, Plan, make_plan, optimise
from convc.runtime.network import CompiledNetwork
from convc.targets import target

MODES = ("fp32", "tf32", "fp16", "bf16")
FEW = settings(settings.get_profile("shared-process"), max_examples=8)


def pointwise(b: Builder, x: Value, filters: int = 48, *bias: np.ndarray, **attributes: Any) -> Value:
    shape = b.graph.type(x).shape
    kernel = (1,) * (len(shape) - 2)
    return conv(b, x, weights(filters, int(shape[1]) // attributes.get("groups", 1), *kernel), *bias, **attributes)


def depthwise(b: Builder, y: Value, size: int = 3, *bias: np.ndarray, **attributes: Any) -> Value:
    channels, spatial = int(b.graph.type(y).shape[1]), len(b.graph.type(y).shape) - 2
    pads = (size // 2,) * (2 * spatial)
    return conv(
        b, y, weights(channels, 1, *(size,) * spatial), *bias, **{"groups": channels, "pads": pads} | attributes
    )


def plan_of(b: Builder, *targets: str, **options: Any) -> Plan:
    apart = {"switches": Switches(disable=("last-block", "sibling-convolutions"))}
    return make_plan(b.graph, Options(targets or ("sm_90",), **(apart | options)))


def fused(plan: Plan) -> list[ExpandedWindow | SeparableContraction]:
    kinds = (ExpandedWindow, SeparableContraction)
    return [problem for problem in plan.programs[0].problems if isinstance(problem, kinds) and problem.expansion]


def reasons(plan: Plan) -> list[str]:
    return [decline.reason for decline in plan.fused.declines if decline.rule == RULE]


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.sampled_from([1, 2, 2, 2, 2, 3]))
    size, dilation = draw(st.sampled_from([(3, 1), (3, 2), (5, 1), (2, 1), (1, 1)]))
    reach = (size - 1) * dilation + 1
    return {
        "shape": (
            draw(st.integers(1, 3)),
            draw(st.sampled_from([3, 16, 24, 40])),
            *(reach + draw(st.integers(0, 4)) for _ in range(rank)),
        ),
        "size": size,
        "window": {
            "pads": tuple(draw(st.integers(0, reach - 1)) for _ in range(2 * rank)),
            "strides": (draw(st.integers(1, 2)),) * rank,
            "dilations": (dilation,) * rank,
        },
        "channels": draw(st.sampled_from([2, 7, 16, 33])),
        "chain": draw(st.sampled_from(["", "bias", "clip", "shift", "gate"])),
        "filters": draw(st.sampled_from([0, 5, 33])),
        "residual": draw(st.booleans()),
        "inside": draw(st.booleans()),
    }


def block(case: dict[str, Any]) -> Builder:
    """An expanded depthwise convolution over whole numbers, exact in every mode, and a 1x1 one behind it if it has
    filters; "gate" reads a value twice."""
    b = Builder()
    x = inside(b, *case["shape"]) if case["inside"] else b.input(weights(*case["shape"]))
    y = pointwise(b, x, case["channels"], *([weights(case["channels"])] if case["chain"] else []))
    ones = (1,) * (len(case["shape"]) - 2)
    if case["chain"] in ("clip", "gate"):
        y = b.add("Clip", y, min=0.0, max=6.0)
    if case["chain"] == "gate":
        y = b.add("Mul", b.add("Relu", y), b.add("Neg", y))
    if case["chain"] == "shift":
        y = b.add("Abs", b.add("Sub", b.constant(weights(1, case["channels"], *ones)), y))
    z = depthwise(b, y, case["size"], weights(case["channels"]), **case["window"])
    if case["filters"]:
        z = pointwise(b, b.add("Clip", z, min=-3.0, max=6.0), case["filters"], weights(case["filters"]))
    if case["residual"]:
        z = b.add("Relu", b.add("Add", b.input(weights(*map(int, b.graph.type(z).shape))), z))
    b.output(z)
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", MODES)
@FEW
@given(cases())
def test_computes_what_the_operators_do(dtype: str, case: dict[str, Any]) -> None:
    b = block(case)
    assert len(fused(plan_of(b, dtype=dtype))) == 1
    found = run(b.graph, b.inputs, dtype=dtype)
    same(found, reference_outputs(export_onnx(b.graph, opset=22), b.inputs))
    same(found, run(b.graph, b.inputs, dtype=dtype, disable=RULE))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["Silu", "HardSwish", "Sigmoid"])
def test_functions_between_them(op: str) -> None:
    """Between identities: the function itself, whose slope is below 1.6."""
    b = Builder()
    x = b.input(np.linspace(-4, 4, 20 * 9, dtype=np.float32).reshape(1, 20, 3, 3))
    y = b.add(op, conv(b, x, np.eye(20, dtype=np.float32)[:, :, None, None]))
    b.output(conv(b, y, np.ones((20, 1, 1, 1), np.float32), groups=20))
    assert len(fused(plan_of(b))) == 1
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
    assert len(fused(plan_of(b))) == 1
    found = run(b.graph, b.inputs, dtype=dtype)
    same(found, run(b.graph, b.inputs, dtype=dtype, disable=RULE))
    assert np.isfinite(found["y0"]).all()


@pytest.mark.usefixtures("interpreters")
def test_rounds_as_storing_the_expanded_tensor_would() -> None:
    """1 + 2⁻¹² is 1 in fp16: a sum that kept it would show it."""
    b = Builder()
    x = b.input(np.ones((1, 16, 4, 4), np.float32))
    y = conv(b, x, np.full((8, 16, 1, 1), 2.0**-4, np.float32), np.full(8, 2.0**-12, np.float32))
    b.output(conv(b, y, np.ones((8, 1, 2, 2), np.float32), groups=8))
    assert len(fused(plan_of(b))) == 1
    assert (run(b.graph, b.inputs, dtype="fp16")["y0"] == 4).all()
    assert (run(b.graph, b.inputs, dtype="fp32")["y0"] == 4 + 2.0**-10).all()


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(("rows", "cols"), [(16, 16), (32, 64)])
def test_tiles_that_a_gpu_runs(monkeypatch: pytest.MonkeyPatch, rows: int, cols: int) -> None:
    tile = Tile(rows, cols, 32, num_warps=1, num_stages=1)
    monkeypatch.setattr(expansion_tiles, "ranked", lambda problem, target: [tile])
    b = block({**WIDE, "residual": True})
    launch = plan_of(b, "interpreter").programs[0].launches[-1]
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
    assert plan_of(b, "interpreter").programs[0].launches[-1].steps[0].tile.split_k == split
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
    """Each is within its bound of the reference, so both are within two bounds of each other."""
    graph = zoo.build(name, size=32, classes=10).graph
    checked = verify(graph, device="interpreter", dtype=dtype)
    assert checked.ok, checked.outputs
    inputs = inputs_of(graph)
    found, unfused = (run(graph, inputs, dtype=dtype, disable=disabled) for disabled in ((), RULE))
    for (name, array), output in zip(found.items(), checked.outputs, strict=True):
        assert abs(array - unfused[name]).max() <= 2 * output.bound


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("filters", [0, 24])
def test_kernels_one_by_one(filters: int) -> None:
    b = Builder()
    y = b.add("Silu", pointwise(b, inside(b, 1, 24, 9, 9), 40, weights(40)))
    z = b.add("Silu", depthwise(b, y, 3, weights(40), strides=(2, 2)))
    b.output(pointwise(b, z, filters) if filters else z)
    plan = plan_of(b, "interpreter", dtype="fp16")
    assert len(fused(plan)) == 1
    checks = list(check_kernels(plan, CompiledNetwork(compile_plan(plan)), "interpreter", inputs_of(b.graph)))
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
    y = pointwise(b, x)
    return b.add("Conv", y, b.constant(weights(48, 1, 1, 1)), b.input(weights(48)), **{**PLAIN, "groups": 48})


def _other_tensor(b: Builder, x: Value) -> Value:
    return depthwise(b, b.add("Mul", pointwise(b, x), b.input(weights(1, 48, 1, 1))))


def _varying(b: Builder, x: Value) -> Value:
    return depthwise(b, b.add("Mul", pointwise(b, x), b.constant(weights(1, 1, 6, 6))))


def _too_many(b: Builder, x: Value) -> Value:
    y = pointwise(b, x)
    for seed in range(7):
        y = b.add("Min" if seed % 2 else "Max", y, b.constant(integers(np.random.default_rng(seed), (48, 1, 1), 9)))
    return depthwise(b, y)


def _several_readers(b: Builder, x: Value) -> Value:
    y = pointwise(b, x)
    b.output(b.add("ReduceMax", y, axes=(2, 3), keepdims=True))
    return depthwise(b, y)


def _not_a_float(b: Builder, x: Value) -> Value:
    y = b.add("Cast", pointwise(b, x), dtype=DType.INT32)
    return depthwise(b, b.add("Cast", y, dtype=DType.FP32))


PLAIN: dict[str, Any] = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
REASONS: dict[str, tuple[str, Callable[[Builder, Value], Value]]] = {
    "window": ("window of its own", lambda b, x: depthwise(b, conv(b, x, weights(48, 24, 3, 3)))),
    "stride": ("skips pixels", lambda b, x: depthwise(b, pointwise(b, x, strides=(2, 2)))),
    "pads": ("pads its input", lambda b, x: depthwise(b, pointwise(b, x, pads=(1,) * 4))),
    "groups": ("grouped", lambda b, x: depthwise(b, pointwise(b, inside(b, 1, 64, 6, 6), groups=2))),
    "channels": ("more than 64 channels", lambda b, x: depthwise(b, pointwise(b, inside(b, 1, 65, 6, 6)))),
    "computed weights": ("weights of the 1x1 convolution are computed at run time", _computed),
    "computed filter": ("depthwise weights are computed at run time", _computed_filter),
    "multiplier": (
        "several filters per channel",
        lambda b, x: conv(b, pointwise(b, x), weights(96, 1, 3, 3), groups=48),
    ),
    "tensor": ("reads a tensor that is not constant", _other_tensor),
    "varying constant": ("varies from pixel to pixel", _varying),
    "many constants": ("more than 6", _too_many),
    "several readers": ("several operators read it", _several_readers),
    "graph output": ("graph output", lambda b, x: depthwise(b, b.output(pointwise(b, x)))),
    "type": ("is int32", _not_a_float),
    "taken": ("already belongs to another kernel", lambda b, x: depthwise(b, pointwise(b, depthwise(b, x)))),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    b = Builder()
    reason, build = REASONS[case]
    b.output(build(b, b.input(weights(1, 24, 6, 6))))
    canonical, _ = optimise(b.graph, Options())
    found = fuse(canonical, Switches())
    assert not any(RULE in region.rules for region in found.regions)
    said = [decline.reason for decline in found.declines if decline.rule == RULE]
    assert any(reason in text for text in said), said


def test_says_that_it_is_switched_off() -> None:
    plan = plan_of(block(WIDE), switches=Switches(disable=(RULE,)))
    assert fused(plan) == [] and reasons(plan) == ["the rule is switched off"]


@pytest.mark.parametrize(
    ("size", "stride", "op", "pays"), [(3, 2, "Silu", True), (3, 1, "Silu", False), (5, 1, "Relu", False)]
)
def test_declines_where_expanding_again_costs_more(size: int, stride: int, op: str, pays: bool) -> None:
    b = Builder()
    y = b.add(op, pointwise(b, b.input(np.zeros((1, 24, 56, 56), np.float32)), 144))
    b.output(depthwise(b, y, size, strides=(stride,) * 2))
    plan = plan_of(b)
    assert len(fused(plan)) == pays
    assert any("expanding pixels again for every window" in reason for reason in reasons(plan)) != pays


def test_nothing_is_said_where_no_dense_convolution_leads_to_it() -> None:
    b = Builder()
    b.output(depthwise(b, depthwise(b, b.input(weights(1, 24, 6, 6)))))
    b.output(pointwise(b, pointwise(b, b.input(weights(1, 24, 6, 6)))))
    assert reasons(plan_of(b)) == []


# -- counting and machine code ----------------------------------------------------------------------------------------
def test_traffic_and_multiply_adds_count_each_byte_and_product_once() -> None:
    launch = plan_of(block(WIDE)).programs[0].launches[-1]
    (problem,) = fused(plan_of(block(WIDE)))
    assert launch.traffic.activations == 24 * 169 * 2 + 70 * 49 * 4
    assert launch.traffic.weights == 2 * 24 * 70 + 2 * 9 * 70 + 4 * (70 + 70)
    assert problem.macs == 169 * 24 * 70 + 49 * 9 * 70
    assert isinstance(problem, ExpandedWindow)
    assert problem.recomputed_macs(launch.steps[0].tile) == (49 * 9 - 169) * 24 * 70
    columns = -(-70 // launch.steps[0].tile.cols)
    assert asked_bytes(launch) == columns * 49 * 9 * 24 * 2


def test_traffic_and_multiply_adds_of_a_whole_inverted_residual() -> None:
    plan = plan_of(block({**WIDE, "filters": 24}))
    launch, (problem,) = plan.programs[0].launches[-1], fused(plan)
    assert launch.traffic.activations == 24 * 169 * 2 + 24 * 49 * 4
    assert launch.traffic.weights == 2 * (24 * 70 + 9 * 70 + 70 * 24) + 4 * (70 + 70 + 24)
    assert problem.macs == 169 * 24 * 70 + 49 * 9 * 70 + 49 * 70 * 24
    assert isinstance(problem, SeparableContraction)
    again = problem.recomputed_macs(Tile(64, 16, 32))
    assert again == (2 * 49 * 9 - 169) * 24 * 70 + 49 * 9 * 70


def test_pixels_that_no_window_reaches_count_nowhere() -> None:
    b = Builder()
    b.output(depthwise(b, pointwise(b, inside(b, 1, 24, 9, 9)), 1, strides=(2, 2), pads=(0,) * 4))
    plan = plan_of(b)
    (problem,) = fused(plan)
    assert isinstance(problem, ExpandedWindow)
    assert problem.recomputed_macs(plan.programs[0].launches[-1].steps[0].tile) == 0
    assert problem.macs == 25 * 24 * 48 + 25 * 48
    assert plan.programs[0].launches[-1].traffic.activations == 24 * 25 * 2 + 48 * 25 * 4


@pytest.mark.parametrize("filters", [0, 24])
def test_one_block_alone_takes_as_long_as_all_its_tiles(filters: int) -> None:
    """What the last block of a launch would take for it is no less than its share of a full GPU times the blocks."""
    plan = plan_of(block({**WIDE, "shape": (1, 24, 57, 57), "filters": filters}))
    (problem,), gpu = fused(plan), target("sm_90")
    tile = next(
        step.tile for launch in plan.programs[0].launches for step in launch.steps if step.work.problem is problem
    )
    alone = alone_seconds(problem, tile, gpu)
    assert alone > 20 * tile.predicted_us * 1e-6


def test_source(golden: Callable[[str, str], None]) -> None:
    (problem,) = fused(plan_of(block({**WIDE, "residual": True})))
    kernel = emit(problem, Tile(32, 32, 32, num_warps=4, num_stages=3), lambda operand: operand.offset % 8 == 0)
    golden("kernels/expand_depthwise.py", kernel.source)


def test_source_of_a_whole_inverted_residual(golden: Callable[[str, str], None]) -> None:
    (problem,) = fused(plan_of(block({**WIDE, "filters": 24})))
    kernel = emit(problem, Tile(16, 32, 64, num_warps=4, num_stages=2), lambda operand: operand.offset % 8 == 0)
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
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    plan = plan_of(blocks(count, project), "sm_80", "sm_90", dtype=dtype, policy="always")
    assert len(fused(plan)) == count
    for program in compile_plan(plan, KernelCache(tmp_path)).manifest.programs:
        kernels = [kernel for kernel in program.kernels if kernel.name.startswith("conv1x1_depthwise")]
        assert len(kernels) == count
        for kernel in kernels:
            assert kernel.binary.spill_bytes == 0 and kernel.binary.registers <= 255, kernel.name
            assert kernel.binary.shared_bytes <= target(program.target).shared_bytes
            assert (kernel.binary.tensor_core_instructions > 0) == (dtype != "fp32"), kernel.name
