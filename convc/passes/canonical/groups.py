"""Grouped convolutions with few channels per group are widened to what a tensor core takes."""

from __future__ import annotations

import numpy as np

from ...ir import Graph, Node, Value

TENSOR_CORE_DEPTH = 16
"""Least number of input channels that fills one step of an fp16 tensor-core instruction."""


def merge_groups(graph: Graph) -> bool:
    """conv(x, w, groups=g) → conv(x, block_diagonal(w), groups=g/f): f groups side by side, zeros between them."""
    changed = False
    for node in graph.of_kind("Conv"):
        weight = graph.constant(graph.inputs(node)[1])
        factor = 1 if weight is None else merge_factor(node.attributes["groups"], *weight.shape[:2])
        if weight is None or factor == 1:
            continue
        x, w, *bias = graph.inputs(node)
        merged = graph.add_constant(block_diagonal(weight, node.attributes["groups"], factor))
        graph.add_origins(merged, graph.producer(w).origins)
        attributes = {**node.attributes, "groups": node.attributes["groups"] // factor}
        _replace(graph, node, graph.add(node.operator, [x, merged, *bias], attributes, origins=node.origins))
        changed = True
    return changed


def merge_factor(groups: int, filters: int, channels_per_group: int) -> int:
    """How many groups to merge: the fewest that reach the tensor-core depth; 1 for dense and depthwise convolutions."""
    if groups == 1 or channels_per_group == 1 or channels_per_group >= TENSOR_CORE_DEPTH:
        return 1
    factors = [f for f in range(1, groups + 1) if groups % f == 0]
    return next((f for f in factors if f * channels_per_group >= TENSOR_CORE_DEPTH), groups)


def block_diagonal(weight: np.ndarray, groups: int, factor: int) -> np.ndarray:
    """Weights [K, C/g, …] of ``groups`` groups as weights [K, C/g·f, …] of ``groups / factor`` groups."""
    filters, channels = weight.shape[:2]
    per_group = filters // groups
    merged = np.zeros((filters, channels * factor, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        slot = group % factor
        rows = slice(group * per_group, (group + 1) * per_group)
        merged[rows, slot * channels : (slot + 1) * channels] = weight[rows]
    return merged


def _replace(graph: Graph, node: Node, value: Value) -> None:
    graph.replace(Value(node.id), value)
    graph.remove(node)
