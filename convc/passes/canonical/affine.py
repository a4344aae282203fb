"""Per-channel scale and shift after a convolution or matrix product go into its weights and bias.

Everything is computed in float64 and rounded once. A scale or shift that is not finite is left alone: folding would
turn an infinity that the network makes at run time into a NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir import Graph, Node, Value

ANCHORS = ("Conv", "Gemm")


@dataclass(frozen=True)
class _Anchor:
    """A convolution or matrix product with constant weights and nobody else reading its result."""

    node: Node
    x: Value
    weight: np.ndarray
    bias: np.ndarray
    channel_axis: int

    @property
    def channels(self) -> int:
        return self.bias.shape[0]


def fold_batch_norm(graph: Graph) -> bool:
    """batch_norm(conv(x, w) + b) → conv(x, w·s) + (b·s + t), with s = γ/√(σ²+ε) and t = β − μ·s."""
    changed = False
    for norm in graph.of_kind("BatchNormalization"):
        x, *parameters = graph.inputs(norm)
        anchor = _anchor(graph, x)
        arrays = [graph.constant(value) for value in parameters]
        if anchor is None or any(array is None for array in arrays):
            continue
        scale, shift = _scale_and_shift([np.asarray(a, np.float64) for a in arrays], norm.attributes["epsilon"])
        changed |= _rebuild(graph, anchor, norm, scale, anchor.bias * scale + shift)
    return changed


def expand_batch_norm(graph: Graph) -> bool:
    """batch_norm(x) → x·s + t where no convolution takes it: two constants per channel instead of four, from float64.

    Networks in narrower types than fp32 keep it whole, because their constants would be rounded to that type.
    """
    changed = False
    for norm in graph.of_kind("BatchNormalization"):
        x, *parameters = graph.inputs(norm)
        arrays = [graph.constant(value) for value in parameters]
        dtype = graph.type(x).dtype
        if any(array is None for array in arrays) or dtype.itemsize < 4:
            continue
        scale, shift = _scale_and_shift([np.asarray(a, np.float64) for a in arrays], norm.attributes["epsilon"])
        if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
            continue
        shape = (-1, *(1 for _ in graph.type(x).shape[2:]))
        factor = graph.add_constant(scale.reshape(shape).astype(dtype.numpy))
        addend = graph.add_constant(shift.reshape(shape).astype(dtype.numpy))
        scaled = graph.add("Mul", [x, factor], origins=norm.origins)
        graph.replace(Value(norm.id), graph.add("Add", [scaled, addend], origins=norm.origins))
        graph.remove(norm)
        changed = True
    return changed


def _scale_and_shift(arrays: list[np.ndarray], epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    gamma, beta, mean, variance = arrays
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        return scale, beta - mean * scale


def fold_scale(graph: Graph) -> bool:
    """conv(x, w)·s → conv(x, w·s) for a scalar or per-channel s; division by s likewise."""
    changed = False
    for node in graph.of_kind("Mul", "Div"):
        operands = _operands(graph, node)
        if operands is None:
            continue
        anchor, constant, constant_first = operands
        if node.op == "Div" and constant_first:
            continue
        with np.errstate(all="ignore"):
            scale = constant if node.op == "Mul" else 1.0 / constant
            changed |= _rebuild(graph, anchor, node, scale, anchor.bias * scale)
    return changed


def fold_shift(graph: Graph) -> bool:
    """(conv(x, w) + b) + t → conv(x, w) + (b + t) for a scalar or per-channel t; subtraction of t likewise."""
    changed = False
    for node in graph.of_kind("Add", "Sub"):
        operands = _operands(graph, node)
        if operands is None:
            continue
        anchor, constant, constant_first = operands
        if node.op == "Sub" and constant_first:
            continue
        shift = constant if node.op == "Add" else -constant
        changed |= _rebuild(graph, anchor, node, np.ones(anchor.channels), anchor.bias + shift)
    return changed


def _operands(graph: Graph, node: Node) -> tuple[_Anchor, np.ndarray, bool] | None:
    """The anchor, the constant as one float64 per channel, and whether the constant is the first operand."""
    first, second = graph.inputs(node)
    constant_first = graph.constant(first) is not None
    source, other = (second, first) if constant_first else (first, second)
    constant = graph.constant(other)
    anchor = _anchor(graph, source)
    if anchor is None or constant is None or graph.type(Value(node.id)) != graph.type(source):
        return None
    vector = per_channel(constant, graph.type(source).rank, anchor.channel_axis, anchor.channels)
    return None if vector is None else (anchor, vector, constant_first)


def per_channel(array: np.ndarray, rank: int, axis: int, channels: int) -> np.ndarray | None:
    """A broadcast operand as a vector over channels; None where it varies along anything else."""
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(extent != 1 for position, extent in enumerate(shape) if position != axis):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,))


def _anchor(graph: Graph, value: Value) -> _Anchor | None:
    node = graph.producer(value)
    if node.op not in ANCHORS or len(graph.users(value)) != 1 or not graph.type(value).dtype.is_float:
        return None
    x, w, *rest = graph.inputs(node)
    weight = graph.constant(w)
    axis = 1
    channels = node.outputs[0].shape[axis]
    if weight is None or not isinstance(channels, int) or (node.op == "Gemm" and not _plain(node)):
        return None
    bias = np.zeros(channels)
    if rest:
        given = graph.constant(rest[0])
        vector = None if given is None else per_channel(given, 2, 1, channels) if node.op == "Gemm" else given
        if vector is None:
            return None
        bias = np.asarray(vector, np.float64)
    return _Anchor(node, x, weight, bias, axis)


def _plain(node: Node) -> bool:
    return node.attributes["alpha"] == 1.0 and node.attributes["beta"] == 1.0


def _rebuild(graph: Graph, anchor: _Anchor, absorbed: Node, scale: np.ndarray, bias: np.ndarray) -> bool:
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        return False
    dtype = anchor.node.outputs[0].dtype.numpy
    weight = anchor.weight
    if not (scale == 1.0).all():
        out_axis = 0 if anchor.node.op == "Conv" or anchor.node.attributes["trans_b"] else 1
        factors = scale.reshape([-1 if axis == out_axis else 1 for axis in range(weight.ndim)])
        with np.errstate(over="ignore"):
            weight = (weight * factors).astype(dtype)
        if not np.isfinite(weight).all() and np.isfinite(anchor.weight).all():
            return False
    w = graph.add_constant(weight, origins=_weight_origins(graph, anchor.node))
    b = graph.add_constant(bias.astype(dtype))
    origins = (*anchor.node.origins, *absorbed.origins)
    folded = graph.add(anchor.node.operator, [anchor.x, w, b], anchor.node.attributes, origins=origins)
    graph.replace(Value(absorbed.id), folded)
    graph.remove(absorbed)
    graph.remove(anchor.node)
    return True


def _weight_origins(graph: Graph, node: Node) -> tuple[str, ...]:
    return graph.producer(graph.inputs(node)[1]).origins
