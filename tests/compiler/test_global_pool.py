"""Global pooling at the end of the kernel in front of it: numbers, two results, reasons to decline, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import Reasons, depthwise, input_of, shape_of, with_residual
from compiled import Builder, conv, evaluate, integers, run, same
from hypothesis import strategies as st
from rule_checks import (
    APART,
    check_machine_code,
    check_network,
    emitted,
    fused_graph,
    in_every_mode,
    kernel_checks,
    plan_apart,
    reasons,
    same_without,
)
from small_networks import inside, weights

from convc.analysis.explain import explain
from convc.codegen.emit import EmittedKernel, emit
from convc.frontends import zoo
from convc.ir import DType, Value
from convc.ir.plan import Tile
from convc.ir.problem import Problem
from convc.passes import Switches, tiling
from convc.passes.global_pool import RULE
from convc.passes.policies import Always
from convc.passes.traffic import traffic
from convc.planner import Options, Plan, make_plan
from convc.targets import TARGETS


def mean(b: Builder, y: Value, keepdims: bool = True, op: str = "ReduceMean") -> Value:
    axes = tuple(range(2, len(b.graph.type(y).shape)))
    return b.add(op, y, axes=axes, keepdims=keepdims)


def gated(b: Builder, y: Value, m: Value) -> Value:
    return b.add("Mul", y, b.add("HardSigmoid", m, alpha=0.25, beta=0.5))


def pooled(plan: Plan) -> list[Problem]:
    return [problem for problem in plan.programs[0].problems if problem.pool is not None]


# -- numbers ----------------------------------------------------------------------------------------------------------
ANCHORS = ("conv", "conv1x1", "grouped", "depthwise", "multiplier", "separable", "expanded", "pool conv", "chain")


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "shape": (draw(st.integers(1, 3)), draw(st.sampled_from([4, 20])), *draw(st.sampled_from([(2, 4), (4, 8)]))),
        "anchor": draw(st.sampled_from(ANCHORS)),
        "step": draw(st.integers(1, 2)),
        "op": draw(st.sampled_from(["ReduceMean", "ReduceMean", "ReduceMax"])),
        "residual": draw(st.booleans()),
        "keepdims": draw(st.booleans()),
        "reader": draw(st.sampled_from(["", "gate", "output"])),
        "inside": draw(st.booleans()),
    }


def anchored(b: Builder, x: Value, anchor: str, step: int = 1) -> Value:
    """What each kind of kernel computes; images have 2·4, 4·8 or a quarter of that pixels, whose means are exact."""
    channels, strides = shape_of(b, x)[1], (step, step)
    if anchor == "conv":
        return conv(b, x, weights(9, channels, 3, 3), weights(9), pads=(1,) * 4, strides=strides)
    if anchor == "conv1x1":
        return conv(b, x, weights(40, channels, 1, 1), weights(40), strides=strides)
    if anchor == "grouped":
        return conv(b, x, weights(8, channels // 2, 3, 3), groups=2, pads=(1,) * 4, strides=strides)
    if anchor == "depthwise":
        return depthwise(b, x, 3, weights(channels), strides=strides)
    if anchor == "multiplier":
        return conv(b, x, weights(2 * channels, 1, 3, 3), groups=channels, pads=(1,) * 4, strides=strides)
    if anchor == "separable":
        return conv(b, b.add("Relu", depthwise(b, x, strides=strides)), weights(24, channels, 1, 1), weights(24))
    if anchor == "expanded":
        y = b.add("Relu", conv(b, x, weights(24, channels, 1, 1), weights(24)))
        return depthwise(b, y, 3, weights(24), strides=strides)
    if anchor == "pool conv":
        window = {"kernel_shape": (3, 3), "strides": strides, "pads": (1,) * 4, "dilations": (1, 1)}
        return conv(b, b.add("MaxPool", x, ceil_mode=False, **window), weights(24, channels, 1, 1))
    return b.add("Max", b.add("Sub", x, b.constant(weights(channels, 1, 1))), b.constant(weights(1, 1, 1)))


def block(case: dict[str, Any]) -> Builder:
    """Something and its global pooling over whole numbers, exact in every mode."""
    b = Builder()
    y = with_residual(b, case, anchored(b, input_of(b, case), case["anchor"], case["step"]))
    m = b.output(mean(b, y, case["keepdims"] or case["reader"] == "gate", case["op"]))
    if case["reader"] == "gate":
        b.output(gated(b, y, m))
    elif case["reader"] == "output":
        b.output(y)
    return b


BLOCK = {
    "shape": (2, 20, 4, 8),
    "anchor": "conv",
    "step": 1,
    "op": "ReduceMean",
    "residual": True,
    "keepdims": True,
    "reader": "gate",
    "inside": True,
}


@in_every_mode(cases(), examples=10)
def test_computes_what_the_operators_do(dtype: str, case: dict[str, Any]) -> None:
    b = block(case)
    assert len(pooled(plan_apart(b, dtype=dtype))) == 1
    same(same_without(b, RULE, dtype), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_odd_images_and_values(anchor: str, op: str) -> None:
    """5·7 pixels; normal deviates; within the roundings of a sum of 35 and of a quotient."""
    b = Builder()
    x = b.input(np.random.default_rng(3).standard_normal((2, 20, 5, 7)).astype(np.float32))
    y = anchored(b, x, anchor)
    b.output(gated(b, y, b.output(mean(b, y, op=op))))
    assert len(pooled(plan_apart(b))) == 1
    found, wanted = run(b.graph, b.inputs), evaluate(b.graph, b.inputs)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=2.0**-24 * 500 * 8)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
def test_infinities_and_nan_reach_their_channel_alone(op: str) -> None:
    b = Builder()
    x = integers(np.random.default_rng(0), (2, 4, 3, 3))
    x[0, 0, 1, 1], x[1, 1, 2, 2], x[0, 2] = np.nan, np.inf, -np.inf
    y = b.add("Neg", b.add("Abs", b.input(x))) if op == "ReduceMean" else b.add("Mul", b.input(x), b.constant([1.0]))
    b.output(mean(b, y, op=op))
    assert len(pooled(plan_apart(b))) == 1
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_windows_as_large_as_the_image(op: str) -> None:
    b = Builder()
    y = anchored(b, b.input(weights(2, 20, 2, 4)), "conv1x1")
    window = {"kernel_shape": (2, 4), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": False}
    b.output(b.add(op, y, **window))
    assert len(pooled(plan_apart(b))) == 1
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(("op", "reader"), [("ReduceMean", ""), ("ReduceMax", "output")])
@pytest.mark.parametrize(("rows", "cols", "split"), [(16, 16, 1), (16, 32, 3), (64, 16, 2)])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_tiles_that_a_gpu_runs(
    monkeypatch: pytest.MonkeyPatch, anchor: str, rows: int, cols: int, split: int, op: str, reader: str
) -> None:
    """Several tiles an image and split-K: partial results and tickets."""
    dense = anchor in ("conv", "conv1x1", "grouped", "separable", "pool conv")
    channels = {"conv": 20, "grouped": 40}.get(anchor, 96 * (1 + (split == 2)))
    tile = Tile(rows, cols, 16, num_warps=1, num_stages=1, split_k=split if dense else 1)
    monkeypatch.setattr(tiling, "ranked", lambda problem, target: [tile])
    b = block({**BLOCK, "shape": (2, channels, 8, 8), "anchor": anchor, "op": op, "reader": reader})
    (launch,) = [each for each in plan_apart(b, "interpreter").programs[0].launches if each.problems[0].pool]
    assert ("pool_partial" in launch.kernel.source) == (rows < 64) and launch.steps[0].tile.split_k == tile.split_k
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


# -- two results ------------------------------------------------------------------------------------------------------
def squeeze_and_excitation(batch: int = 1, both: bool = True) -> Builder:
    b = Builder("squeeze")
    y = b.add("Silu", depthwise(b, inside(b, batch, 24, 9, 7), 3, weights(24)))
    m = mean(b, y)
    gate = b.add("Sigmoid", conv(b, b.add("Relu", conv(b, m, weights(6, 24, 1, 1))), weights(24, 6, 1, 1)))
    z = conv(b, b.add("Mul", y, gate), weights(16, 24, 1, 1))
    b.output(z if both else gate)
    return b


def test_what_is_pooled_is_stored_where_it_is_read_again() -> None:
    plan = plan_apart(squeeze_and_excitation())
    (region,) = [region for region in plan.fused.regions if region.pool is not None]
    assert region.rules == (RULE, "conv-epilogue") and region.also == Value(region.pool)
    (problem,) = pooled(plan)
    assert problem.pool is not None and problem.pool.keeps
    assert problem.stores == (problem.output, problem.pool.output)
    assert problem.equation == "y = silu(conv(x, w) + bias); m = mean(y)"
    assert traffic(problem).activations == 2 * 24 * 63 * 2 + 2 * 24


def test_what_is_pooled_is_not_stored_where_nothing_else_reads_it() -> None:
    plan = plan_apart(squeeze_and_excitation(both=False))
    (problem,) = pooled(plan)
    assert problem.pool is not None and problem.stores == (problem.pool.output,)
    assert problem.equation == "m = mean(silu(conv(x, w) + bias))"
    assert traffic(problem).activations == 2 * 24 * 63 + 2 * 24


def test_both_results_can_lie_in_concatenations() -> None:
    b = Builder()
    x = b.input(weights(2, 20, 4, 8))
    y = anchored(b, x, "conv")
    m = mean(b, y)
    b.output(b.add("Abs", b.add("Concat", mean(b, b.add("Neg", x)), m, axis=1)))
    b.output(b.add("Abs", b.add("Concat", b.add("Neg", x), y, axis=1)))
    assert len(pooled(plan_apart(b))) == 2
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize("device", ["interpreter", "numpy"])
@pytest.mark.parametrize("both", [True, False])
def test_both_results_are_checked(device: str, both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    b = squeeze_and_excitation(2, both)
    plan = plan_apart(b, "interpreter", dtype="fp16")
    checks = kernel_checks(plan, b.inputs, device)
    assert all(check.ok for check in checks), checks
    if device == "numpy":
        return
    wrong = squeeze_and_excitation(2, both)
    text = emit
    monkeypatch.setattr(
        "convc.planner.emit",
        lambda *arguments: _with_source(text(*arguments), "/ 63.0", "/ 62.0"),
    )
    checks = kernel_checks(plan_apart(wrong, "interpreter", dtype="fp16"), wrong.inputs, device)
    assert [RULE in check.rules for check in checks if not check.ok] == [True]


def _with_source(kernel: EmittedKernel, old: str, new: str) -> EmittedKernel:
    return EmittedKernel(**{**vars(kernel), "source": kernel.source.replace(old, new)})


def test_explain_names_the_rule() -> None:
    edges = [edge for edge in explain(plan_apart(squeeze_and_excitation())) if edge.target.startswith("reducemean")]
    assert [(edge.fused, edge.rule) for edge in edges] == [(True, RULE)]


# -- networks ---------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_efficientnet_with_and_without(dtype: str) -> None:
    check_network(zoo.build("efficientnet_b0", size=32, classes=10).graph, dtype, RULE)


@pytest.mark.parametrize(
    ("name", "launches", "megabytes"),
    [
        ("resnet50", 1, 0.3),
        ("mobilenet_v2", 1, 0.2),
        ("efficientnet_b0", 17, 4.8),
        ("densenet121", 1, 0.1),
        ("squeezenet1_1", 1, 0.6),
    ],
)
def test_what_the_zoo_gains(name: str, launches: int, megabytes: float) -> None:
    graph = zoo.build(name, weights="none").graph
    with_rule, without = (
        make_plan(graph, Options(("sm_80", "sm_90"), switches=Switches(disable=(*APART, *disabled))))
        for disabled in ((), (RULE,))
    )
    for program, other in zip(with_rule.programs, without.programs, strict=True):
        assert len(other.launches) - len(program.launches) == launches
        saved = other.traffic.activations - program.traffic.activations
        assert saved >= megabytes * 1e6 and program.predicted_us < other.predicted_us


# -- reasons ----------------------------------------------------------------------------------------------------------
def _another(b: Builder, x: Value) -> Value:
    y = conv(b, x, weights(8, 24, 3, 3))
    b.output(mean(b, y))
    return mean(b, y, op="ReduceMax")


def _behind(b: Builder, x: Value) -> Value:
    return b.add("Sigmoid", mean(b, conv(b, x, weights(8, 24, 3, 3))))


def _pooled_convolution(b: Builder, x: Value) -> Value:
    window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": False}
    return mean(b, b.add("MaxPool", conv(b, x, weights(8, 24, 1, 1)), **window))


def _integers(b: Builder, x: Value) -> Value:
    y = b.add("Cast", b.add("Cast", x, dtype=DType.FP32), dtype=DType.INT32)
    return b.add("Cast", mean(b, y, op="ReduceMax"), dtype=DType.FP32)


def _two_products(b: Builder, x: Value) -> Value:
    return mean(b, conv(b, conv(b, x, weights(8, 24, 3, 3)), weights(16, 8, 1, 1)))


REASONS: Reasons = {
    "two products": ("two convolutions one after the other", _two_products),
    "two poolings": ("another global pooling already", _another),
    "operators behind": ("operators behind the pooling", _behind),
    "another pooling": ("ends in another pooling", _pooled_convolution),
    "type": ("its operand is int32", _integers),
}


@pytest.mark.parametrize("case", REASONS)
def test_declines_with_a_reason(case: str) -> None:
    """A graph may hold another pooling that is taken."""
    reason, build = REASONS[case]
    (said,) = reasons(fused_graph(build, Always()), RULE)
    assert reason in said


def test_says_that_it_is_switched_off() -> None:
    plan = plan_apart(squeeze_and_excitation(), switches=Switches(disable=(RULE,)))
    assert pooled(plan) == [] and reasons(plan.fused, RULE) == ["the rule is switched off"]


@pytest.mark.parametrize(("batch", "extent", "pays"), [(1, 7, True), (64, 8, True), (64, 7, False), (64, 16, True)])
def test_declines_where_images_do_not_fill_tiles(batch: int, extent: int, pays: bool) -> None:
    """Multiply-adds of pixels that do not exist against bytes and a launch: a 3x3 convolution in a batch of 7·7."""
    b = Builder()
    y = conv(b, b.input(np.zeros((batch, 512, extent, extent), np.float32)), weights(512, 512, 3, 3), pads=(1,) * 4)
    b.output(mean(b, y))
    plan = plan_apart(b)
    assert len(pooled(plan)) == pays
    assert any("filling tiles with pixels of one image" in reason for reason in reasons(plan.fused, RULE)) != pays
    pixels = extent * extent
    rows = 64 if pixels <= 64 else 128
    wasted = rows * (batch * -(-pixels // rows) - -(-batch * pixels // rows)) * 512 * 512 * 9
    worst = min(
        4 * batch * 512 * pixels / gpu.dram_bytes_per_s + gpu.launch_s - 2 * wasted / (0.35 * gpu.tensor_flops)
        for gpu in TARGETS.values()
        if not gpu.is_interpreter
    )
    assert pays == (worst >= 0)


def test_nothing_is_said_of_what_is_no_global_pooling() -> None:
    b = Builder()
    y = conv(b, b.input(weights(2, 24, 6, 6)), weights(8, 24, 3, 3))
    b.output(b.add("ReduceMean", y, axes=(1, 2, 3), keepdims=True))
    b.output(b.add("ReduceMean", y, axes=(3,), keepdims=True))
    b.output(b.add("ReduceSum", y, axes=(2, 3), keepdims=True))
    b.output(mean(b, b.input(weights(1, 4, 3, 3))))
    b.output(mean(b, b.add("Concat", y, y, axis=1)))
    plan = plan_apart(b)
    assert reasons(plan.fused, RULE) == [] and pooled(plan) == []


# -- texts and machine code -------------------------------------------------------------------------------------------
def scheduled(b: Builder, tile: Tile) -> EmittedKernel:
    (problem,) = pooled(plan_apart(b))
    return emitted(problem, tile)


TEXTS: dict[str, tuple[Callable[[], Builder], Tile]] = {
    "squeeze_depthwise": (squeeze_and_excitation, Tile(16, 32, num_warps=4, num_stages=1)),
    "conv_mean": (
        lambda: block({**BLOCK, "reader": "", "anchor": "conv1x1", "shape": (2, 64, 7, 7)}),
        Tile(64, 32, 32, num_warps=4, num_stages=2, split_k=2),
    ),
    "conv_global_max": (
        lambda: block({**BLOCK, "op": "ReduceMax", "residual": False, "shape": (2, 20, 8, 8)}),
        Tile(16, 16, 32, num_warps=4, num_stages=2),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_source(name: str, golden: Callable[[str, str], None]) -> None:
    build, tile = TEXTS[name]
    golden(f"kernels/{name}.py", scheduled(build(), tile).source)


def heads() -> Builder:
    """Of EfficientNet, ResNet, MobileNet-v1 and DenseNet: blocks and last kernels."""
    b = Builder("heads")
    for channels, extent in ((32, 112), (672, 14), (1152, 7)):
        y = b.add("Silu", depthwise(b, inside(b, 1, channels, extent, extent), 3, weights(channels)))
        b.output(gated(b, y, b.output(mean(b, y))))
    y = b.add("Relu", conv(b, inside(b, 1, 512, 7, 7), weights(512, 512, 3, 3), weights(512), pads=(1,) * 4))
    b.output(mean(b, y))
    y = conv(b, inside(b, 2, 512, 7, 7), weights(2048, 512, 1, 1), weights(2048))
    b.output(mean(b, b.add("Relu", b.add("Add", y, inside(b, 2, 2048, 7, 7)))))
    y = conv(b, b.add("Relu", depthwise(b, inside(b, 1, 512, 14, 14))), weights(512, 512, 1, 1))
    b.output(mean(b, b.add("Relu", y)))
    b.output(mean(b, b.add("Relu", b.add("Add", inside(b, 1, 1024, 7, 7), b.constant(weights(1024, 1, 1))))))
    return b


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_no_spills(dtype: str, tmp_path: Path) -> None:
    b = heads()
    plan = plan_apart(b, "sm_80", "sm_90", dtype=dtype)
    check_machine_code(plan, tmp_path, 7, lambda kernel: any(each.name == "m" for each in kernel.parameters))
