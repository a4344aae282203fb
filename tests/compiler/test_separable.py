"""Depthwise convolutions that the 1x1 convolution behind them computes: numbers, reasons to decline, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, inputs_of, integers, run, same
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import POOL, inside, weights

from convc.analysis.verify import reference_outputs, verify
from convc.codegen.cache import KernelCache
from convc.codegen.emit import EmittedKernel, emit
from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.frontends.export import export_onnx
from convc.ir import DType, Value
from convc.ir.plan import Tile
from convc.ir.separable import SeparableContraction
from convc.passes import Switches, fuse, separable_tiles
from convc.passes.separable import RULE
from convc.planner import Options, Plan, make_plan, optimise
from convc.targets import TARGETS, target

MODES = ("fp32", "tf32", "fp16", "bf16")
FEW = settings(settings.get_profile("shared-process"), max_examples=8)


def depthwise(b: Builder, x: Value, size: int = 3, *bias: np.ndarray, **attributes: Any) -> Value:
    channels, spatial = int(b.graph.type(x).shape[1]), len(b.graph.type(x).shape) - 2
    pads = (size // 2,) * (2 * spatial)
    return conv(
        b, x, weights(channels, 1, *(size,) * spatial), *bias, **{"groups": channels, "pads": pads} | attributes
    )


def pointwise(b: Builder, y: Value, filters: int = 24, *bias: np.ndarray, **attributes: Any) -> Value:
    shape = b.graph.type(y).shape
    kernel = (1,) * (len(shape) - 2)
    return conv(b, y, weights(filters, int(shape[1]) // attributes.get("groups", 1), *kernel), *bias, **attributes)


def plan_of(b: Builder, *targets: str, **options: Any) -> Plan:
    return make_plan(b.graph, Options(targets or ("sm_90",), **options))


def fused(plan: Plan) -> list[SeparableContraction]:
    problems = plan.programs[0].problems
    return [problem for problem in problems if isinstance(problem, SeparableContraction)]


def reasons(plan: Plan) -> list[str]:
    return [decline.reason for decline in plan.fused.declines if decline.rule == RULE]


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    rank = draw(st.sampled_from([1, 2, 2, 2, 2, 3]))
    size, dilation = draw(st.sampled_from([(3, 1), (3, 2), (5, 1), (2, 1), (1, 1)]))
    reach = (size - 1) * dilation + 1
    pads = tuple(draw(st.integers(0, reach - 1)) for _ in range(2 * rank))
    spatial = tuple(reach + draw(st.integers(0, 4)) for _ in range(rank))
    return {
        "shape": (draw(st.integers(1, 3)), draw(st.sampled_from([3, 16, 21, 40])), *spatial),
        "size": size,
        "window": {
            "pads": pads,
            "strides": (draw(st.integers(1, 2)),) * rank,
            "dilations": (dilation,) * rank,
        },
        "filters": draw(st.sampled_from([1, 7, 16, 33])),
        "chain": draw(st.sampled_from(["", "bias", "clip", "shift", "gate"])),
        "residual": draw(st.booleans()),
        "inside": draw(st.booleans()),
    }


def block(case: dict[str, Any]) -> Builder:
    """A separable convolution over whole numbers, exact in every mode; "gate" reads a value twice."""
    b = Builder()
    channels = case["shape"][1]
    x = inside(b, *case["shape"]) if case["inside"] else b.input(weights(*case["shape"]))
    bias = [weights(channels)] if case["chain"] else []
    y = depthwise(b, x, case["size"], *bias, **case["window"])
    ones = (1,) * (len(case["shape"]) - 2)
    if case["chain"] in ("clip", "gate"):
        y = b.add("Clip", y, min=0.0, max=6.0)
    if case["chain"] == "gate":
        y = b.add("Mul", b.add("Relu", y), b.add("Neg", y))
    if case["chain"] == "shift":
        y = b.add("Abs", b.add("Sub", b.constant(weights(1, channels, *ones)), y))
    z = pointwise(b, y, case["filters"], weights(case["filters"]))
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


def scheduled(b: Builder, tile: Tile) -> tuple[SeparableContraction, EmittedKernel]:
    (problem,) = fused(plan_of(b))
    return problem, emit(problem, tile, lambda operand: operand.offset % 8 == 0)


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
    """Each is within its bound of the reference, so both are within two bounds of each other."""
    graph = zoo.build("mobilenet_v2", size=32, classes=10).graph
    checked = verify(graph, device="interpreter", dtype=dtype)
    assert checked.ok, checked.outputs
    inputs = inputs_of(graph)
    found, unfused = (run(graph, inputs, dtype=dtype, disable=disabled) for disabled in ((), RULE))
    for (name, array), output in zip(found.items(), checked.outputs, strict=True):
        assert abs(array - unfused[name]).max() <= 2 * output.bound


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
def _multiplier(b: Builder, x: Value) -> Value:
    return pointwise(b, conv(b, x, weights(48, 1, 3, 3), groups=24))


def _computed(b: Builder, x: Value) -> Value:
    y = b.add("Conv", x, b.constant(weights(24, 1, 3, 3)), b.input(weights(24)), groups=24, **WINDOW)
    return pointwise(b, y)


def _other_tensor(b: Builder, x: Value) -> Value:
    y = depthwise(b, x)
    return pointwise(b, b.add("Mul", y, b.input(weights(1, 24, 1, 1))))


def _varying(b: Builder, x: Value) -> Value:
    return pointwise(b, b.add("Mul", depthwise(b, x), b.constant(weights(1, 1, 6, 6))))


def _too_many(b: Builder, x: Value) -> Value:
    y = depthwise(b, x)
    for seed in range(7):
        y = b.add("Min" if seed % 2 else "Max", y, b.constant(integers(np.random.default_rng(seed), (24, 1, 1), 9)))
    return pointwise(b, y)


def _several_readers(b: Builder, x: Value) -> Value:
    y = depthwise(b, x)
    b.output(b.add("ReduceMax", y, axes=(2, 3), keepdims=True))
    return pointwise(b, y)


def _output(b: Builder, x: Value) -> Value:
    return pointwise(b, b.output(depthwise(b, x)))


def _not_a_float(b: Builder, x: Value) -> Value:
    y = b.add("Cast", depthwise(b, x), dtype=DType.INT32)
    return pointwise(b, b.add("Cast", y, dtype=DType.FP32))


WINDOW = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1)}
REASONS: dict[str, tuple[str, Callable[[Builder, Value], Value]]] = {
    "multiplier": ("several filters per channel", _multiplier),
    "computed weights": ("computed at run time", _computed),
    "stride": ("skips pixels", lambda b, x: pointwise(b, depthwise(b, x), strides=(2, 2))),
    "pads": ("pads its input", lambda b, x: pointwise(b, depthwise(b, x), pads=(1,) * 4)),
    "groups": ("grouped", lambda b, x: pointwise(b, depthwise(b, inside(b, 1, 64, 6, 6)), groups=2)),
    "window": ("every position", lambda b, x: conv(b, depthwise(b, x), weights(4, 24, 3, 3))),
    "tensor": ("reads a tensor that is not constant", _other_tensor),
    "varying constant": ("varies from pixel to pixel", _varying),
    "many constants": ("more than 6", _too_many),
    "several readers": ("several operators read it", _several_readers),
    "graph output": ("graph output", _output),
    "type": ("is int32", _not_a_float),
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


def test_what_reads_through_a_window_ends_in_no_pooling() -> None:
    b = Builder()
    z = pointwise(b, depthwise(b, inside(b, 1, 24, 8, 8)))
    b.output(b.add("MaxPool", z, **{**POOL, "kernel_shape": (2, 2), "pads": (0,) * 4}))
    plan = plan_of(b)
    assert len(fused(plan)) == 1
    (reason,) = [decline.reason for decline in plan.fused.declines if decline.rule == "conv-pool"]
    assert "already belongs to another kernel" in reason


def test_says_that_it_is_switched_off() -> None:
    b = block(WIDE)
    plan = plan_of(b, switches=Switches(disable=(RULE,)))
    assert fused(plan) == [] and reasons(plan) == ["the rule is switched off"]


@pytest.mark.parametrize(("batch", "filters", "pays"), [(32, 256, True), (1, 512, True), (64, 1024, False)])
def test_declines_where_computing_it_again_costs_more(batch: int, filters: int, pays: bool) -> None:
    """Bytes and a launch against depthwise sums made again for every 256 filters, in seconds on the H200."""
    b = Builder()
    b.output(pointwise(b, depthwise(b, b.input(np.zeros((batch, 64, 28, 28), np.float32))), filters))
    plan = plan_of(b)
    assert len(fused(plan)) == pays
    assert any("multiply-adds and " in reason for reason in reasons(plan)) != pays
    middle = batch * 64 * 28 * 28
    launch = min(gpu.launch_s * gpu.dram_bytes_per_s for gpu in TARGETS.values() if not gpu.is_interpreter)
    assert pays == (4 * middle + launch >= (filters // 256 - 1) * (middle * 9 * 3 / 5 + 1.6 * middle))


def test_nothing_is_said_where_no_depthwise_convolution_leads_to_it() -> None:
    b = Builder()
    b.output(pointwise(b, b.add("Relu", pointwise(b, b.input(weights(1, 24, 6, 6))))))
    b.output(depthwise(b, depthwise(b, b.input(weights(1, 24, 6, 6)))))
    assert reasons(plan_of(b)) == []


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
    _, kernel = scheduled(b, Tile(16, 64, 32, num_warps=4, num_stages=2, split_k=1))
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
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    plan = plan_of(blocks(count), "sm_80", "sm_90", dtype=dtype)
    assert len(fused(plan)) == count
    for program in compile_plan(plan, KernelCache(tmp_path)).manifest.programs:
        kernels = [kernel for kernel in program.kernels if kernel.family == "separable"]
        assert len(kernels) == count
        for kernel in kernels:
            assert kernel.binary.spill_bytes == 0 and kernel.binary.registers <= 255, kernel.name
            assert kernel.binary.shared_bytes <= target(program.target).shared_bytes
            assert (kernel.binary.tensor_core_instructions > 0) == (dtype != "fp32"), kernel.name
