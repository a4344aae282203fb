"""Global pooling at the end of the kernel in front of it: what it gains, reasons to decline, texts, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chains import Reasons, depthwise
from compiled import GROUPING, Builder, conv
from global_pools import BLOCK, block, gated, mean, pooled, squeeze_and_excitation
from rule_checks import (
    check_machine_code,
    check_network,
    emitted,
    fused_graph,
    plan_apart,
    reasons,
)
from small_networks import inside, weights

from convc.codegen.emit import EmittedKernel
from convc.frontends import zoo
from convc.ir import DType, Value
from convc.ir.plan import Tile
from convc.passes import Switches
from convc.passes.global_pool import RULE
from convc.passes.policies import Always
from convc.planner import make_plan
from convc.program import Options
from convc.targets import TARGETS


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
        make_plan(graph, Options(("sm_80", "sm_90"), switches=Switches(disable=(*GROUPING, *disabled))))
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


def _pooled_pixel(b: Builder, x: Value) -> Value:
    y = conv(b, x, weights(8, 24, 3, 3))
    b.output(b.add("Relu", y))
    return mean(b, mean(b, y), op="ReduceMax")


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
    "what is pooled": ("another global pooling already", _pooled_pixel),
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
