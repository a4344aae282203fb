"""The graph: a `networkx.MultiDiGraph` with typed accessors.

A node carries an operator with its attributes; an edge carries one tensor value from an output of its producer to one
input of its consumer. Graph inputs, constants and graph outputs are nodes too (`Input`, `Constant`, `Output`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import networkx as nx
import numpy as np

from .. import errors
from .dims import Dim, DimLike, substitute
from .operator import Kind, Operator, operator
from .types import DType, TensorType


class Value(NamedTuple):
    """Output number ``output`` of node ``node``."""

    node: int
    output: int = 0


class Use(NamedTuple):
    """Input number ``position`` of node ``node``."""

    node: int
    position: int


class Payload:
    """The data of a constant, immutable, with a digest that is computed once and on demand.

    A graph read back from text may know only the digest of a constant: enough to compare, not to compute.
    """

    def __init__(self, array: np.ndarray | None, digest: str | None = None) -> None:
        self._array = None
        if array is not None:
            self._array = np.asarray(array).view()
            self._array.flags.writeable = False
        if digest is not None:
            self.__dict__["digest"] = digest

    @property
    def has_data(self) -> bool:
        return self._array is not None

    @property
    def array(self) -> np.ndarray:
        """The data. Raises ``LoadError`` where only the digest is known."""
        if self._array is None:
            raise errors.constant_without_data(self.digest)
        return self._array

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of dtype, shape and bytes."""
        dtype = self.array.dtype
        # NumPy spells all types of one byte that are not its own alike.
        head = f"{dtype.name if dtype.kind == 'V' else dtype.str}{self.array.shape}".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.array).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Node:
    """One operator application.

    id: its key in the graph. attributes: complete, hashable values. outputs: one type per output. origins: the names of
    the user's nodes that it stands for. payload: the data, `Constant` only. region: the number of the fused
    region that it belongs to, once the graph is fused.
    """

    id: int
    operator: Operator
    attributes: Mapping[str, Any]
    outputs: tuple[TensorType, ...]
    origins: tuple[str, ...] = ()
    payload: Payload | None = None
    region: int | None = None

    @property
    def op(self) -> str:
        return self.operator.name

    @property
    def kind(self) -> Kind:
        return self.operator.kind

    @property
    def label(self) -> str:
        """The user's name for it, or its operator and number."""
        return self.origins[0] if self.origins else f"{self.op}_{self.id}"

    @property
    def array(self) -> np.ndarray:
        """Data of a `Constant`."""
        assert self.payload is not None, f"node {self.id} ({self.op}) is not a constant"
        return self.payload.array


