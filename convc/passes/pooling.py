"""Convolution, activation and 2x2 max pooling in one kernel.

The rows of a tile are ordered by position in the pooling window first, so that the pool is a maximum over registers of
one thread, and the convolution's result never goes to memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir import Graph, Kind, Node, Value
from .choice import Choice

RULE = "conv-pool"


def propose(graph: Graph, pool: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The convolution and the elementwise nodes that a max pooling can follow in one kernel, or why not.

    None where no convolution stands in front of it.
    """
    if pool.op != "MaxPool":
        return None
    chain: list[int] = []
    node = graph.producer(graph.inputs(pool)[0])
    while node.kind is Kind.ELEMENTWISE and node.op != "Copy":
        chain.append(node.id)
        node = _deepest(graph, node)
    if node.op != "Conv":
        return None
    chain.append(node.id)
    reason = _unfit(pool) or _unfit_convolution(graph, node) or _shared(graph, chain, pool)
    if reason is None and any(id in taken for id in chain):
        reason = "the convolution already belongs to another kernel"
    return reason or Choice(RULE, (*chain[::-1], pool.id), node.id, open=False)


def _deepest(graph: Graph, node: Node) -> Node:
    """The producer of the operand that a chain hangs on: the one that is computed, of the node's own shape."""
    sources = [value for value in graph.inputs(node) if graph.type(value).shape == node.outputs[0].shape]
    computed = [value for value in sources if graph.constant(value) is None]
    return graph.producer((computed or graph.inputs(node))[0])


def _unfit(pool: Node) -> str | None:
    attributes = pool.attributes
    if (attributes["kernel_shape"], attributes["strides"]) != ((2, 2), (2, 2)):
        return "its windows are not 2x2 with stride 2: overlapping ones would compute the convolution again"
    if any(attributes["pads"]) or attributes["ceil_mode"] or any(d != 1 for d in attributes["dilations"]):
        return "its windows may reach past the convolution's result"
    return None


def _unfit_convolution(graph: Graph, conv: Node) -> str | None:
    x, w = graph.inputs(conv)[:2]
    if conv.attributes["groups"] > 1 and conv.attributes["groups"] == graph.type(x).shape[1]:
        return "the convolution is depthwise"
    return "the convolution's weights are not constant" if graph.constant(w) is None else None


def _shared(graph: Graph, chain: list[int], pool: Node) -> str | None:
    """Whether anything but the chain and the pooling reads what the chain computes."""
    inside = {*chain, pool.id}
    outside = any(use.node not in inside for id in chain for use in graph.users(Value(id)))
    return "the convolution's result is read elsewhere too" if outside else None
