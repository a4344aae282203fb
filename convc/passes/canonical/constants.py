"""Operators whose inputs are all constants become constants."""

from __future__ import annotations

import numpy as np

from ...ir import Graph, Kind, Node

LIMIT_BYTES = 256 << 20
"""Largest constant that folding makes."""


def fold_constants(graph: Graph) -> bool:
    """f(constants) → constant, computed in float64 where the result is a float and rounded once."""
    changed = False
    for node in graph.nodes():
        if node.kind is Kind.STRUCTURAL or not _foldable(graph, node):
            continue
        arrays = [_widened(graph.node(value.node).array) for value in graph.inputs(node)]
        results = node.operator.evaluate(node.attributes, arrays)
        for value, array in zip(graph.values(node), results, strict=True):
            dtype = graph.type(value).dtype.numpy
            constant = graph.add_constant(np.asarray(array).astype(dtype), origins=node.origins)
            graph.replace(value, constant)
        changed = True
    return changed


def _foldable(graph: Graph, node: Node) -> bool:
    inputs = graph.inputs(node)
    small = all(type.is_static and type.nbytes <= LIMIT_BYTES for type in node.outputs)  # type: ignore[operator]
    return bool(inputs) and small and all(graph.constant(value) is not None for value in inputs)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
