"""Convolution, what follows it elementwise, and 2x2 max pooling in one kernel."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, integers, run, same

import convc
from convc.ir import Value
from convc.passes import Switches, fuse
from convc.planner import Options, optimise

RANDOM = np.random.default_rng(11)


def pool(b: Builder, x: Value, size: int = 2, stride: int = 2, pad: int = 0, ceil: bool = False) -> Value:
    window = {"kernel_shape": (size,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (1, 1)}
    return b.add("MaxPool", x, ceil_mode=ceil, **window)


def rules(b: Builder, **options) -> list[tuple[str, ...]]:
    network = convc.compile(b.graph, target="interpreter", dtype="fp32", **options)
    return [launch.rules for launch in network.plan.launches]


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
def test_bias_relu_and_pool(dtype, shape, kernel, pad, stride, groups):
    b = Builder()
    weights = integers(RANDOM, (24, shape[1] // groups, kernel, kernel), 1)
    attributes = {"pads": (pad,) * 4, "strides": (stride,) * 2, "groups": groups}
    y = conv(b, b.input(integers(RANDOM, shape)), weights, integers(RANDOM, (24,)), **attributes)
    b.output(pool(b, b.add("Relu", y)))
    assert rules(b) == [("conv-pool", "conv-epilogue")]
    same(run(b.graph, b.inputs, dtype=dtype), evaluate(b.graph, b.inputs))


def test_a_residual_sum_in_between():
    b = Builder()
    x, r = b.input(integers(RANDOM, (2, 17, 6, 8))), b.input(integers(RANDOM, (2, 8, 6, 8)))
    b.output(pool(b, b.add("Relu", b.add("Add", conv(b, x, integers(RANDOM, (8, 17, 1, 1), 1)), r))))
    assert rules(b) == [("conv-pool", "conv-epilogue")]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


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


def overlapping(b: Builder, y: Value) -> Value:
    return pool(b, y, 3, 2)


def padded(b: Builder, y: Value) -> Value:
    return pool(b, y, 2, 2, 1)


def partial_windows(b: Builder, y: Value) -> Value:
    return pool(b, y, ceil=True)


def read_twice(b: Builder, y: Value) -> Value:
    b.output(y)
    return pool(b, y)


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        (overlapping, "not 2x2"),
        (padded, "reach past"),
        (partial_windows, "reach past"),
        (read_twice, "read elsewhere"),
    ],
)
def test_declines_with_a_reason(behind, reason):
    b = Builder()
    y = conv(b, b.input(integers(RANDOM, (1, 16, 7, 7))), integers(RANDOM, (8, 16, 3, 3), 1))
    b.output(behind(b, b.add("Relu", y)))
    canonical, _ = optimise(b.graph, Options(("interpreter",)))
    declined = [d.reason for d in fuse(canonical, Switches()).declines if d.rule == "conv-pool"]
    assert len(declined) == 1 and reason in declined[0]
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_switched_off():
    b = Builder()
    y = conv(b, b.input(integers(RANDOM, (1, 16, 8, 8))), integers(RANDOM, (8, 16, 3, 3), 1))
    b.output(pool(b, b.add("Relu", y)))
    assert rules(b, disable="conv-pool") == [("conv-epilogue",), ()]
    same(run(b.graph, b.inputs, disable="conv-pool"), run(b.graph, b.inputs))
