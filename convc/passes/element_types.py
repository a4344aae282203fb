"""On which element types kernels compute elementwise operators."""

from __future__ import annotations

from collections.abc import Iterable

from ..ir import DType, Graph, Kind, Node
from ..ir.ops.integer_text import has_integer_text
from ..ir.ops.triton_text import has_text


def element_types(graph: Graph, node: Node) -> list[DType]:
    """Of what a node reads and makes."""
    return [type.dtype for type in (*node.outputs, *map(graph.type, graph.inputs(node)))]


def odd_type(graph: Graph, node: Node) -> DType | None:
    """The element type for which an elementwise operator has no text, where there is one: fp64, those that numbers are
    only kept in, integers for functions of real numbers, floats for those of integers."""
    dtypes = element_types(graph, node)
    for dtype in dtypes:
        if dtype is DType.FP64 or dtype.is_tiny:
            return dtype
    read = dtypes[len(node.outputs) :]
    whole = [dtype for dtype in read if not dtype.is_float]
    if whole:
        return None if has_integer_text(node.operator) else whole[0]
    return None if has_text(node.operator) else read[0]


def odd_type_in_fp32(graph: Graph, node: Node) -> DType | None:
    """The element type that keeps a node out of a kernel whose values are all fp32, where there is one. Conversions of
    what that holds exactly are no obstacle, nor are those of the sums of integers."""
    read = [graph.type(value).dtype for value in graph.inputs(node)]
    if node.op == "Cast" and (read[0], node.attributes["dtype"]) == (DType.INT32, DType.FP32):
        return None
    for dtype in element_types(graph, node):
        converted = node.op == "Cast" and dtype.fits_fp32
        if not converted and (not dtype.is_float or dtype.itemsize > 4):
            return dtype
    return odd_type(graph, node) if node.kind is Kind.ELEMENTWISE else None


def odd_types_in_fp32(graph: Graph, nodes: Iterable[int]) -> list[DType]:
    """The element types that keep nodes out of a kernel whose values are all fp32; operators without a text apart."""
    found = (odd_type_in_fp32(graph, graph.node(id)) for id in nodes)
    return [odd for odd in found if odd is not None and not (odd.is_float and odd.itemsize <= 4)]