@dataclass
class Graph:
    """A network. ``stage`` is the last stage whose invariants hold (see `convc.ir.invariants`)."""

    name: str = "network"
    stage: str = "imported"
    _graph: nx.MultiDiGraph = field(default_factory=nx.MultiDiGraph, repr=False)
    _next: int = 0

    # -- building -----------------------------------------------------------------------------------------------------
    def add(
        self,
        op: str | Operator,
        inputs: Sequence[Value] = (),
        attributes: Mapping[str, Any] | None = None,
        *,
        origins: Sequence[str] = (),
    ) -> Value:
        """Adds an operator application and returns its first output.

        Raises:
            KeyError: an unknown operator, or an attribute that is unknown or missing.
            ShapeError: inputs that do not fit the operator.
        """
        definition = operator(op) if isinstance(op, str) else op
        full = definition.complete(attributes or {})
        types = tuple(definition.infer(full, [self.type(value) for value in inputs]))
        return self._insert(definition, full, types, inputs, origins)

    def _insert(
        self,
        definition: Operator,
        attributes: Mapping[str, Any],
        types: tuple[TensorType, ...],
        inputs: Sequence[Value],
        origins: Sequence[str],
        payload: Payload | None = None,
    ) -> Value:
        node = Node(self._next, definition, attributes, types, tuple(dict.fromkeys(origins)), payload)
        self._next += 1
        self._graph.add_node(node.id, node=node)
        for position, value in enumerate(inputs):
            self._connect(value, Use(node.id, position))
        return Value(node.id)

    def _connect(self, value: Value, use: Use) -> None:
        self._graph.add_edge(value.node, use.node, key=use.position, output=value.output, type=self.type(value))

    def add_input(self, name: str, type: TensorType) -> Value:
        """A graph input."""
        return self._insert(operator("Input"), {"name": name}, (type,), (), (name,))

    def add_constant(self, array: np.ndarray | Payload, *, origins: Sequence[str] = ()) -> Value:
        """A constant; the array is not copied and must not be changed afterwards."""
        payload = array if isinstance(array, Payload) else Payload(array)
        type = TensorType(DType.of(payload.array.dtype), payload.array.shape)
        return self._insert(operator("Constant"), {}, (type,), (), origins, payload)

    def add_output(self, name: str, value: Value) -> Value:
        """Makes ``value`` a graph output."""
        return self._insert(operator("Output"), {"name": name}, (self.type(value),), (value,), (name,))

    # -- reading ------------------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self._graph)

    def __contains__(self, node: int) -> bool:
        return node in self._graph

    @property
    def networkx(self) -> nx.MultiDiGraph:
        """The underlying graph; nodes carry ``node``, edges ``output`` and ``type`` and are keyed by input position."""
        return self._graph

    def node(self, id: int) -> Node:
        return self._graph.nodes[id]["node"]

    def producer(self, value: Value) -> Node:
        return self.node(value.node)

    def type(self, value: Value) -> TensorType:
        return self.node(value.node).outputs[value.output]

    def inputs(self, node: Node | int) -> list[Value]:
        """The values that a node reads, in order."""
        id = node if isinstance(node, int) else node.id
        edges = self._graph.in_edges(id, keys=True, data="output")
        return [Value(source, output) for source, _, _, output in sorted(edges, key=lambda edge: edge[2])]

    def users(self, value: Value) -> list[Use]:
        """The inputs that read a value, by node and position."""
        edges = self._graph.out_edges(value.node, keys=True, data="output")
        return sorted(Use(target, position) for _, target, position, output in edges if output == value.output)

    def values(self, node: Node | int) -> list[Value]:
        """The outputs of a node."""
        id = node if isinstance(node, int) else node.id
        return [Value(id, index) for index in range(len(self.node(id).outputs))]

    def nodes(self) -> list[Node]:
        """All nodes in one deterministic topological order (by number where the order is free)."""
        order = nx.lexicographical_topological_sort(self._graph)
        return [self.node(id) for id in order]

    def of_kind(self, *ops: str) -> Iterator[Node]:
        """The nodes of these operators, in topological order."""
        return (node for node in self.nodes() if node.op in ops)

    @property
    def graph_inputs(self) -> list[Node]:
        """The `Input` nodes in the order they were added."""
        return self._by_operator("Input")

    @property
    def graph_outputs(self) -> list[Node]:
        """The `Output` nodes in the order they were added."""
        return self._by_operator("Output")

    def _by_operator(self, op: str) -> list[Node]:
        return [data["node"] for _, data in sorted(self._graph.nodes(data=True)) if data["node"].op == op]

    def constant(self, value: Value) -> np.ndarray | None:
        """The data of ``value`` where it is a constant."""
        node = self.producer(value)
        return node.array if node.op == "Constant" else None

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbolic dimensions in use."""
        dims = (dim for node in self.nodes() for type in node.outputs for dim in type.shape)
        return frozenset().union(*(dim.symbols for dim in dims if isinstance(dim, Dim)))

    # -- changing -----------------------------------------------------------------------------------------------------
    def replace(self, old: Value, new: Value) -> None:
        """Makes every user of ``old`` read ``new`` instead."""
        for use in self.users(old):
            self.rewire(use, new)

    def rewire(self, use: Use, new: Value) -> None:
        """Makes one input read ``new``."""
        edge = next(e for e in self._graph.in_edges(use.node, keys=True) if e[2] == use.position)
        self._graph.remove_edge(*edge)
        self._connect(new, use)

    def update(self, node: Node, **changes: Any) -> Node:
        """Replaces fields of a node (not its inputs); returns the new node."""
        changed = dataclasses.replace(node, **changes)
        self._graph.nodes[node.id]["node"] = changed
        return changed

    def add_origins(self, value: Value, origins: Iterable[str]) -> None:
        """Records that a node also stands for these nodes of the user."""
        node = self.producer(value)
        self.update(node, origins=tuple(dict.fromkeys((*node.origins, *origins))))

    def remove(self, node: Node | int) -> None:
        """Removes a node that nobody reads."""
        id = node if isinstance(node, int) else node.id
        assert not self._graph.out_degree(id), f"node {id} still has users"
        self._graph.remove_node(id)

    def prune(self) -> list[Node]:
        """Removes everything that no output depends on, except graph inputs; returns what was removed."""
        alive: set[int] = set()
        stack = [node.id for node in self.graph_outputs]
        while stack:
            id = stack.pop()
            if id not in alive:
                alive.add(id)
                stack.extend(self._graph.predecessors(id))
        dead = [node for node in self.nodes() if node.id not in alive and node.op != "Input"]
        self._graph.remove_nodes_from(node.id for node in dead)
        return dead

    def copy(self) -> Graph:
        """An independent graph; constants are shared."""
        return Graph(self.name, self.stage, self._graph.copy(), self._next)

    def bind(self, values: Mapping[str, DimLike]) -> Graph:
        """A copy in which symbolic dimensions have these values, in types and in attributes.

        Raises:
            ShapeError: a node whose inputs do not fit with these sizes; it names the node.
        """
        bound = self.copy()
        for node in bound.nodes():
            attributes = bind_attributes(node.attributes, values)
            bound.update(node, outputs=bound._types_of(node, attributes, values), attributes=attributes)
        for source, _, data in bound._graph.edges(data=True):
            data["type"] = bound.type(Value(source, data["output"]))
        return bound

    def _types_of(
        self, node: Node, attributes: Mapping[str, Any], values: Mapping[str, DimLike]
    ) -> tuple[TensorType, ...]:
        """The types of a node's outputs once those of its inputs are bound."""
        if node.op in ("Input", "Constant"):
            return tuple(type.substitute(values) for type in node.outputs)
        try:
            return tuple(node.operator.infer(attributes, [self.type(value) for value in self.inputs(node)]))
        except errors.ShapeError as error:
            error.node = error.node or node.label
            raise

    def __eq__(self, other: object) -> bool:
        """Equal up to node numbers: the same operators, attributes, types, origins, data and connections in order."""
        return isinstance(other, Graph) and self._signature() == other._signature()

    def _signature(self) -> list[tuple[Any, ...]]:
        nodes = self.nodes()
        index = {node.id: position for position, node in enumerate(nodes)}
        return [
            (
                node.op,
                [(name, _comparable(node.attributes[name])) for name in sorted(node.attributes)],
                node.outputs,
                node.origins,
                node.region,
                node.payload.digest if node.payload else None,
                [(index[value.node], value.output) for value in self.inputs(node)],
            )
            for node in nodes
        ]


def _comparable(value: Any) -> Any:
    """An attribute value in which NaN equals NaN."""
    if isinstance(value, tuple):
        return tuple(map(_comparable, value))
    return "nan" if isinstance(value, float) and value != value else value


def bind_attributes(attributes: Mapping[str, Any], values: Mapping[str, DimLike]) -> dict[str, Any]:
    """Attributes in which symbolic dimensions have these values."""
    return {name: _bind(value, values) for name, value in attributes.items()}


def _bind(value: Any, values: Mapping[str, DimLike]) -> Any:
    if isinstance(value, tuple):
        return tuple(_bind(item, values) for item in value)
    return substitute(value, values) if isinstance(value, Dim) else value
