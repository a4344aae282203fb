"""An ONNX model under construction: names, initialisers, nodes, and dimensions computed from the inputs' shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import errors
from ..ir.dims import Dim, DimLike, Quotient
from ..ir.graph import Graph, Node, Value
from ..ir.types import TINY, TINY_INTEGERS, DType, Shape, TensorType
from ..version import __version__

ELEMENT_TYPES: dict[DType, int] = {
    DType.FP64: TensorProto.DOUBLE,
    DType.FP32: TensorProto.FLOAT,
    DType.FP16: TensorProto.FLOAT16,
    DType.BF16: TensorProto.BFLOAT16,
    **{dtype: getattr(TensorProto, dtype.value.upper()) for dtype in DType if "int" in dtype.value},
    DType.BOOL: TensorProto.BOOL,
    **{dtype: getattr(TensorProto, f"FLOAT{dtype.value[2:].upper()}") for dtype in TINY if dtype not in TINY_INTEGERS},
}

RENAMED = {
    "groups": "group",
    "last": "select_last_index",
    "negative": "detect_negative",
    "offset_groups": "offset_group",
    "positive": "detect_positive",
    "trans_a": "transA",
    "trans_b": "transB",
}
"""Attributes of the graph that ONNX calls otherwise."""


def attributes_of(node: Node, *without: str) -> dict[str, Any]:
    """A node's attributes as ONNX has them, but for some."""

    def plain(value: Any) -> Any:
        return int(value) if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value

    chosen = {name: value for name, value in node.attributes.items() if name not in without}
    return {RENAMED.get(name, name): plain(value) for name, value in chosen.items()}


Spelling = Callable[["Writer", Node, list[str]], None]
"""Adds the ONNX nodes of one node of the graph, given the names of its inputs."""


