"""One small network for each rule, in whole numbers: the rule takes place in it, and its results are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from compiled import Builder, conv, integers

from convc.ir import Value


def whole(*shape: int) -> np.ndarray:
    """Whole numbers from −1 to 1."""
    return integers(np.random.default_rng(sum(shape)), shape, 1)


def image(b: Builder, channels: int = 6, size: int = 7, batch: int = 2) -> Value:
    return b.input(integers(np.random.default_rng(channels), (batch, channels, size, size)))


def pointwise(b: Builder, x: Value, filters: int, **attributes: Any) -> Value:
    return conv(b, x, whole(filters, int(b.graph.type(x).shape[1]), 1, 1), **attributes)


def padded(b: Builder, x: Value, filters: int, **attributes: Any) -> Value:
    """A 3x3 convolution that keeps the size."""
    channels = int(b.graph.type(x).shape[1]) // attributes.get("groups", 1)
    return conv(b, x, whole(filters, channels, 3, 3), pads=(1,) * 4, **attributes)


def norm(b: Builder, x: Value) -> Value:
    """Batch normalisation whose factors are 1/2 or 1: γ/√σ² with variances of 4 and 1."""
    channels = int(b.graph.type(x).shape[1])
    variance = np.where(np.arange(channels) % 2, 4, 1).astype(np.float32)
    mean = np.roll(whole(channels), 1) + 2
    arrays = (np.ones(channels, np.float32), whole(channels), mean, variance)
    return b.add("BatchNormalization", x, *map(b.constant, arrays), epsilon=0.0)


def pool(b: Builder, x: Value, size: int = 2, stride: int = 2, op: str = "MaxPool") -> Value:
    window = {"kernel_shape": (size,) * 2, "strides": (stride,) * 2, "pads": (0,) * 4, "dilations": (1, 1)}
    counted = {"count_include_pad": False} if op == "AveragePool" else {}
    return b.add(op, x, ceil_mode=False, **window, **counted)


def maximum(b: Builder, x: Value) -> Value:
    return b.add("ReduceMax", x, axes=(2, 3), keepdims=True)


# -- folding ----------------------------------------------------------------------------------------------------------
def _fold_batch_norm(b: Builder) -> Value:
    return norm(b, pointwise(b, image(b), 8))


def _fold_scale(b: Builder) -> Value:
    y = b.add("Mul", pointwise(b, image(b), 8), b.constant(whole(8, 1, 1) + 2))
    return b.add("Div", pointwise(b, y, 4), b.constant(2.0))


def _fold_shift(b: Builder) -> Value:
    y = b.add("Add", pointwise(b, image(b), 8), b.constant(whole(8, 1, 1)))
    return b.add("Sub", pointwise(b, y, 4), b.constant(1.0))


def _expand_batch_norm(b: Builder) -> Value:
    return norm(b, image(b))


def _merge_affine(b: Builder) -> Value:
    y = b.add("Div", b.add("Sub", image(b), b.constant(whole(6, 1, 1))), b.constant(4.0))
    return b.add("Mul", b.add("Add", y, b.constant(1.0)), b.constant(2.0))


def _fold_pad(b: Builder) -> Value:
    y = b.add("Pad", image(b), pads=(0, 0, 1, 0, 0, 0, 2, 1))
    return conv(b, y, whole(5, 6, 3, 3), pads=(0, 1, 0, 0))


def _merge_groups(b: Builder) -> Value:
    return padded(b, image(b, 8), 12, groups=4)


# -- layout and memory ------------------------------------------------------------------------------------------------
def _flatten_into_weights(b: Builder) -> Value:
    flat = b.add("Reshape", pointwise(b, image(b, size=3), 4), shape=(2, 36))
    return b.add("Gemm", flat, b.constant(whole(5, 36)), b.constant(whole(5)), trans_b=True)


def _nest_concat(b: Builder) -> Value:
    x = image(b)
    parts = [pointwise(b, x, filters) for filters in (3, 4, 5)]
    b.output(b.add("Relu", b.add("Concat", *parts[:2], axis=1)))
    return b.add("Relu", b.add("Concat", *parts, axis=1))


def _concat_in_place(b: Builder) -> Value:
    x = image(b)
    return b.add("Relu", b.add("Concat", pointwise(b, x, 8), pool(b, padded(b, x, 8), 1, 1), axis=1))


def _shuffle_in_writer(b: Builder) -> Value:
    y = b.add("Reshape", pointwise(b, image(b), 12), shape=(2, 3, 4, 7, 7))
    return b.add("Relu", b.add("Reshape", b.add("Transpose", y, perm=(0, 2, 1, 3, 4)), shape=(2, 12, 7, 7)))


def _shuffle_in_reader(b: Builder) -> Value:
    """Upsampling by repetition, as exporters write it, and a sum with the finer tensor."""
    y = b.add("Reshape", maximum(b, image(b)), shape=(2, 6, 1, 1))
    y = b.add("Neg", b.add("Mul", y, b.input(whole(2, 6, 3, 3))))
    y = b.add("Expand", b.add("Reshape", y, shape=(2, 6, 3, 1, 3, 1)), shape=(2, 6, 3, 2, 3, 2))
    return b.add("Add", b.add("Reshape", y, shape=(2, 6, 6, 6)), b.input(whole(2, 6, 6, 6)))


def _update_in_place(b: Builder) -> Value:
    x = padded(b, image(b), 8)
    return maximum(b, b.add("Add", padded(b, x, 8), x))


# -- fusion -----------------------------------------------------------------------------------------------------------
def _conv_epilogue(b: Builder) -> Value:
    x = image(b)
    y = b.add("Relu", b.add("Add", padded(b, x, 9), b.input(whole(2, 9, 7, 7))))
    return b.add("Clip", padded(b, y, 9, groups=9), min=-2.0, max=2.0)


def _conv_pool(b: Builder) -> Value:
    y = pool(b, b.add("Relu", padded(b, image(b, size=9), 8)))
    return pool(b, b.add("Clip", padded(b, y, 5), min=-9.0, max=9.0), 3)


def _conv_prologue(b: Builder) -> Value:
    scaled = b.add("Add", b.add("Mul", image(b), b.constant(whole(6, 1, 1))), b.constant(whole(6, 1, 1)))
    return padded(b, b.add("Relu", scaled), 7)


def _depthwise_pointwise(b: Builder) -> Value:
    return pointwise(b, b.add("Relu", padded(b, image(b), 6, groups=6)), 9)


def _expand_depthwise(b: Builder) -> Value:
    return padded(b, b.add("Relu", pointwise(b, image(b), 20)), 20, groups=20, strides=(2, 2))


def _pool_conv(b: Builder) -> Value:
    return pointwise(b, pool(b, image(b), 3, 1), 9)


def _back_to_back(b: Builder) -> Value:
    return pointwise(b, b.add("Relu", padded(b, image(b), 8)), 20)


def _softmax_epilogue(b: Builder) -> Value:
    """Rows with 1, 2, 4 and 8 largest elements, 200 above the rest: the softmax is a power of two or vanishes."""
    largest = 200 * (np.arange(8) < 2 ** np.arange(4)[:, None])
    product = b.add("Gemm", b.input(np.eye(4, dtype=np.float32)), b.constant(largest.astype(np.float32)))
    return b.add("Softmax", product, axis=1)


def _matmul_epilogue(b: Builder) -> Value:
    product = b.add("MatMul", b.input(whole(2, 9, 17)), b.input(whole(2, 17, 11)))
    y = b.add("Relu", b.add("Add", product, b.input(whole(11))))
    gemm = b.add("Gemm", b.add("Reshape", y, shape=(18, 11)), b.input(whole(11, 5)), b.constant(whole(5)))
    return b.add("Abs", gemm)


def _pool_epilogue(b: Builder) -> Value:
    y = b.add("Add", pool(b, image(b, size=8)), b.input(whole(2, 6, 4, 4)))
    return b.add("Relu", b.add("Neg", pool(b, y, op="AveragePool")))


def _pad_epilogue(b: Builder) -> Value:
    y = b.add("Pad", image(b), pads=(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect")
    return b.add("Clip", b.add("Mul", y, b.input(whole(6, 1, 1))), min=-1.0, max=2.0)


def _reduction_epilogue(b: Builder) -> Value:
    y = b.add("Mul", maximum(b, image(b)), b.input(whole(6, 1, 1)))
    return b.add("Neg", b.add("ReduceSum", y, axes=(1,), keepdims=True))


def _global_pool_epilogue(b: Builder) -> Value:
    y = b.add("Relu", padded(b, image(b), 8))
    return b.add("Mul", y, maximum(b, y))


def _sibling_convolutions(b: Builder) -> Value:
    x = image(b, 16)
    b.output(b.add("Relu", pointwise(b, x, 8, strides=(2, 2))))
    return padded(b, x, 5)


def _last_block(b: Builder) -> Value:
    y = b.add("Gemm", b.input(whole(2, 16)), b.constant(whole(16, 8)))
    return b.add("Gemm", y, b.constant(whole(8, 5)))


def _l2_slices(b: Builder) -> Value:
    return padded(b, padded(b, padded(b, image(b, batch=4), 8), 9), 4)


def _elementwise_chain(b: Builder) -> Value:
    x = image(b)
    return b.add("Max", b.add("Mul", b.add("Relu", x), b.input(whole(6, 1, 1))), b.add("Neg", x))


CASES: dict[str, Callable[[Builder], Value]] = {
    "fold-batch-norm": _fold_batch_norm,
    "fold-scale": _fold_scale,
    "fold-shift": _fold_shift,
    "expand-batch-norm": _expand_batch_norm,
    "merge-affine": _merge_affine,
    "fold-pad": _fold_pad,
    "merge-groups": _merge_groups,
    "flatten-into-weights": _flatten_into_weights,
    "nest-concat": _nest_concat,
    "concat-in-place": _concat_in_place,
    "shuffle-in-writer": _shuffle_in_writer,
    "shuffle-in-reader": _shuffle_in_reader,
    "update-in-place": _update_in_place,
    "conv-epilogue": _conv_epilogue,
    "conv-pool": _conv_pool,
    "conv-prologue": _conv_prologue,
    "depthwise-pointwise": _depthwise_pointwise,
    "expand-depthwise": _expand_depthwise,
    "pool-conv": _pool_conv,
    "back-to-back": _back_to_back,
    "softmax-epilogue": _softmax_epilogue,
    "matmul-epilogue": _matmul_epilogue,
    "pool-epilogue": _pool_epilogue,
    "pad-epilogue": _pad_epilogue,
    "reduction-epilogue": _reduction_epilogue,
    "global-pool-epilogue": _global_pool_epilogue,
    "sibling-convolutions": _sibling_convolutions,
    "last-block": _last_block,
    "l2-slices": _l2_slices,
    "elementwise-chain": _elementwise_chain,
}


def rule_case(name: str) -> Builder:
    b = Builder(name)
    b.output(CASES[name](b))
    return b
