"""Doubles that a network of 16-bit floats computes with in between are computed in fp32, as everything between loading
and storing is.

Exporters write them where a number of the source code was a double: the square in a layer normalisation of a network
in fp16, say. An error of fp32 is 2^13 times smaller than the rounding of the fp16 value that it becomes.
"""

from __future__ import annotations

import numpy as np

from ...ir import DType, Graph, Kind, Node, Value

HALVES = (DType.FP16, DType.BF16)


def narrow_doubles(graph: Graph) -> bool:
    """cast(f(cast(x))) with f in fp64 → the same in fp32, for x and results of 16 bits, where that is so of all doubles
    of the network and every constant among them is a number in fp32, too."""
    touched = [node for node in graph.nodes() if _doubles(graph, node)]
    if not touched or not all(_narrows(graph, node) for node in touched):
        return False
    narrow: dict[Value, Value] = {}
    for node in touched:
        if node.op == "Constant":
            narrow[Value(node.id)] = graph.add_constant(node.array.astype(np.float32), origins=node.origins)
            continue
        inputs = [narrow.get(value, value) for value in graph.inputs(node)]
        attributes = {name: DType.FP32 if value is DType.FP64 else value for name, value in node.attributes.items()}
        made = graph.add(node.op, inputs, attributes, origins=node.origins)
        for old, new in zip(graph.values(node), graph.values(graph.node(made.node)), strict=True):
            if graph.type(old).dtype is DType.FP64:
                narrow[old] = new
            else:
                graph.replace(old, new)
    return True


def _doubles(graph: Graph, node: Node) -> bool:
    """Whether a node reads or makes doubles."""
    types = (*node.outputs, *map(graph.type, graph.inputs(node)))
    return any(type.dtype is DType.FP64 for type in types)


def _narrows(graph: Graph, node: Node) -> bool:
    if node.op == "Constant":
        with np.errstate(over="ignore"):
            narrow = node.array.astype(np.float32)
        return all(np.array_equal(same(narrow), same(node.array)) for same in (np.isfinite, np.sign))
    given, made = ({type.dtype for type in types} for types in (map(graph.type, graph.inputs(node)), node.outputs))
    if node.op == "Cast":
        return (given | made) - {DType.FP64} <= {*HALVES}
    return node.kind is not Kind.STRUCTURAL and made == {DType.FP64}
