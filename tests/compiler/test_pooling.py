"""Convolution, what follows it elementwise, and pooling in one kernel."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import APART, Builder, conv, evaluate, integers, planned, run, run_planned, same
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_checks import check_machine_code, kernel_checks
from small_networks import inside, weights

import convc
from convc.api import plan
from convc.codegen.emit import emit
from convc.frontends import zoo
from convc.ir import DType, Value
from convc.ir.plan import Tile
from convc.ir.pooled import PooledContraction
from convc.passes import Switches, fuse, tiling
from convc.passes.traffic import traffic
from convc.planner import optimise
from convc.program import Options

RANDOM = np.random.default_rng(11)


def pool(
    b: Builder, x: Value, size: int = 2, stride: int = 2, pad: int = 0, ceil: bool = False, op: str = "MaxPool"
) -> Value:
    window = {"kernel_shape": (size,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (1, 1)}
    return b.add(op, x, ceil_mode=ceil, **window)


def rules(b: Builder, *disable: str) -> list[tuple[str, ...]]:
    disable = ",".join(["last-block", "sibling-convolutions", *disable])
    network = convc.compile(b.graph, target="interpreter", dtype="fp32", disable=disable)
    return [launch.rules for launch in network.plan.launches]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize(
    ("shape", "kernel", "pad", "stride", "groups"),
    [
        ((2, 3, 9, 11), 3, 1, 1, 1),  # odd sizes: the last row and column are not pooled
        ((1, 16, 8, 8), 3, 1, 1, 1),
        ((3, 20, 13, 7), 1, 0, 1, 1),
        ((1, 3, 32, 32), 5, 2, 2, 1),
        ((1, 8, 2, 2), 1, 0, 1, 1),  # one pixel is left
        ((1, 64, 6, 6), 3, 1, 1, 2),
    ],
)
def test_bias_relu_and_pool(op, dtype, shape, kernel, pad, stride, groups):
    b = Builder()
    weights = integers(RANDOM, (24, shape[1] // groups, kernel, kernel), 1)
    attributes = {"pads": (pad,) * 4, "strides": (stride,) * 2, "groups": groups}
    y = conv(b, b.input(integers(RANDOM, shape)), weights, integers(RANDOM, (24,)), **attributes)
    b.output(pool(b, b.add("Relu", y), op=op))
    assert rules(b) == [("conv-pool", "conv-epilogue")]
    same(run(b.graph, b.inputs, dtype=dtype), evaluate(b.graph, b.inputs))


def test_a_residual_sum_in_between():
    b = Builder()
    x, r = b.input(integers(RANDOM, (2, 17, 6, 8))), b.input(integers(RANDOM, (2, 8, 6, 8)))
    b.output(pool(b, b.add("Relu", b.add("Add", conv(b, x, integers(RANDOM, (8, 17, 1, 1), 1)), r))))
    assert rules(b) == [("conv-pool", "conv-epilogue")]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_an_elementwise_prologue_in_front(op, dtype):
    """DenseNet's transition: batch normalisation and ReLU, 1x1 convolution, pooling."""
    b = Builder()
    s, t = (b.constant(integers(RANDOM, (20, 1, 1))) for _ in range(2))
    y = b.add("Relu", b.add("Add", b.add("Mul", b.input(integers(RANDOM, (2, 20, 7, 6))), s), t))
    b.output(pool(b, conv(b, y, integers(RANDOM, (12, 20, 1, 1), 1)), op=op))
    assert rules(b) == [("conv-pool", "conv-prologue")]
    same(run(b.graph, b.inputs, dtype=dtype), evaluate(b.graph, b.inputs))


def test_densenet_loses_a_launch_for_each_transition():
    graph = zoo.build("densenet121", weights="none").graph
    with_it, without = (
        plan(graph, "sm_90", "fp16", disable=(*APART.disable, *off)) for off in ((), ("conv-pool", "pool-conv"))
    )
    transitions = [region for region in with_it.fused.regions if "conv-prologue" in region.rules]
    assert sum("conv-pool" in region.rules for region in transitions) == 3
    assert len(without.programs[0].launches) - len(with_it.programs[0].launches) == 4
    assert with_it.programs[0].traffic.total < without.programs[0].traffic.total - 2.8e6


