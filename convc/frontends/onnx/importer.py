"""The walk over a model: nodes in order; functions, branches and loops are entered where they are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from convc import errors
from convc.ir.dims import Dim
from convc.ir.graph import Graph, Value
from convc.ir.types import TensorType

from . import defined, limits, structure
from .attributes import Schema, check_attributes, schema_of
from .builder import Builder, Operand
from .call import Call
from .control import CONTROL, Site
from .files import Source
from .frames import UNKNOWN, Finish, Frame, Known, Scope
from .inputs import Symbols, check_declared, input_type
from .registry import ADAPTERS, UnsupportedForm
from .sequences import SEQUENCE_READERS, Pieces
from .tensors import array_of, dense


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
        self.walked = 0
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
        self.walk(graph.node, (output.name for output in graph.output), taken, Frame(scope, opsets))
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
        for name in taken:
            array = scope.values[name]
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

    def walk(self, nodes: Sequence[NodeProto], results: Iterable[str], taken: set[str], frame: Frame) -> None:
        """Has ``frame`` walk these nodes next. taken: names that its scope has already; results: those it must make.

        Raises:
            LoadError: a name twice, or a cycle. LimitError: too many nodes, with functions and loops written out.
        """
        structure.check_unique("value", (name for node in nodes for name in node.output if name), taken)
        self.walked += len(nodes)
        if self.walked > limits.NODES:
            raise errors.too_many("nodes, with functions and loops written out", self.walked, limits.NODES)
        frame.nodes = iter(structure.ordered(nodes))
        frame.read = structure.names_read(nodes) | set(results)
        self.stack.append(frame)

    def enter(
        self, caller: tuple[Frame, NodeProto], graph: GraphProto, scope: Scope, place: str, finish: Finish
    ) -> None:
        """Walks a subgraph of a node next. place: what stands before the names of its nodes."""
        frame, _ = caller
        taken = set(scope.values) | self._initializers(graph, scope, {})
        inner = Frame(scope, frame.opsets, prefix=place, attributes=frame.attributes, caller=caller, finish=finish)
        self.walk(graph.node, (output.name for output in graph.output), taken, inner)

    def _outputs(self, graph: GraphProto, scope: Scope) -> None:
        names = dict.fromkeys(info.name for info in graph.output)  # one that is listed again is the same result
        found = [(name, scope.find(name)) for name in names]
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
        if node is not None:
            return self._guarded(frame, node, lambda: self._node(frame, node))
        self.stack.pop()
        if frame.caller is not None:
            self._guarded(*frame.caller, lambda: frame.finish(frame.scope))

    def _guarded(self, frame: Frame, node: NodeProto, action: Callable[[], None]) -> None:
        """Does something in the name of a node: what is unsupported is noted for it, and an error names it."""
        self.builder.origin = frame.prefix + structure.label(node)
        try:
            action()
        except UnsupportedForm as form:
            self._refuse(frame, node, str(form))
            self._decided_by(form.computed)
            self.open |= form.open
        except errors.ConvcError as error:
            error.node = error.node or self.builder.origin
            raise
        except Exception as error:
            failure = errors.not_readable(node.op_type, error)
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
        function = self.functions.get(structure.key(node))
        if function is not None:
            return self._call(frame, node, function, inputs, attributes)
        domain, op = structure.normal(node.domain), node.op_type
        opset = frame.opsets.get(domain, 0)
        schema = schema_of(op, opset) if opset and not domain else None
        own = schema is not None and (op in ADAPTERS or op in CONTROL)
        body = defined.schema(domain, op, opset) if opset and not own else None
        if not own and body is None:
            return self._refuse(frame, node)
        values = _checked(node, inputs, attributes, schema) if schema else {}
        if any(value is UNKNOWN for value in inputs):
            frame.scope.values.update({name: UNKNOWN for name in node.output if name})
        elif body is not None:
            self._expand(frame, node, body, opset, inputs, attributes)
        elif schema is not None:
            operands = _without_trailing_gaps(inputs)
            if any(isinstance(operand, Pieces) for operand in operands) and op not in (*SEQUENCE_READERS, *CONTROL):
                raise UnsupportedForm(errors.FORM_SEQUENCE)
            used = tuple(bool(name) and name in frame.read for name in node.output)
            self._tensors(values)
            call = Call(op, opset, operands, used, values, schema, self.builder)
            if op in CONTROL:
                CONTROL[op](Site(self, frame, node, call))
            else:
                self.define(frame, node, ADAPTERS[op](call))

    def _tensors(self, attributes: dict[str, Any]) -> None:
        for name, value in attributes.items():
            if isinstance(value, onnx.TensorProto):
                attributes[name] = array_of(value, self.base)
            elif isinstance(value, onnx.SparseTensorProto):
                attributes[name] = dense(value, self.base)

    def define(self, frame: Frame, node: NodeProto, result: Operand | Pieces | Sequence[Known]) -> None:
        """Gives a node's outputs their values."""
        outputs: Sequence[Known] = [result] if isinstance(result, (Value, np.ndarray, Pieces)) else result
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

    # -- functions ----------------------------------------------------------------------------------------------------
    def _call(
        self,
        frame: Frame,
        node: NodeProto,
        function: onnx.FunctionProto,
        inputs: Sequence[Known],
        given: Mapping[str, AttributeProto],
    ) -> None:
        """Walks the body of one of the model's functions next."""
        defaults = {attribute.name: attribute for attribute in function.attribute_proto}
        for name in set(given) - set(defaults) - set(function.attribute):
            raise errors.attribute_unknown(name, [*defaults, *function.attribute])
        opsets = structure.opsets(function.opset_import)
        self._enter_function(frame, node, function, inputs, {**defaults, **given}, opsets)

    def _expand(
        self,
        frame: Frame,
        node: NodeProto,
        schema: defined.Schema,
        opset: int,
        inputs: Sequence[Known],
        given: Mapping[str, AttributeProto],
    ) -> None:
        """Walks the body that ONNX defines the operator by next."""
        attributes = {**defined.defaults(schema), **given}
        resolved = NodeProto(op_type=node.op_type, domain=node.domain, input=node.input, output=node.output)
        resolved.attribute.extend(given.values())
        function = defined.body(schema, opset, resolved, [self._described(value) for value in inputs])
        if function is None:
            return self._refuse(frame, node)
        opsets = {**frame.opsets, **structure.opsets(function.opset_import)}
        self._enter_function(frame, node, function, inputs, attributes, opsets)

    def _described(self, value: Known) -> TensorType | Sequence[TensorType] | None:
        if isinstance(value, Pieces):
            return [self.builder.type(piece) for piece in value]
        return self.builder.type(value) if isinstance(value, (Value, np.ndarray)) else None

    def _enter_function(
        self,
        frame: Frame,
        node: NodeProto,
        function: onnx.FunctionProto,
        inputs: Sequence[Known],
        attributes: Mapping[str, AttributeProto],
        opsets: Mapping[str, int],
    ) -> None:
        if len(inputs) > len(function.input) or len(node.output) > len(function.output):
            raise errors.operand_count("inputs", len(inputs), 0, len(function.input))
        taken: set[str] = set()
        structure.check_unique("input", function.input, taken)
        asked = zip(node.output, function.output, strict=False)
        wanted = [inner if outer else "" for outer, inner in asked]
        padded = [*inputs, *[None] * (len(function.input) - len(inputs))]
        inner = Frame(
            Scope(dict(zip(function.input, padded, strict=True))),
            opsets,
            prefix=f"{self.builder.origin}/",
            attributes=attributes,
            caller=(frame, node),
            finish=lambda scope: self.define(frame, node, [scope.find(name) if name else None for name in wanted]),
        )
        self.walk(function.node, function.output, taken, inner)


def _checked(
    node: NodeProto, inputs: Sequence[Known], attributes: Mapping[str, AttributeProto], schema: Schema
) -> dict[str, Any]:
    """The attributes' values. Raises `LoadError` where inputs, outputs or attributes are not the operator's."""
    for what, found, bounds in (("inputs", inputs, schema.inputs), ("outputs", node.output, schema.outputs)):
        if not bounds[0] <= len(found) <= bounds[1]:
            raise errors.operand_count(what, len(found), *bounds)
    for position in schema.needed:
        if inputs[position] is None:
            raise errors.operand_missing(node.op_type, position)
    return check_attributes(attributes, schema)


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
