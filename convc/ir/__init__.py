"""The intermediate representation: types, operators and the graph."""

from . import ops as ops
from .dims import Dim, DimLike
from .graph import Graph, Node, Payload, Use, Value
from .operator import Kind, Operator, operator, operators
from .text import parse_graph, print_graph
from .types import DType, Shape, TensorType

__all__ = [
    "DType",
    "Dim",
    "DimLike",
    "Graph",
    "Kind",
    "Node",
    "Operator",
    "Payload",
    "Shape",
    "TensorType",
    "Use",
    "Value",
    "operator",
    "operators",
    "parse_graph",
    "print_graph",
]
