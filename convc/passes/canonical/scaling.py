"""Scales and shifts behind one another become one scale and one shift: the normalisation of an image, for one.

Everything is computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir import DType, Graph, Node, Value
from ..choice import operator_instructions
from .affine import per_channel


def merge_affine(graph: Graph) -> bool:
    """(x·s + t)·u + v → x·(s·u) + (t·u + v) for numbers and values per channel, where that issues fewer instructions.

    Networks in narrower types than fp32 stay as they are, because their constants would be rounded to that type.
    """
    changed = False
    for node in reversed(graph.nodes()):
        if node.id not in graph:
            continue
        steps = _steps(graph, node)
        if len(steps) > 1:
            changed |= _merge(graph, steps)
    return changed


def _steps(graph: Graph, node: Node) -> list[Node]:
    """The scales and shifts that end in ``node``, each read by the next alone, first one first."""
    steps: list[Node] = []
    while _constant(graph, node) is not None:
        steps.insert(0, node)
        source = _source(graph, node)
        node = graph.producer(source)
        if len(graph.users(source)) != 1:
            break
    return steps


def _source(graph: Graph, node: Node) -> Value:
    first, second = graph.inputs(node)
    return second if graph.constant(first) is not None else first


def _constant(graph: Graph, node: Node) -> np.ndarray | None:
    """The constant of a scale or a shift as one float64 per channel; None for any other node."""
    if node.op not in ("Add", "Sub", "Mul", "Div") or node.outputs[0].dtype is not DType.FP32:
        return None
    first, second = graph.inputs(node)
    first_is_constant = graph.constant(first) is not None
    constant = graph.constant(first if first_is_constant else second)
    type = graph.type(second if first_is_constant else first)
    if constant is None or type != node.outputs[0] or type.rank < 2 or (node.op == "Div" and first_is_constant):
        return None
    channels = type.shape[1]
    return per_channel(constant, type.rank, 1, channels) if isinstance(channels, int) else None


def _merge(graph: Graph, steps: Sequence[Node]) -> bool:
    scale, shift = _composed(graph, steps)
    needed = [op for op, array, neutral in (("Mul", scale, 1.0), ("Add", shift, 0.0)) if (array != neutral).any()]
    finite = np.isfinite(scale).all() and np.isfinite(shift).all()
    if not finite or operator_instructions(needed) >= operator_instructions(node.op for node in steps):
        return False
    result, last = _source(graph, steps[0]), steps[-1]
    origins = tuple(dict.fromkeys(origin for node in steps for origin in node.origins))
    shape = (-1, *(1 for _ in last.outputs[0].shape[2:]))
    for op, array in (("Mul", scale), ("Add", shift)):
        if op in needed:
            constant = graph.add_constant(array.astype(np.float32).reshape(shape))
            result = graph.add(op, [result, constant], origins=origins)
    graph.replace(Value(last.id), result)
    for node in reversed(steps):
        graph.remove(node)
    return True


def _composed(graph: Graph, steps: Sequence[Node]) -> tuple[np.ndarray, np.ndarray]:
    """The scale and the shift of all steps together."""
    scale, shift = np.ones(1), np.zeros(1)
    with np.errstate(all="ignore"):
        for node in steps:
            constant = _constant(graph, node)
            assert constant is not None
            if node.op in ("Mul", "Div"):
                factor = constant if node.op == "Mul" else 1.0 / constant
                scale, shift = scale * factor, shift * factor
            elif node.op == "Add":
                shift = shift + constant
            elif graph.constant(graph.inputs(node)[0]) is not None:
                scale, shift = -scale, constant - shift
            else:
                shift = shift - constant
    return scale, shift
