"""Prologues: elementwise operators in front of an unpadded 1x1 convolution, computed while its operand is loaded.

Batch normalisation and ReLU in front of DenseNet's convolutions, and the gate of a squeeze-and-excitation block, are of
this kind. A window of more than one position would compute them once per position, and padding would have to stay zero
behind them, so both are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir import Graph, Kind, Node, Value
from .choice import ELEMENT_BYTES, Choice

RULE = "conv-prologue"
MAX_OPERANDS = 6
"""Most tensors that a prologue reads."""
MAX_FULL_OPERANDS = 2
"""Most of them that are as large as the convolution's input."""


def propose(graph: Graph, conv: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The elementwise nodes that ``conv`` can read through, or why not; None where there is nothing elementwise.

    taken: nodes that belong to a kernel already, with its seed.
    """
    if conv.op != "Conv":
        return None
    (x, *_) = graph.inputs(conv)
    producer = graph.producer(x)
    if producer.kind is not Kind.ELEMENTWISE:
        return None
    reason = unfit(graph, conv) or _unfree(graph, producer, conv, taken)
    if reason:
        return reason
    nodes = _chain(graph, conv, x, taken)
    if not _readable(graph, nodes, x):
        return "it would read too many tensors"
    return Choice(RULE, (*nodes, conv.id), conv.id, tuple(nodes), saved_bytes=2 * ELEMENT_BYTES * _elements(graph, x))


def _elements(graph: Graph, x: Value) -> int:
    shape: list[int] = [int(dim) for dim in graph.type(x).shape]  # type: ignore[arg-type]
    return math.prod(shape)


def unfit(graph: Graph, conv: Node) -> str | None:
    """Why a convolution cannot compute operators while it loads its operand; None where it can."""
    x, w = graph.inputs(conv)[:2]
    kernel = graph.type(w).shape[2:]
    if any(conv.attributes["pads"]):
        return "the convolution pads its input, and the padding must stay zero behind the operator"
    if any(size != 1 for size in kernel):
        return "every position of the window would compute it again"
    if conv.attributes["groups"] > 1:
        return "the convolution is grouped"
    return None if graph.type(x).is_static else "its shape is not known"


def _unfree(graph: Graph, producer: Node, conv: Node, taken: Mapping[int, int]) -> str | None:
    if producer.id in taken:
        return "it already belongs to another kernel"
    readers = {use.node for use in graph.users(Value(producer.id))}
    return None if readers == {conv.id} else "several operators read it"


def _chain(graph: Graph, conv: Node, x: Value, taken: Mapping[int, int]) -> list[int]:
    """The elementwise nodes behind ``x`` that nobody else reads."""
    inside = {conv.id}
    nodes: list[int] = []
    stack = [x]
    while stack:
        value = stack.pop()
        node = graph.producer(value)
        readers = {use.node for use in graph.users(value)}
        fits = node.kind is Kind.ELEMENTWISE and node.id not in taken and graph.type(value) == graph.type(x)
        if node.id in inside or not fits or not readers <= inside:
            continue
        inside.add(node.id)
        nodes.append(node.id)
        stack.extend(graph.inputs(node))
    return sorted(nodes)


def _readable(graph: Graph, nodes: list[int], x: Value) -> bool:
    outside = {value for id in nodes for value in graph.inputs(id) if value.node not in nodes}
    full = [value for value in outside if graph.type(value).shape == graph.type(x).shape]
    floats = all(graph.type(value).dtype.is_float for value in outside)
    return 1 <= len(full) <= MAX_FULL_OPERANDS and len(outside) <= MAX_OPERANDS and floats
