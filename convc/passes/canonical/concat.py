"""Concatenations that begin with the operands of another one read its result."""

from __future__ import annotations

from ...ir import Graph, Node, Value


def nest_concat(graph: Graph) -> bool:
    """concat(a, b), concat(a, b, c) → y = concat(a, b), concat(y, c): every value keeps one home (DenseNet)."""
    changed = False
    seen: dict[tuple[int, tuple[Value, ...]], Value] = {}
    for node in graph.of_kind("Concat"):
        inputs, axis = graph.inputs(node), node.attributes["axis"]
        prefix = _longest_prefix(seen, axis, inputs)
        if prefix:
            rest = inputs[prefix:]
            node = _nested(graph, node, seen[axis, tuple(inputs[:prefix])], rest)
            changed = True
        seen[axis, tuple(inputs)] = Value(node.id)
    return changed


def _longest_prefix(seen: dict[tuple[int, tuple[Value, ...]], Value], axis: int, inputs: list[Value]) -> int:
    lengths = range(len(inputs) - 1, 1, -1)
    return next((length for length in lengths if (axis, tuple(inputs[:length])) in seen), 0)


def _nested(graph: Graph, node: Node, head: Value, rest: list[Value]) -> Node:
    value = graph.add(node.operator, [head, *rest], node.attributes, origins=node.origins)
    graph.replace(Value(node.id), value)
    graph.remove(node)
    return graph.node(value.node)
