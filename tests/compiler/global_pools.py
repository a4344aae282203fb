"""Kernels that end in a global pooling, for the tests of that rule."""

from __future__ import annotations

from typing import Any

from chains import depthwise, input_of, shape_of, with_residual
from compiled import Builder, conv
from small_networks import inside, weights

from convc.ir import Value
from convc.ir.problem import Problem
from convc.program import Plan


def mean(b: Builder, y: Value, keepdims: bool = True, op: str = "ReduceMean") -> Value:
    axes = tuple(range(2, len(b.graph.type(y).shape)))
    return b.add(op, y, axes=axes, keepdims=keepdims)


def gated(b: Builder, y: Value, m: Value) -> Value:
    return b.add("Mul", y, b.add("HardSigmoid", m, alpha=0.25, beta=0.5))


def pooled(plan: Plan) -> list[Problem]:
    return [problem for problem in plan.programs[0].problems if problem.pool is not None]


ANCHORS = ("conv", "conv1x1", "grouped", "depthwise", "multiplier", "separable", "expanded", "pool conv", "chain")


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


def squeeze_and_excitation(batch: int = 1, both: bool = True) -> Builder:
    b = Builder("squeeze")
    y = b.add("Silu", depthwise(b, inside(b, batch, 24, 9, 7), 3, weights(24)))
    m = mean(b, y)
    gate = b.add("Sigmoid", conv(b, b.add("Relu", conv(b, m, weights(6, 24, 1, 1))), weights(24, 6, 1, 1)))
    z = conv(b, b.add("Mul", y, gate), weights(16, 24, 1, 1))
    b.output(z if both else gate)
    return b
