"""The walk over a model: nodes in order, local functions and constant branches entered where they are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from convc import errors
from convc.ir.dims import Dim
from convc.ir.graph import Graph, Value

from . import structure
from .attributes import check_attributes, schema_of
from .builder import Builder, Operand
from .call import Call
from .files import Source
from .inputs import Symbols, check_declared, input_type
from .registry import ADAPTERS, UnsupportedForm
from .sequences import SEQUENCE_READERS, Pieces
from .tensors import array_of, dense


class _Unknown:
    """Stands for the output of a node that could not be imported."""


UNKNOWN = _Unknown()
Known = Operand | Pieces | _Unknown | None


@dataclass
class Scope:
    """Values by name; a subgraph also sees the scope around it."""

    values: dict[str, Known] = field(default_factory=dict)
    parent: Scope | None = None

    def find(self, name: str) -> Known:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        raise errors.undefined_value(name)


@dataclass
class Frame:
    """One list of nodes being walked, and where its results go when it is done.

    read: names that are read somewhere in it. attributes: those of the function call that it belongs to.
    results: (name inside, name outside) pairs; outer: the scope that they go to.
    """

    nodes: Iterator[NodeProto]
    scope: Scope
    opsets: Mapping[str, int]
    read: set[str]
    prefix: str = ""
    attributes: Mapping[str, AttributeProto] = field(default_factory=dict)
    results: Sequence[tuple[str, str]] = ()
    outer: Scope | None = None


class Importer:
    """Imports one model; use `run` once."""

    def __init__(self, source: Source, symbols: Symbols, constants: Mapping[str, np.ndarray]) -> None:
        structure.check_model(source.model)
        self.model = source.model
        self.raw = source.raw
        self.base: Path | None = source.path.absolute().parent if source.path else None
        self.symbols = symbols
        self.constants = constants
        self.builder = Builder(Graph(self.model.graph.name or "network"))
        self.unsupported: dict[tuple[str, str, str], list[str]] = {}
        self.deciding: set[str] = set()
        self.open = False
        self.functions: Mapping[structure.FunctionKey, onnx.FunctionProto] = {}
        self.stack: list[Frame] = []

    def run(self) -> Graph:
        """The imported graph.

        Raises:
            UnsupportedModelError: with every operator, and form of one, that convc does not compile.
            LoadError, ShapeError, LimitError: a model that is broken or too large; the first such place.
        """
        graph = self.model.graph
        opsets = structure.opsets(self.model.opset_import)
        self.functions = structure.check_sizes(self.model)
        scope = Scope()
        taken = self._initializers(graph, scope, self.raw)
        self._inputs(graph, scope, taken)
        self.stack.append(self._frame(graph, scope, opsets, taken))
        while self.stack:
            self._step(self.stack[-1])
        self._outputs(graph, scope)
        return self.builder.graph

    # -- graphs -------------------------------------------------------------------------------------------------------
    def _initializers(self, graph: GraphProto, scope: Scope, raw: Mapping[int, memoryview]) -> set[str]:
        taken: set[str] = set()
        structure.check_unique("initializer", (tensor.name for tensor in graph.initializer), taken)
        structure.check_unique("initializer", (tensor.values.name for tensor in graph.sparse_initializer), taken)
        for index, tensor in enumerate(graph.initializer):
            scope.values[tensor.name] = array_of(tensor, self.base, raw.get(index))
        for sparse in graph.sparse_initializer:
            scope.values[sparse.values.name] = dense(sparse, self.base)
        for name, array in scope.values.items():
            assert isinstance(array, np.ndarray)
            self.builder.name(array, name)
        return taken

    def _inputs(self, graph: GraphProto, scope: Scope, taken: set[str]) -> None:
        structure.check_unique("input", (info.name for info in graph.input), set())
        for info in graph.input:
            if not info.name:
                raise errors.declared_without_name()
            if info.name in taken:
                array = scope.values[info.name]
                assert isinstance(array, np.ndarray)
                check_declared(info, self.builder.type(array))
                continue
            taken.add(info.name)
            if info.name in self.constants:
                array = np.array(self.constants[info.name])
                check_declared(info, self.builder.type(array))
                scope.values[info.name] = array
            else:
                scope.values[info.name] = self.builder.graph.add_input(info.name, input_type(info, self.symbols))
        names = [info.name for info in graph.input]
        if set(self.constants) - set(names):
            raise errors.unknown_constants(set(self.constants) - set(names), names)
        self.symbols.check_all_used()

    @property
    def batches(self) -> frozenset[str]:
        """The symbols that are the first sizes of inputs, where forms depend on symbolic sizes."""
        firsts = (node.outputs[0].shape[:1] for node in self.builder.graph.graph_inputs)
        sizes = (dim for first in firsts for dim in first if isinstance(dim, Dim) and dim.is_symbol)
        return frozenset(map(str, sizes)) if self.open else frozenset()

    def _frame(self, graph: GraphProto, scope: Scope, opsets: Mapping[str, int], taken: set[str], **more: Any) -> Frame:
        outputs = (name for node in graph.node for name in node.output if name)
        structure.check_unique("value", outputs, taken)
        read = structure.names_read(graph.node) | {output.name for output in graph.output}
        return Frame(iter(structure.ordered(graph.node)), scope, opsets, read, **more)

    def _outputs(self, graph: GraphProto, scope: Scope) -> None:
        structure.check_unique("output", (info.name for info in graph.output), set())
        found = [(info.name, scope.find(info.name)) for info in graph.output]
        if self.unsupported:
            entries = [
                errors.Unsupported(op, domain, tuple(nodes), reason)
                for (op, domain, reason), nodes in self.unsupported.items()
            ]
            raise errors.UnsupportedModelError(entries, deciding=self.deciding)
        for name, operand in found:
            self.builder.origin = name
            if not isinstance(operand, (Value, np.ndarray)):
                raise errors.output_not_tensor(name)
            self.builder.graph.add_output(name, self.builder.value(operand))
        self.builder.graph.prune()

    # -- nodes --------------------------------------------------------------------------------------------------------
    def _step(self, frame: Frame) -> None:
        node = next(frame.nodes, None)
        if node is None:
            self.stack.pop()
            for inner, outer in frame.results:
                assert frame.outer is not None
                frame.outer.values[outer] = frame.scope.find(inner)
            return
        self.builder.origin = frame.prefix + structure.label(node)
        try:
            self._node(frame, node)
        except UnsupportedForm as form:
            self._refuse(frame, node, str(form))
            self._decided_by(form.computed)
            self.open |= form.open
        except errors.ConvcError as error:
            error.node = error.node or self.builder.origin
            raise
        except Exception as error:
            failure = errors.node_failed(node.op_type, error)
            failure.node = self.builder.origin
            raise failure from error

    def _refuse(self, frame: Frame, node: NodeProto, reason: str = "") -> None:
        entry = (node.op_type, structure.normal(node.domain), reason)
        self.unsupported.setdefault(entry, []).append(self.builder.origin)
        frame.scope.values.update({name: UNKNOWN for name in node.output if name})

    def _decided_by(self, values: Sequence[Value]) -> None:
        """Notes the network's inputs that these values are computed from."""
        graph = self.builder.graph
        sources = {id for value in values for id in (value.node, *nx.ancestors(graph.networkx, value.node))}
        self.deciding |= {node.attributes["name"] for node in graph.graph_inputs if node.id in sources}

    def _node(self, frame: Frame, node: NodeProto) -> None:
        inputs = [frame.scope.find(name) if name else None for name in node.input]
        attributes = _attributes(node, frame.attributes)
        if structure.key(node) in self.functions:
            return self._enter_function(frame, node, inputs, attributes)
        opset = frame.opsets.get("", 0)
        schema = schema_of(node.op_type, opset) if not structure.normal(node.domain) and opset else None
        if schema is None or (node.op_type not in ADAPTERS and node.op_type != "If"):
            return self._refuse(frame, node)
        for what, found, bounds in (("inputs", inputs, schema.inputs), ("outputs", node.output, schema.outputs)):
            if not bounds[0] <= len(found) <= bounds[1]:
                raise errors.operand_count(what, len(found), *bounds)
        for position in range(schema.inputs[0]):
            if inputs[position] is None:
                raise errors.operand_missing(node.op_type, position)
        values = check_attributes(attributes, schema)
        if any(value is UNKNOWN for value in inputs):
            frame.scope.values.update({name: UNKNOWN for name in node.output if name})
        elif node.op_type == "If":
            self._enter_branch(frame, node, inputs[0], values)
        else:
            operands = _without_trailing_gaps(inputs)
            if any(isinstance(operand, Pieces) for operand in operands) and node.op_type not in SEQUENCE_READERS:
                raise UnsupportedForm(errors.FORM_SEQUENCE)
            used = tuple(bool(name) and name in frame.read for name in node.output)
            self._tensors(values)
            call = Call(node.op_type, opset, operands, used, values, schema, self.builder)
            self._define(frame, node, ADAPTERS[node.op_type](call))

    def _tensors(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            if isinstance(value, onnx.TensorProto):
                attributes[name] = array_of(value, self.base)
            elif isinstance(value, onnx.SparseTensorProto):
                attributes[name] = dense(value, self.base)

    def _define(self, frame: Frame, node: NodeProto, result: Operand | Pieces | Sequence[Operand]) -> None:
        outputs: Sequence[Operand | Pieces] = [result] if isinstance(result, (Value, np.ndarray, Pieces)) else result
        for position, name in enumerate(node.output):
            if not name:
                continue
            if position < len(outputs):
                operand = outputs[position]
                frame.scope.values[name] = operand
                if isinstance(operand, np.ndarray):
                    self.builder.name(operand, self.builder.origin)
            elif name in frame.read:
                raise UnsupportedForm(errors.FORM_OUTPUT.format(position=position))

    # -- functions and branches ---------------------------------------------------------------------------------------
    def _enter_function(
        self, frame: Frame, node: NodeProto, inputs: Sequence[Known], given: Mapping[str, AttributeProto]
    ) -> None:
        function = self.functions[structure.key(node)]
        if len(inputs) > len(function.input) or len(node.output) > len(function.output):
            raise errors.operand_count("inputs", len(inputs), 0, len(function.input))
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        for name in set(given) - set(defaults) - set(function.attribute):
            raise errors.attribute_unknown(name, [*defaults, *function.attribute])
        padded = [*inputs, *[None] * (len(function.input) - len(inputs))]
        taken: set[str] = set()
        structure.check_unique("input", function.input, taken)
        structure.check_unique("value", (name for inner in function.node for name in inner.output if name), taken)
        self.stack.append(
            Frame(
                nodes=iter(structure.ordered(function.node)),
                scope=Scope(dict(zip(function.input, padded, strict=True))),
                opsets=structure.opsets(function.opset_import),
                read=structure.names_read(function.node) | set(function.output),
                prefix=f"{self.builder.origin}/",
                attributes={**defaults, **given},
                results=[(inner, outer) for inner, outer in zip(function.output, node.output, strict=False) if outer],
                outer=frame.scope,
            )
        )

    def _enter_branch(self, frame: Frame, node: NodeProto, condition: Known, branches: Mapping[str, Any]) -> None:
        if not isinstance(condition, np.ndarray) or condition.dtype == object:
            computed = [condition] if isinstance(condition, Value) else []
            raise UnsupportedForm(errors.FORM_RUNTIME.format(what="condition"), computed)
        if condition.size != 1 or condition.dtype != np.bool_:
            raise errors.operand_shape("the condition", list(condition.shape), "one boolean")
        graph = branches["then_branch" if condition.item() else "else_branch"]
        if graph.input or len(graph.output) != len(node.output):
            raise errors.operand_count("outputs of the branch", len(graph.output), len(node.output), len(node.output))
        scope = Scope(parent=frame.scope)
        taken = self._initializers(graph, scope, {})
        results = [(inner.name, outer) for inner, outer in zip(graph.output, node.output, strict=True) if outer]
        more = {"prefix": frame.prefix, "attributes": frame.attributes, "results": results, "outer": frame.scope}
        self.stack.append(self._frame(graph, scope, frame.opsets, taken, **more))


def _attributes(node: NodeProto, given: Mapping[str, AttributeProto]) -> dict[str, AttributeProto]:
    """A node's attributes by name, with references to those of the surrounding function call resolved."""
    attributes: dict[str, AttributeProto] = {}
    for attribute in node.attribute:
        if attribute.name in attributes:
            raise errors.attribute_repeated(attribute.name)
        if not attribute.ref_attr_name:
            attributes[attribute.name] = attribute
        elif attribute.ref_attr_name in given:
            attributes[attribute.name] = given[attribute.ref_attr_name]
    return attributes


def _without_trailing_gaps(inputs: Sequence[Known]) -> tuple[Any, ...]:
    count = len(inputs)
    while count and inputs[count - 1] is None:
        count -= 1
    return tuple(inputs[:count])
