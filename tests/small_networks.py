"""Small networks with the parts of the large ones, and one graph for each kind of kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from compiled import Builder, conv, integers

from convc.frontends import dsl as nn
from convc.frontends import zoo
from convc.ir import DType, Graph, Value


def residual_block() -> Graph:
    net = nn.Network("residual_block")
    x = net.input(8, 8, 8).conv(16, 3, padding=1, bias=False).batch_norm().relu()
    y = x.conv(32, 3, 2, 1, bias=False).batch_norm().relu().conv(32, 3, 1, 1, bias=False).batch_norm()
    shortcut = x.conv(32, 1, 2, bias=False).batch_norm()
    return net.output((y + shortcut).relu().global_avg_pool().dense(10).softmax()).graph


def inception() -> Graph:
    net = nn.Network("inception")
    x = net.input(3, 8, 8).conv(16, 3, padding=1).relu().max_pool(2)
    parts = [
        x.conv(8, 1).relu(),
        x.conv(8, 1).relu().conv(12, 3, padding=1).relu(),
        x.max_pool(3, 1, 1).conv(4, 1).relu(),
    ]
    return net.output(nn.concat(parts).conv(8, 1).relu()).graph


def separable_block() -> Graph:
    net = nn.Network("separable_block")
    x = net.input(3, 8, 8).conv(16, 3, 2, 1, bias=False).batch_norm().silu()
    y = x.depthwise(3, padding=1, bias=False).batch_norm().silu()
    gate = y.global_avg_pool().reshape(1, 16, 1, 1).conv(4, 1).silu().conv(16, 1).sigmoid()
    return net.output(x + (y * gate).conv(16, 1, bias=False).batch_norm()).graph


NETWORKS: dict[str, Callable[[], Graph]] = {
    "residual_block": residual_block,
    "inception": inception,
    "separable_block": separable_block,
    "lenet5": lambda: zoo.build("lenet5").graph,
}


def inside(b: Builder, *shape: int) -> Value:
    """A tensor that a kernel wrote: channels-last, in the arena."""
    return b.add("Neg", b.input(integers(np.random.default_rng(len(b.graph)), shape)))


def weights(*shape: int) -> np.ndarray:
    return integers(np.random.default_rng(sum(shape)), shape, 1)


POOL: dict[str, Any] = {
    "kernel_shape": (3, 3),
    "strides": (2, 2),
    "pads": (1,) * 4,
    "dilations": (1, 1),
    "ceil_mode": False,
}


def _conv3x3(b: Builder) -> Value:
    y = conv(b, inside(b, 1, 32, 14, 14), weights(64, 32, 3, 3), weights(64), pads=(1,) * 4)
    return b.add("Relu", b.add("Add", y, inside(b, 1, 64, 14, 14)))


def _elementwise(b: Builder) -> Value:
    x = inside(b, 1, 16, 6, 6)
    gated = b.add("Mul", b.add("Sigmoid", b.add("Add", x, b.input(weights(16, 1, 1)))), x)
    return b.add("Max", gated, inside(b, 1, 1, 6, 6))


def _pool(op: str, shape: tuple[int, ...] = (1, 20, 11, 11), **attributes: Any) -> Callable[[Builder], Value]:
    return lambda b: b.add(op, inside(b, *shape), **{**POOL, **attributes})


def _pad(mode: str) -> Callable[[Builder], Value]:
    return lambda b: b.add(
        "Pad", inside(b, 2, 8, 5, 6), pads=(0, 0, 1, 2, 0, 0, 2, 1), mode=mode, value=0.5 * (mode == "constant")
    )


def positions(b: Builder, shape: tuple[int, ...], extent: int) -> Value:
    """Computed whole numbers from 1 − extent to extent − 1."""
    found = np.random.default_rng(sum(shape)).integers(1 - extent, extent, shape)
    return b.add("Cast", b.add("Neg", b.input(found.astype(np.float32))), dtype=DType.INT64)


def _order(b: Builder, *shape: int) -> Value:
    """Computed positions along the third dimension, each once."""
    found = np.argsort(np.random.default_rng(sum(shape)).random(shape), axis=2)
    return b.add("Cast", b.add("Neg", b.input(-found.astype(np.float32))), dtype=DType.INT64)


def _sample(mode: str, padding: str) -> Callable[[Builder], Value]:
    """Places on elements and half-way between, some of them outside."""

    def network(b: Builder) -> Value:
        grid = np.random.default_rng(8).integers(-12, 12, (2, 4, 5, 2)).astype(np.float32) / 8
        attributes = {"mode": mode, "padding_mode": padding, "align_corners": False}
        return b.add("GridSample", inside(b, 2, 24, 8, 8), b.input(grid), **attributes)

    return network


def _concat(b: Builder) -> Value:
    return b.add("Concat", b.input(weights(1, 8, 6, 6)), inside(b, 1, 8, 6, 6), axis=1)


def _slice(b: Builder) -> Value:
    """A convolution that writes the second half of the channels."""
    y = conv(b, inside(b, 1, 32, 9, 9), weights(16, 32, 3, 3), pads=(1,) * 4)
    return b.add("Concat", inside(b, 1, 16, 9, 9), y, axis=1)


def _upsampled(b: Builder) -> Value:
    """A 1x1 convolution and a coarser tensor, each element of which is added four times (a feature pyramid)."""
    y = b.add("Reshape", inside(b, 1, 24, 5, 5), shape=(1, 24, 5, 1, 5, 1))
    y = b.add("Reshape", b.add("Expand", y, shape=(1, 24, 5, 2, 5, 2)), shape=(1, 24, 10, 10))
    return b.add("Add", _conv1x1(b, 10, 24), y)


def _reshape(b: Builder) -> Value:
    return b.add("MatMul", b.add("Reshape", inside(b, 2, 6, 4, 5), shape=(12, 20)), b.input(weights(20, 3)))


def _conv1x1(b: Builder, size: int = 14, filters: int = 128) -> Value:
    x = inside(b, 1, 64, size, size)
    b.output(b.add("Abs", x))  # so that x is not computed while the convolution loads it
    return conv(b, x, weights(filters, 64, 1, 1))


def _transposed(b: Builder) -> Value:
    """A computed matrix of 72 rows, contiguous along them."""
    return b.add("Transpose", inside(b, 48, 72), perm=(1, 0))


def _conv1x1_prologue(b: Builder) -> Value:
    """Batch normalisation and ReLU in front, channels that do not fill the last step."""
    x = inside(b, 1, 72, 14, 14)
    b.output(b.add("Abs", x))
    scaled = b.add("Add", b.add("Mul", x, b.constant(weights(72, 1, 1))), b.constant(weights(72, 1, 1)))
    return conv(b, b.add("Relu", scaled), weights(128, 72, 1, 1))


def _integers(b: Builder, channels: int, filters: int, groups: int = 1) -> Value:
    """Bytes times bytes and a bias, scaled, and bytes again."""
    x = b.add("Cast", b.input(weights(1, channels, 9, 9)), dtype=DType.INT8)
    w, bias = weights(filters, channels // groups, 3, 3).astype(np.int8), np.full(filters, 2**25, np.int32)
    window = {"strides": (1, 1), "pads": (1,) * 4, "dilations": (1, 1), "groups": groups}
    sums = b.add("ConvInteger", x, b.constant(w), b.constant(bias), **window)
    scaled = b.add("Mul", b.add("Cast", sums, dtype=DType.FP32), b.constant(np.float32(2.0**-20)))
    limited = b.add("Clip", b.add("Round", scaled), min=-128.0, max=127.0)
    return b.add("Cast", b.add("Cast", limited, dtype=DType.INT8), dtype=DType.FP32)


KERNELS: dict[str, tuple[str, Callable[[Builder], Value]]] = {
    # case: (the kernel's first word, graph)
    "conv3x3_bias_residual_relu": ("conv3x3", _conv3x3),
    "conv1x1": ("conv1x1", _conv1x1),
    "conv1x1_descriptors": ("conv1x1", lambda b: b.add("Relu", _conv1x1(b, 14, 100))),
    "conv1x1_prologue": ("conv1x1", _conv1x1_prologue),
    "conv7x7_stem": (
        "conv7x7",
        lambda b: conv(b, b.input(weights(1, 3, 64, 64)), weights(32, 3, 7, 7), strides=(2, 2), pads=(3,) * 4),
    ),
    "conv_split_k": (
        "conv3x3",
        lambda b: conv(b, inside(b, 1, 512, 7, 7), weights(64, 512, 3, 3), weights(64), pads=(1,) * 4),
    ),
    "conv1x1_zero_border": (
        "conv1x1",
        lambda b: conv(b, _conv1x1(b), weights(256, 128, 3, 3), pads=(1,) * 4),
    ),
    "conv_grouped": (
        "conv3x3",
        lambda b: conv(b, inside(b, 1, 64, 9, 9), weights(64, 32, 3, 3), groups=2, pads=(1,) * 4),
    ),
    "conv_dilated": (
        "conv3x3",
        lambda b: conv(b, inside(b, 1, 16, 9, 9), weights(24, 16, 3, 3), dilations=(2, 2), pads=(2,) * 4),
    ),
    "conv_integers": ("conv3x3", lambda b: _integers(b, 48, 40)),
    "depthwise_integers": ("depthwise", lambda b: _integers(b, 24, 24, 24)),
    "depthwise_multiplier": (
        "depthwise",
        lambda b: conv(b, inside(b, 1, 24, 9, 9), weights(48, 1, 3, 3), weights(48), groups=24, pads=(1,) * 4),
    ),
    "matmul_batched": ("matmul", lambda b: b.add("MatMul", inside(b, 3, 17, 33), inside(b, 3, 33, 20))),
    "matmul_descriptors": ("matmul", lambda b: b.add("MatMul", inside(b, 80, 72), _transposed(b))),
    "max_pool": ("max_pool", _pool("MaxPool")),
    "average_pool_window": ("average_pool", _pool("AveragePool", pads=(0,) * 4, count_include_pad=False)),
    "average_pool_valid": ("average_pool", _pool("AveragePool", count_include_pad=False)),
    "average_pool_padded": (
        "average_pool",
        _pool("AveragePool", (1, 20, 10, 10), ceil_mode=True, count_include_pad=True),
    ),
    "lrn": ("lrn", lambda b: b.add("LRN", inside(b, 1, 16, 5, 5), size=5, alpha=1e-4, beta=0.75, bias=1.0)),
    "softmax": ("softmax", lambda b: b.add("Softmax", inside(b, 3, 100), axis=1)),
    "log_softmax_channels": ("log_softmax", lambda b: b.add("LogSoftmax", inside(b, 2, 10, 4, 4), axis=1)),
    "global_average": (
        "reduce_mean",
        lambda b: b.add("ReduceMean", inside(b, 2, 40, 7, 7), axes=(2, 3), keepdims=True),
    ),
    "reduce_max": ("reduce_max", lambda b: b.add("ReduceMax", inside(b, 6, 50), axes=(1,), keepdims=False)),
    "elementwise_chain": ("elementwise", _elementwise),
    "conv_slice": ("conv3x3", _slice),
    "conv1x1_upsampled": ("conv1x1", _upsampled),
    "copy_to_channels_last": (
        "copy",
        lambda b: b.add("Concat", b.input(weights(1, 6, 5, 5)), inside(b, 1, 6, 5, 5), axis=0),
    ),
    "copy_concat": ("copy", _concat),
    "copy_reshape": ("copy", _reshape),
    "gather": ("gather", lambda b: b.add("Gather", inside(b, 2, 7, 6, 5), positions(b, (3,), 7), axis=1)),
    "gather_elements": (
        "gather",
        lambda b: b.add("GatherElements", inside(b, 2, 8, 6, 5), positions(b, (2, 8, 4, 5), 6), axis=2),
    ),
    "gather_nd": (
        "gather",
        lambda b: b.add("GatherND", inside(b, 2, 7, 6, 5), positions(b, (2, 4, 2), 6), batch_dims=1),
    ),
    "scatter_elements": (
        "scatter",
        lambda b: b.add("ScatterElements", inside(b, 2, 8, 6, 5), _order(b, 2, 8, 6, 5), inside(b, 2, 8, 6, 5), axis=2),
    ),
    "scatter_nd": (
        "scatter",
        lambda b: b.add("ScatterND", inside(b, 7, 6, 5), b.constant(np.array([[6], [0]])), inside(b, 2, 6, 5)),
    ),
    "grid_sample": ("grid_sample", _sample("linear", "zeros")),
    "grid_sample_nearest": ("grid_sample", _sample("nearest", "border")),
    "pad_constant": ("pad", _pad("constant")),
    "pad_reflect": ("pad", _pad("reflect")),
    "pad_edge": ("pad", _pad("edge")),
}


def kernel_case(name: str) -> Builder:
    """The graph of a case; its result is read by one more operator, so that it stays inside."""
    b = Builder(name)
    b.output(b.add("Abs", KERNELS[name][1](b)))
    return b