def test_nan_reaches_the_result_of_its_window_alone():
    b = Builder()
    x = integers(RANDOM, (1, 4, 4, 4))
    x[0, 0, 0, 0] = np.nan
    b.output(pool(b, conv(b, b.input(x), integers(RANDOM, (8, 4, 1, 1), 1) + 3)))
    (found,) = run(b.graph, b.inputs).values()
    assert np.isnan(found[:, :, 0, 0]).all() and np.isfinite(found[:, :, 1:, 1:]).all()
    same({"y0": found}, evaluate(b.graph, b.inputs))


def test_the_result_can_lie_in_a_concatenation():
    b = Builder()
    x = b.input(integers(RANDOM, (1, 16, 8, 8)))
    parts = [pool(b, conv(b, x, integers(RANDOM, (k, 16, 3, 3), 1), pads=(1,) * 4)) for k in (8, 24)]
    b.output(b.add("Abs", b.add("Concat", *parts, axis=1)))
    assert rules(b) == [("conv-pool",), ("conv-pool",), ()]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def dense(b: Builder, x: Value) -> Value:
    return b.add("Relu", conv(b, x, integers(RANDOM, (8, 16, 3, 3), 1)))


def read_twice(b: Builder, x: Value) -> Value:
    return pool(b, b.output(dense(b, x)))


def behind_depthwise(b: Builder, x: Value) -> Value:
    return pool(b, conv(b, x, integers(RANDOM, (16, 1, 3, 3), 1), groups=16))


def behind_separable(b: Builder, x: Value) -> Value:
    y = conv(b, x, integers(RANDOM, (16, 1, 3, 3), 1), groups=16)
    return pool(b, b.add("Relu", conv(b, y, integers(RANDOM, (8, 16, 1, 1), 1))))


def computed_weights(b: Builder, x: Value) -> Value:
    w = b.input(integers(RANDOM, (8, 16, 3, 3), 1))
    return pool(b, b.add("Conv", x, w, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1))


def dilated(b: Builder, x: Value) -> Value:
    y = dense(b, x)
    return b.add("MaxPool", y, kernel_shape=(2, 2), strides=(2, 2), pads=(0,) * 4, dilations=(2, 2), ceil_mode=False)


def whole_numbers(b: Builder, x: Value) -> Value:
    y = b.add("Cast", dense(b, x), dtype=DType.INT32)
    return pool(b, b.add("Cast", y, dtype=DType.FP32))


def broadcast(b: Builder, x: Value) -> Value:
    y = conv(b, x, integers(RANDOM, (1, 16, 3, 3), 1))
    return pool(b, b.add("Mul", y, b.constant(integers(RANDOM, (8, 1, 1)))))


REASONS = {
    "windows": ("neither 2x2 nor 3x3", lambda b, x: pool(b, dense(b, x), 3, 1)),
    "dilated windows": ("dilated", dilated),
    "overlapping means": ("means of overlapping", lambda b, x: pool(b, dense(b, x), 3, 2, op="AveragePool")),
    "padded means": ("reach past", lambda b, x: pool(b, dense(b, x), 2, 2, 1, op="AveragePool")),
    "partial means": ("reach past", lambda b, x: pool(b, dense(b, x), ceil=True, op="AveragePool")),
    "depthwise": ("is depthwise", behind_depthwise),
    "weights": ("weights are not constant", computed_weights),
    "type": ("cannot compute on int32", whole_numbers),
    "broadcast": ("broadcast to a larger shape", broadcast),
    "several readers": ("read elsewhere", read_twice),
    "another kernel": ("already belongs to another kernel", behind_separable),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case):
    reason, build = REASONS[case]
    b = Builder()
    b.output(build(b, b.input(integers(RANDOM, (1, 16, 7, 7)))))
    canonical, _ = optimise(b.graph, Options(("interpreter",)))
    found = fuse(canonical, Switches())
    assert not any("conv-pool" in region.rules for region in found.regions)
    declined = [d.reason for d in found.declines if d.rule == "conv-pool"]
    assert len(declined) == 1 and reason in declined[0]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize(("channels", "pays"), [(64, True), (1024, False)])
