"""Operators one behind the other that a rule computes in one kernel: at random, and as rules decline them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from compiled import Builder, conv, integers
from hypothesis import strategies as st
from small_networks import inside, weights

from convc.ir import DType, Value

Build = Callable[[Builder, Value], Value]


def shape_of(b: Builder, x: Value) -> tuple[int, ...]:
    return tuple(map(int, b.graph.type(x).shape))


def clipped(b: Builder, x: Value) -> Value:
    return b.add("Clip", x, min=-3.0, max=4.0)


def depthwise(b: Builder, x: Value, size: int = 3, *bias: np.ndarray, **attributes: Any) -> Value:
    """One filter per channel, padded so that odd windows keep the extent."""
    _, channels, *spatial = shape_of(b, x)
    attributes = {"groups": channels, "pads": (size // 2,) * (2 * len(spatial))} | attributes
    return conv(b, x, weights(channels, 1, *(size,) * len(spatial)), *bias, **attributes)


def pointwise(b: Builder, x: Value, filters: int = 24, *bias: np.ndarray, **attributes: Any) -> Value:
    _, channels, *spatial = shape_of(b, x)
    return conv(
        b, x, weights(filters, channels // attributes.get("groups", 1), *(1,) * len(spatial)), *bias, **attributes
    )


# -- at random --------------------------------------------------------------------------------------------------------
@st.composite
def windowed(
    draw: st.DrawFn,
    sizes: list[tuple[int, int]],
    channels: tuple[int, ...] = (3, 16, 21, 40),
    chains: tuple[str, ...] = ("", "bias", "clip", "shift", "gate"),
    pooled: bool = False,
) -> dict[str, Any]:
    """An input, a window over it, and what stands behind it: see :func:`chained`.

    sizes: extents and dilations. pooled: at most half of a window is padding.
    """
    rank = draw(st.sampled_from([1, 2, 2, 2, 2, 3]))
    size, dilation = draw(st.sampled_from(sizes))
    reach = (size - 1) * dilation + 1
    most = min(reach - 1, size // 2 * dilation) if pooled else reach - 1
    spatial = tuple(reach + draw(st.integers(0, 4)) for _ in range(rank))
    return {
        "shape": (draw(st.integers(1, 3)), draw(st.sampled_from(channels)), *spatial),
        "size": size,
        "window": {
            "pads": tuple(draw(st.integers(0, most)) for _ in range(2 * rank)),
            "strides": (draw(st.integers(1, 2)),) * rank,
            "dilations": (dilation,) * rank,
        },
        "chain": draw(st.sampled_from(chains)),
        "residual": draw(st.booleans()),
        "inside": draw(st.booleans()),
    }


def input_of(b: Builder, case: dict[str, Any]) -> Value:
    """The case's input: a tensor that a kernel wrote, or the network's own."""
    return inside(b, *case["shape"]) if case["inside"] else b.input(weights(*case["shape"]))


def bias_of(case: dict[str, Any], filters: int) -> list[np.ndarray]:
    """The bias of the case's first convolution, if it has one."""
    return [weights(filters)] if case["chain"] else []


def chained(b: Builder, y: Value, chain: str, low: float = 0.0, gate: str = "Mul") -> Value:
    """The operators of a case between two others, over whole numbers; "gate" reads a value twice."""
    _, channels, *spatial = shape_of(b, y)
    if chain in ("clip", "gate"):
        y = b.add("Clip", y, min=low, max=6.0)
    if chain == "gate":
        y = b.add(gate, b.add("Relu", y), b.add("Neg", y))
    if chain == "shift":
        y = b.add("Abs", b.add("Sub", b.constant(weights(1, channels, *(1,) * len(spatial))), y))
    return y


def with_residual(b: Builder, case: dict[str, Any], z: Value) -> Value:
    """Behind the last operator: a sum with another tensor and ReLU, if the case has them."""
    return b.add("Relu", b.add("Add", b.input(weights(*shape_of(b, z))), z)) if case["residual"] else z


# -- as rules decline them --------------------------------------------------------------------------------------------
Reasons = dict[str, tuple[str, Build]]
"""Case → (part of the reason, graph behind an input of 24 channels and 6x6 pixels)."""


def reasons_between(first: Build, second: Build, read_again: str = "several operators read it") -> Reasons:
    """What no rule takes between two operators, whichever they are; read_again: what it says of another reader."""

    def with_(between: Build) -> Build:
        return lambda b, x: second(b, between(b, first(b, x)))

    return {
        "tensor": ("reads a tensor that is not constant", with_(_scaled_by_a_tensor)),
        "varying constant": ("varies from pixel to pixel", with_(_scaled_by_pixels)),
        "many constants": ("more than 6", with_(_many_constants)),
        "type": ("is int32", with_(_integers)),
        "truth values": ("computes on bool", with_(_chosen_channels)),
        "graph output": ("graph output", with_(lambda b, y: b.output(y))),
        "several readers": (read_again, with_(_read_again)),
    }


def widened(b: Builder, y: Value) -> Value:
    """24 channels out of one."""
    return b.add("Mul", y, b.constant(weights(1, 24, 1, 1)))


def _scaled_by_a_tensor(b: Builder, y: Value) -> Value:
    return b.add("Mul", y, b.input(weights(1, shape_of(b, y)[1], 1, 1)))


def _scaled_by_pixels(b: Builder, y: Value) -> Value:
    return b.add("Mul", y, b.constant(weights(1, 1, *shape_of(b, y)[2:])))


def _many_constants(b: Builder, y: Value) -> Value:
    shape = (shape_of(b, y)[1], 1, 1)
    for seed in range(7):
        y = b.add("Min" if seed % 2 else "Max", y, b.constant(integers(np.random.default_rng(seed), shape, 9)))
    return y


def _integers(b: Builder, y: Value) -> Value:
    return b.add("Cast", b.add("Cast", y, dtype=DType.INT32), dtype=DType.FP32)


def _chosen_channels(b: Builder, y: Value) -> Value:
    return b.add("Where", b.constant(np.arange(shape_of(b, y)[1]).reshape(-1, 1, 1) % 2 > 0), y, b.constant(2.0))


def _read_again(b: Builder, y: Value) -> Value:
    b.output(b.add("ReduceMax", y, axes=(2, 3), keepdims=True))
    return y
