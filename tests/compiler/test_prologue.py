"""Elementwise operators in front of a convolution, computed as it loads its operand."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, integers, run, same

import convc
from convc.ir import Value
from convc.passes import Switches, fuse
from convc.planner import Options, optimise

RANDOM = np.random.default_rng(5)


def scaled(b: Builder, x: Value) -> Value:
    """relu(x·s + t), s and t per channel."""
    channels = int(b.graph.type(x).shape[1])
    s, t = (b.constant(integers(RANDOM, (channels, 1, 1))) for _ in range(2))
    return b.add("Relu", b.add("Add", b.add("Mul", x, s), t))


def launches(b: Builder, **options) -> list[tuple[str, ...]]:
    network = convc.compile(b.graph, target="interpreter", dtype="fp32", **options)
    return [launch.rules for launch in network.plan.launches]


@pytest.mark.parametrize("channels", [16, 20, 65])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_scale_shift_and_relu(channels, stride, dtype):
    b = Builder()
    x = b.input(integers(RANDOM, (2, channels, 5, 7)))
    b.output(conv(b, scaled(b, x), integers(RANDOM, (24, channels, 1, 1), 1), strides=(stride, stride)))
    assert launches(b) == [("conv-prologue",)]
    same(run(b.graph, b.inputs, dtype=dtype), evaluate(b.graph, b.inputs))


def test_a_gate_that_another_kernel_computes():
    b = Builder()
    x = b.input(integers(RANDOM, (2, 24, 6, 6)))
    largest = b.add("ReduceMax", x, axes=(2, 3), keepdims=True)
    gate = b.add("Relu", conv(b, largest, integers(RANDOM, (24, 24, 1, 1), 1)))
    b.output(b.add("Relu", conv(b, b.add("Mul", x, gate), integers(RANDOM, (8, 24, 1, 1), 1))))
    assert launches(b)[-1] == ("conv-prologue", "conv-epilogue")
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_two_tensors_of_the_same_size():
    b = Builder()
    x, y = (b.input(integers(RANDOM, (1, 17, 4, 4))) for _ in range(2))
    b.output(conv(b, b.add("Relu", b.add("Sub", x, y)), integers(RANDOM, (8, 17, 1, 1), 1)))
    assert launches(b) == [("conv-prologue",)]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_lanes_past_the_channels_stay_zero_where_the_operator_makes_them_infinite():
    b = Builder()
    x = b.input(np.abs(integers(RANDOM, (1, 20, 3, 3))) + 1)
    b.output(conv(b, b.add("Reciprocal", x), np.zeros((4, 20, 1, 1), np.float32)))
    assert launches(b) == [("conv-prologue",)]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def padded(b: Builder, y: Value) -> Value:
    return conv(b, y, integers(RANDOM, (4, 16, 1, 1)), pads=(1, 1, 1, 1))


def windowed(b: Builder, y: Value) -> Value:
    return conv(b, y, integers(RANDOM, (4, 16, 3, 3)))


def grouped(b: Builder, y: Value) -> Value:
    return conv(b, y, integers(RANDOM, (4, 32, 1, 1)), groups=2)


def read_twice(b: Builder, y: Value) -> Value:
    b.output(y)
    return conv(b, y, integers(RANDOM, (4, 16, 1, 1)))


@pytest.mark.parametrize(
    ("behind", "reason"),
    [(padded, "pads its input"), (windowed, "every position"), (grouped, "grouped"), (read_twice, "several operators")],
)
def test_declines_with_a_reason(behind, reason):
    b = Builder()
    channels = 64 if behind is grouped else 16
    b.output(behind(b, b.add("Exp", b.input(integers(RANDOM, (1, channels, 5, 5))))))
    canonical, _ = optimise(b.graph, Options(("interpreter",)))
    reasons = [d.reason for d in fuse(canonical, Switches()).declines if d.rule == "conv-prologue"]
    assert any(reason in text for text in reasons), reasons
    assert not any("conv-prologue" in rules for rules in launches(b))


def test_switched_off():
    b = Builder()
    b.output(conv(b, b.add("Relu", b.input(integers(RANDOM, (1, 16, 5, 5)))), integers(RANDOM, (4, 16, 1, 1))))
    assert launches(b, disable="conv-prologue") == [(), ()]
    same(run(b.graph, b.inputs, disable="conv-prologue"), run(b.graph, b.inputs))