def test_declines_where_overlapping_tiles_cost_more(channels, pays):
    """What tiles share is computed again: 16 tiles of 16x16 pixels for 27x27 windows behind 55x55 pixels."""
    b = Builder()
    y = conv(b, b.input(np.zeros((1, channels, 55, 55), np.float32)), integers(RANDOM, (64, channels, 3, 3), 1))
    b.output(pool(b, conv(b, y, integers(RANDOM, (256, 64, 1, 1), 1)), 3, 2))
    y = conv(b, b.input(np.zeros((1, channels, 57, 57), np.float32)), integers(RANDOM, (channels, channels, 3, 3), 1))
    b.output(pool(b, y, 3, 2))
    found = plan(b.graph, "sm_90", "fp16").fused
    declined = [d.reason for d in found.declines if d.rule == "conv-pool"]
    assert sum("conv-pool" in region.rules for region in found.regions) == 1 + pays
    assert len(declined) == (not pays) and all("what neighbouring tiles share" in reason for reason in declined)
    again, macs = 256 * 16 - 55 * 55, channels * channels * 9
    saved = 4 * channels * 55 * 55 / 4.3e12 + 1.3e-6
    assert pays == (saved >= 2 * again * macs / (790e12 * 0.35))


# -- overlapping windows ----------------------------------------------------------------------------------------------
@st.composite
def overlapping_cases(draw):
    kernel, stride = draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (7, 2)]))
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    return {
        "shape": (
            draw(st.integers(1, 3)),
            draw(st.sampled_from([3, 16, 21])) * groups,
            *(draw(st.integers(7, 21)) for _ in range(2)),
        ),
        "kernel": kernel,
        "conv": {"strides": (stride,) * 2, "pads": (kernel // 2,) * 4, "groups": groups},
        "filters": draw(st.sampled_from([1, 8, 17])) * groups,
        "size": draw(st.sampled_from([3, 3, 2])),
        "pad": draw(st.integers(0, 1)),
        "ceil": draw(st.booleans()),
        "residual": draw(st.booleans()),
        "special": draw(st.sampled_from([None, None, np.nan, -np.inf, np.inf])),
    }


def overlapping(case, random=RANDOM):
    """A convolution over whole numbers, a residual sum that may hold a special value, and pooling."""
    b = Builder()
    groups = case["conv"]["groups"]
    w = integers(random, (case["filters"], case["shape"][1] // groups, *(case["kernel"],) * 2), 1)
    y = conv(b, b.input(integers(random, case["shape"])), w, integers(random, (case["filters"],)), **case["conv"])
    if case["residual"] or case["special"] is not None:
        r = integers(random, [int(d) for d in b.graph.type(y).shape])
        if case["special"] is not None:
            r[tuple(random.integers(0, extent) for extent in r.shape)] = case["special"]
            r[0, 0, 0, 0] = case["special"]
        y = b.add("Add", y, b.input(r))
    b.output(pool(b, b.add("Neg", y), case["size"], 2, case["pad"], case["ceil"]))
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@settings(settings.get_profile("shared-process"), max_examples=12)
@given(overlapping_cases())
def test_windows_that_overlap_or_leave_the_result(dtype, case):
    b = overlapping(case)
    found = planned(b.graph, dtype=dtype)
    assert [region.rules for region in found.fused.regions] == [("conv-pool", "conv-epilogue")]
    same(run_planned(found, b.inputs), evaluate(b.graph, b.inputs))


STEM = {
    "shape": (2, 3, 40, 37),
    "kernel": 7,
    "conv": {"strides": (2, 2), "pads": (3,) * 4, "groups": 1},
    "filters": 20,
    "size": 3,
    "pad": 1,
    "ceil": False,
    "residual": False,
    "special": None,
}


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("split", [1, 7])
@pytest.mark.parametrize(("rows", "cols"), [(16, 16), (32, 32), (64, 16), (256, 32)])
def test_tiles_that_a_gpu_runs(monkeypatch, rows, cols, split):
    """Several tiles along the images' lines and columns, ragged ones, and split-K, in the interpreter."""
    tile = Tile(rows, cols, 32, num_warps=1, num_stages=1, split_k=split)
    monkeypatch.setattr(tiling, "ranked", lambda problem, target: [tile])
    b = overlapping(STEM)
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def pooled_problem(b: Builder) -> PooledContraction:
    (launch,) = plan(b.graph, "sm_90", "fp16").programs[0].launches
    (problem,) = launch.problems
    assert isinstance(problem, PooledContraction)
    return problem


def test_traffic_and_multiply_adds():
    """Every distinct byte once; products of the convolution once, and those that tiles share on top."""
    problem = pooled_problem(overlapping(STEM))
    assert [window.covered for window in problem.windows] == [20, 19]
    assert problem.macs == 2 * 20 * 19 * 20 * 147
    moved = traffic(problem)
    assert moved.activations == 4 * 2 * 3 * 40 * 37 + 4 * 2 * 20 * 10 * 10
    assert moved.weights == 2 * 20 * 147 + 4 * 20
    assert problem.grid(256) == (2, 2) and problem.row_tiles(256) == 8
    assert problem.recomputed_macs(Tile(256, 32, 32)) == (8 * 256 - 2 * 20 * 19) * 20 * 147


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet", "densenet121"])
def test_the_stem_of_a_network_ends_in_its_pooling(name):
    graph = zoo.build(name, weights="none").graph
    found = plan(graph, "sm_90", "fp16").programs[0].problems
    assert isinstance(found[0], PooledContraction) and found[0].overlaps


@pytest.mark.parametrize("case", ["overlapping", "mean"])
def test_source(case, golden):
    b = overlapping({**STEM, "residual": True})
    if case == "mean":
        b = Builder()
        b.output(pool(b, dense(b, b.input(integers(RANDOM, (2, 16, 13, 13)))), op="AveragePool"))
    kernel = emit(pooled_problem(b), Tile(64, 32, 32, num_warps=4, num_stages=3), lambda operand: True)
    golden(f"kernels/conv_pool_{case}.py", kernel.source)


def several() -> Builder:
    """A stem, a wide convolution, one with a residual sum, and DenseNet's transition, each with its pooling."""
    b = Builder()
    y = conv(b, b.input(np.zeros((1, 3, 224, 224), np.float32)), weights(64, 3, 7, 7), pads=(3,) * 4, strides=(2, 2))
    b.output(pool(b, b.add("Relu", y), 3, 2, 1))
    b.output(pool(b, b.add("Silu", conv(b, inside(b, 1, 64, 56, 56), weights(192, 64, 3, 3))), 3, 2, ceil=True))
    y = conv(b, inside(b, 1, 64, 28, 28), weights(64, 64, 1, 1))
    b.output(pool(b, b.add("Relu", b.add("Add", y, inside(b, 1, 64, 28, 28))), 3, 2))
    y = b.add("Relu", b.add("Mul", inside(b, 1, 256, 56, 56), b.constant(weights(256, 1, 1))))
    b.output(pool(b, conv(b, y, weights(128, 256, 1, 1)), op="AveragePool"))
    return b


@pytest.mark.parametrize("dtype", ["fp16", "tf32", "fp32"])
def test_no_spills_and_tensor_cores(dtype, tmp_path):
    found = planned(several().graph, "sm_80", "sm_90", dtype=dtype)
    assert sum("conv-pool" in region.rules for region in found.fused.regions) == 4
    check_machine_code(found, tmp_path, 4, lambda kernel: kernel.family == "contraction", dtype != "fp32")


@pytest.mark.usefixtures("interpreters")
def test_kernel_by_kernel():
    b = overlapping(STEM)
    found = plan(b.graph, "interpreter", "fp16")
    checks = kernel_checks(found, b.inputs)
    assert [(check.ok, check.rules) for check in checks] == [(True, ("conv-pool", "conv-epilogue"))]


def test_switched_off():
    b = Builder()
    y = conv(b, b.input(integers(RANDOM, (1, 16, 8, 8))), integers(RANDOM, (8, 16, 3, 3), 1))
    b.output(pool(b, b.add("Relu", y)))
    assert rules(b, "conv-pool") == [("conv-epilogue",), ()]
    same(run(b.graph, b.inputs, disable="conv-pool"), run(b.graph, b.inputs))
