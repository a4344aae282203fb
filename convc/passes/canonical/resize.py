"""Resampling becomes a matrix product along each axis.

Whatever the mode and the coordinates, an output of Resize is a weighted sum of inputs, and the weights depend on sizes
alone: along an axis y = A·x with a constant matrix A, a row for each output. The matrix is what the operator's own
definition makes of the identity, in float64.

Its zeros are multiplied too: an infinity or NaN reaches all of its row and column, and not its neighbours alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import Graph, Node, Value

LARGEST = 1 << 24
"""Elements of a matrix; beyond, the operator stays. A guess: 64 MiB in fp32 are a large part of a network's weights."""


def expand_resize(graph: Graph) -> bool:
    """resize(x) → A₁·x·A₂ᵀ … with constant matrices, for floats."""
    changed = False
    for node in graph.of_kind("Resize"):
        if not _is_linear(graph, node):
            continue
        (x,) = graph.inputs(node)
        before, after = _plain(graph.type(x).shape), _plain(node.outputs[0].shape)
        for axis in sorted(_changed(node, before), key=lambda axis: after[axis] / before[axis]):
            x = _multiplied(graph, node, x, axis, matrix(node, axis, before[axis]))
        graph.replace(Value(node.id), x)
        graph.remove(node)
        changed = True
    return changed


def _is_linear(graph: Graph, node: Node) -> bool:
    """Of floats, without a value for what lies outside, and with matrices of a bearable size."""
    type = graph.type(graph.inputs(node)[0])
    pairs = list(zip(_plain(type.shape), _plain(node.outputs[0].shape), strict=True))
    bearable = all(before * after <= LARGEST or before == after for before, after in pairs)
    filled = node.attributes["transformation"] == "tf_crop_and_resize"
    return type.dtype.is_float and bearable and not filled and all(0 not in pair for pair in pairs)


def _plain(shape: Sequence[Any]) -> list[int]:
    return [int(dim) for dim in shape]


def _changed(node: Node, before: Sequence[int]) -> list[int]:
    scales = node.attributes["scales"] or (None,) * len(before)
    sizes = zip(before, node.attributes["sizes"], scales, strict=True)
    return [axis for axis, (have, wanted, scale) in enumerate(sizes) if have != wanted or scale not in (None, 1)]


def matrix(node: Node, axis: int, size: int) -> np.ndarray:
    """Weights [outputs, inputs] along one axis, in float64."""
    given = node.attributes
    scales = (given["scales"][axis], 1.0) if given["scales"] else ()
    attributes = {**given, "sizes": (given["sizes"][axis], size), "scales": scales, "crop": ()}
    (weights,) = node.operator.evaluate(attributes, [np.eye(size)])
    return weights


def _multiplied(graph: Graph, node: Node, x: Value, axis: int, weights: np.ndarray) -> Value:
    """Along the last two axes a product from the right or from the left; others trade places with the last one."""
    type = graph.type(x)
    constant = graph.add_constant
    weights = weights.astype(type.dtype.numpy)
    if axis == type.rank - 2:
        return graph.add("MatMul", [constant(weights, origins=node.origins), x], origins=node.origins)
    perm = list(range(type.rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    turned = x if axis == type.rank - 1 else graph.add("Transpose", [x], {"perm": tuple(perm)}, origins=node.origins)
    right = constant(np.ascontiguousarray(weights.T), origins=node.origins)
    y = graph.add("MatMul", [turned, right], origins=node.origins)
    return y if turned == x else graph.add("Transpose", [y], {"perm": tuple(perm)}, origins=node.origins)
