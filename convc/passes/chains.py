"""What rules ask about the graph around an anchor: the operators between two of them, who reads what, and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..ir import Graph, Kind, Node, Value
from .element_types import odd_types_in_fp32

MAX_OPERANDS = 6
"""Most tensors that the operators between two anchors of one kernel read. A guess, not measured."""


def behind(graph: Graph, conv: Node) -> tuple[list[int], set[Value]]:
    """Elementwise operators of the input's shape that lead to ``conv``, and what they read that is not constant; or
    what ``conv`` itself reads."""
    shape = graph.type(graph.inputs(conv)[0]).shape
    chain: list[int] = []
    sources: set[Value] = set()
    stack = [graph.inputs(conv)[0]]
    while stack:
        value = stack.pop()
        node = graph.producer(value)
        if node.kind is Kind.ELEMENTWISE and graph.type(value).shape == shape:
            if node.id not in chain:
                chain.append(node.id)
                stack.extend(graph.inputs(node))
        elif graph.constant(value) is None:
            sources.add(value)
    return sorted(chain), sources


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    if node.op != "Conv" or node.attributes["groups"] == 1:
        return False
    return bool(graph.type(graph.inputs(node)[0]).shape[1] == node.attributes["groups"])


def unfit_product(graph: Graph, conv: Node) -> str | None:
    """Why a convolution cannot compute windows while it loads its operand; None where it can."""
    if any(size != 1 for size in graph.type(graph.inputs(conv)[1]).shape[2:]):
        return "every position of the window would compute it again"
    if any(conv.attributes["pads"]):
        return "the 1x1 convolution pads its input, and the padding must stay zero"
    if any(step != 1 for step in conv.attributes["strides"]):
        return "the 1x1 convolution skips pixels"
    return "the 1x1 convolution is grouped" if conv.attributes["groups"] > 1 else None


def unfit_window(graph: Graph, depthwise: Node) -> str | None:
    """Why a depthwise convolution cannot be computed beside a 1x1 convolution; None where it can."""
    x, w = graph.inputs(depthwise)[:2]
    if graph.type(w).shape[0] != graph.type(x).shape[1]:
        return "the depthwise convolution has several filters per channel"
    if any(graph.constant(value) is None for value in graph.inputs(depthwise)[1:]):
        return "the depthwise weights are computed at run time"
    return None


def unfit_chain(graph: Graph, chain: list[int], start: Value, sources: set[Value]) -> str | None:
    """Why a kernel cannot compute the operators of ``chain`` between ``start``, its windows or its first product, and
    the product behind them; None where it can.

    sources: what they read that is not constant.
    """
    if sources != {start}:
        return "an operator between them reads a tensor that is not constant"
    if any(graph.type(Value(id)).shape != graph.type(start).shape for id in chain):
        return "an operator between them broadcasts the result to a larger shape"
    operands = {value for id in chain for value in graph.inputs(id) if graph.constant(value) is not None}
    if any(not _per_channel(graph, value, id) for id in chain for value in graph.inputs(id) if value in operands):
        return "an operator between them reads a constant that varies from pixel to pixel"
    if len(operands) > MAX_OPERANDS:
        return f"the operators between them read more than {MAX_OPERANDS} tensors"
    odd = [type.dtype for id in chain for type in graph.node(id).outputs if not type.dtype.is_float]
    if odd:
        return f"a result between them is {odd[0]}"
    odd = odd_types_in_fp32(graph, chain)
    return f"an operator between them computes on {odd[0]}" if odd else None


def _per_channel(graph: Graph, value: Value, reader: int) -> bool:
    """Whether a constant is a number or has one value per channel."""
    shape = graph.type(value).shape
    if graph.node(reader).op == "BatchNormalization" or elements(graph, value) == 1:
        return True
    channels = len(shape) - (len(graph.node(reader).outputs[0].shape) - 1)
    return all(dim == 1 for axis, dim in enumerate(shape) if axis != channels)


def unfree(graph: Graph, nodes: Sequence[int], anchor: Node, taken: Mapping[int, int]) -> str | None:
    """Why ``anchor`` cannot compute these nodes for itself alone; None where it can."""
    readers = {use.node for id in nodes for use in graph.users(Value(id))}
    if any(graph.node(id).op == "Output" for id in readers):
        return "it is a graph output"
    if not readers <= {*nodes, anchor.id}:
        return "several operators read it"
    return belongs(nodes, taken)


def belongs(nodes: Iterable[int], taken: Mapping[int, int]) -> str | None:
    """Says so where one of the nodes is in a kernel already; of one that reads through others `fuse` does."""
    return "it already belongs to another kernel" if any(id in taken for id in nodes) else None


def extents(graph: Graph, value: Value) -> list[int]:
    """The shape of a value, which is known."""
    return [int(dim) for dim in graph.type(value).shape]  # type: ignore[arg-type]


def elements(graph: Graph, value: Value) -> int:
    """Elements of a value whose shape is known."""
    return math.prod(extents(graph, value))