class Names:
    """Hands out names, each once."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def unique(self, wanted: str) -> str:
        name, number = wanted, 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


class Writer:
    """The model under construction; spellings (`convc.frontends.spellings`) call `step` and `finish`."""

    def __init__(self, graph: Graph, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.names: dict[Value, str] = {}
        self._outputs = {str(node.attributes["name"]): graph.inputs(node)[0] for node in graph.graph_outputs}
        inputs = {str(node.attributes["name"]): Value(node.id) for node in graph.graph_inputs}
        self._values = Names([*inputs, *self._outputs])
        self._nodes = Names()
        self._dimensions: dict[DimLike, str] = {}
        self.names.update({value: name for name, value in inputs.items()})
        for name, value in self._outputs.items():
            if graph.producer(value).op not in ("Input", "Constant"):
                self.names.setdefault(value, name)

    def write(self, node: Node, spelling: Spelling) -> None:
        """Adds one node of the graph; its producers come before it."""
        if node.op == "Constant":
            self.names[Value(node.id)] = self.constant(node.array, node.label)
        elif node.op not in ("Input", "Output"):
            self.node = node
            self._name_outputs(node)
            spelling(self, node, [self.names[value] for value in self.graph.inputs(node)])

    def model(self) -> onnx.ModelProto:
        """The model of what was written."""
        self._copy_outputs()
        inputs = [_value_info(str(node.attributes["name"]), node.outputs[0]) for node in self.graph.graph_inputs]
        outputs = [_value_info(str(node.attributes["name"]), node.outputs[0]) for node in self.graph.graph_outputs]
        graph = helper.make_graph(self.nodes, self.graph.name, inputs, outputs, self.initializers)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=helper.find_min_ir_version_for(opsets),
            producer_name="convc",
            producer_version=__version__,
        )

    def _name_outputs(self, node: Node) -> None:
        for value in self.graph.values(node):
            if value not in self.names:
                self.names[value] = self._values.unique(node.label)

    def _copy_outputs(self) -> None:
        """Outputs that cannot be what their producer calls its result are copies of it."""
        for name, value in self._outputs.items():
            if self.names[value] != name:
                self.nodes.append(helper.make_node("Identity", [self.names[value]], [name], self._nodes.unique(name)))

    # -- for spellings ------------------------------------------------------------------------------------------------
    def needs(self, what: str, least: int) -> None:
        """Refuses an operator set from before ``least`` for the current node."""
        if self.opset < least:
            raise errors.needs_opset(self.node.label, what, least, self.opset)

    def kernel(self) -> list[int]:
        """The window's sizes, which the current node's weights have."""
        return [int(dim) for dim in self.shape(1)[2:] if not isinstance(dim, Dim)]

    def step(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node in between for the current node; returns its result."""
        name = self._values.unique(f"{self.node.label}.{op}")
        self.nodes.append(helper.make_node(op, inputs, [name], self._nodes.unique(name), **attributes))
        return name

    def finish(self, op: str, inputs: Sequence[str], **attributes: Any) -> None:
        """Adds the node whose results are those of the current node."""
        outputs = [self.names[value] for value in self.graph.values(self.node)]
        self.nodes.append(helper.make_node(op, inputs, outputs, self._nodes.unique(self.node.label), **attributes))

    def finish_one_of(self, op: str, inputs: Sequence[str], place: int, count: int, **attributes: Any) -> None:
        """Adds a node of ``count`` results, of which that at ``place`` is the current node's."""
        outputs = [self._values.unique(f"{self.node.label}.unused") for _ in range(count)]
        [outputs[place]] = [self.names[value] for value in self.graph.values(self.node)]
        self.nodes.append(helper.make_node(op, inputs, outputs, self._nodes.unique(self.node.label), **attributes))

    def constant(self, array: np.ndarray, wanted: str) -> str:
        """Adds an initialiser; returns its name."""
        name = self._values.unique(wanted)
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def scalar(self, value: float) -> str:
        """A constant of the element type of the current node's first input."""
        dtype = self.graph.type(self.graph.inputs(self.node)[0]).dtype.numpy
        return self.constant(np.asarray(value, dtype), f"{self.node.label}.constant")

    def integer(self, value: int, what: str) -> str:
        """A constant of rank 0."""
        return self.constant(np.asarray(value, np.int64), f"{self.node.label}.{what}")

    def floats(self, values: Sequence[float], what: str) -> str:
        """A vector of fp32."""
        return self.constant(np.asarray(values, np.float32), f"{self.node.label}.{what}")

    def integers(self, dims: Sequence[DimLike], what: str) -> str:
        """A vector of int64 from dimensions, computed from the inputs' shapes where they are symbolic."""
        if not any(isinstance(dim, Dim) for dim in dims):
            return self.constant(np.asarray(dims, np.int64), f"{self.node.label}.{what}")
        return self.step("Concat", [self._dimension(dim) for dim in dims], axis=0)

    def _dimension(self, dim: DimLike) -> str:
        """``dim`` as a vector of one int64."""
        if dim not in self._dimensions:
            self._dimensions[dim] = self._computed(dim)
        return self._dimensions[dim]

    def _computed(self, dim: DimLike) -> str:
        if not isinstance(dim, Dim):
            return self.constant(np.asarray([dim], np.int64), f"dim_{dim}")
        if dim.is_symbol:
            return self._measured(dim)
        total = ""
        for atoms, coefficient in dim.terms:
            product = self._dimension(coefficient)
            for atom in atoms:
                product = self.step("Mul", [product, self._atom(atom)])
            total = self.step("Add", [total, product]) if total else product
        return total

    def _atom(self, atom: str | Quotient) -> str:
        if isinstance(atom, str):
            return self._dimension(Dim.symbol(atom))
        return self.step("Div", [self._dimension(atom.numerator), self._dimension(atom.denominator)])

    def _measured(self, symbol: Dim) -> str:
        for node in self.graph.graph_inputs:
            if symbol in node.outputs[0].shape:
                axis = self._dimension(node.outputs[0].shape.index(symbol))
                return self.step("Gather", [self.step("Shape", [self.names[Value(node.id)]]), axis], axis=0)
        raise errors.cannot_express(self.node.label, symbol)

    def shape(self, position: int = 0) -> Shape:
        """Shape of the current node's input."""
        return self.graph.type(self.graph.inputs(self.node)[position]).shape


def _value_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    """A dimension that is more than a symbol has no ONNX spelling and is left open."""
    dims = [str(dim) if isinstance(dim, Dim) and dim.is_symbol else dim for dim in type.shape]
    return helper.make_tensor_value_info(
        name, ELEMENT_TYPES[type.dtype], [None if isinstance(dim, Dim) else dim for dim in dims]
    )
