"""What holds of a graph from which stage on: one table, run over the graph after every pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import networkx as nx

from .. import errors
from .graph import Graph, Node, Value
from .operator import Kind
from .types import DType, TensorType

STAGES = ("imported", "canonical", "channels-last", "fused", "scheduled", "planned")
MAX_RANK = 8
"""Rank up to which kernels can index a tensor."""

Violations = Iterator[tuple[Node | None, str]]
"""The node at fault, if it is one, and what was found."""


@dataclass(frozen=True)
class Invariant:
    """``expected`` holds from ``stage`` on; ``violations`` finds where it does not."""

    stage: str
    expected: str
    violations: Callable[[Graph], Violations]


def check(graph: Graph, stage: str | None = None) -> None:
    """Checks every invariant that holds at ``stage`` (default: the graph's own), in the order of the table.

    Raises:
        PassError: the first that does not hold, with the node.
        UsageError: an unknown stage.
    """
    stage = graph.stage if stage is None else stage
    if stage not in STAGES:
        raise errors.one_of(stage, STAGES, "stage")
    reached = STAGES.index(stage)
    for invariant in INVARIANTS:
        if STAGES.index(invariant.stage) > reached:
            continue
        for node, found in invariant.violations(graph):
            raise errors.broken_invariant(stage, invariant.expected, node.label if node else None, found)


def _all(graph: Graph) -> Iterator[Node]:
    """Every node by number, which needs no order between them."""
    return (graph.node(id) for id in sorted(graph.networkx))


def _acyclic(graph: Graph) -> Violations:
    if not nx.is_directed_acyclic_graph(graph.networkx):
        source = nx.find_cycle(graph.networkx)[0][0]
        yield graph.node(source), f"a cycle through %{source}"


def _connected(graph: Graph) -> Violations:
    for node in _all(graph):
        positions = sorted(position for _, _, position in graph.networkx.in_edges(node.id, keys=True))
        if positions != list(range(len(positions))):
            yield node, f"input positions {positions}"


def _sources(graph: Graph) -> Violations:
    for node in _all(graph):
        if node.op in ("Input", "Constant") and graph.networkx.in_degree(node.id):
            yield node, f"{node.op} with inputs"
        if node.op == "Output" and graph.networkx.out_degree(node.id):
            yield node, "an Output that is read"


def _edge_types(graph: Graph) -> Violations:
    for source, target, data in graph.networkx.edges(data=True):
        outputs = graph.node(source).outputs
        if not 0 <= data["output"] < len(outputs):
            yield graph.node(target), f"output {data['output']} of a node that has {len(outputs)}"
        elif outputs[data["output"]] != data["type"]:
            yield graph.node(target), f"an edge of {data['type']} from an output of {outputs[data['output']]}"


def _complete_attributes(graph: Graph) -> Violations:
    for node in _all(graph):
        if set(node.attributes) != set(node.operator.attributes):
            yield node, f"attributes {', '.join(sorted(node.attributes)) or '(none)'} of {node.op}"


def _inferred_types(graph: Graph) -> Violations:
    for node in _all(graph):
        if node.op in ("Input", "Constant"):
            continue
        try:
            inferred = tuple(node.operator.infer(node.attributes, [graph.type(value) for value in graph.inputs(node)]))
        except errors.ShapeError as error:
            yield node, str(error)
        else:
            if inferred != node.outputs:
                yield node, f"{_listed(node.outputs)} where {node.op} gives {_listed(inferred)}"


def _listed(types: tuple[TensorType, ...]) -> str:
    return " and ".join(map(str, types))


def _constant_data(graph: Graph) -> Violations:
    for node in _all(graph):
        if (node.payload is not None) != (node.op == "Constant"):
            yield node, f"{node.op} {'with' if node.payload else 'without'} data"
        elif node.payload is not None and node.payload.has_data:
            array = node.payload.array
            held = TensorType(DType.of(array.dtype), array.shape)
            if held != node.outputs[0]:
                yield node, f"data of {held} in a constant of {node.outputs[0]}"


def _names(graph: Graph) -> Violations:
    if not graph.graph_outputs:
        yield None, "no output"
    for what, nodes in (("input", graph.graph_inputs), ("output", graph.graph_outputs)):
        counts = Counter(node.attributes["name"] for node in nodes)
        for node in nodes:
            name = node.attributes["name"]
            if not isinstance(name, str) or not name:
                yield node, f"an {what} without a name"
            elif counts[name] > 1:
                yield node, f"{counts[name]} {what}s named {name!r}"


def _ranks(graph: Graph) -> Violations:
    for node in _all(graph):
        for type in node.outputs:
            if type.rank > MAX_RANK:
                yield node, f"{type}"


def _alive(graph: Graph) -> Violations:
    alive = {node.id for node in graph.graph_outputs}
    for id in tuple(alive):
        alive |= nx.ancestors(graph.networkx, id)
    for node in _all(graph):
        if node.id not in alive and node.op != "Input":
            yield node, f"{node.op} that no output depends on"


def _folded(graph: Graph) -> Violations:
    """A constant that is an output is copied into its buffer."""
    for node in _all(graph):
        inputs = graph.inputs(node)
        if node.op == "Copy" or node.kind is Kind.STRUCTURAL or not inputs:
            continue
        if all(_is_constant(graph, value) for value in inputs):
            yield node, f"{node.op} of constants"


def _is_constant(graph: Graph, value: Value) -> bool:
    return graph.producer(value).op == "Constant"


def _structural_regions(graph: Graph) -> Violations:
    for node in _all(graph):
        if node.kind is Kind.STRUCTURAL and node.region is not None:
            yield node, f"{node.op} in region {node.region}"


def _region_order(graph: Graph) -> Violations:
    """Regions as single nodes must leave the graph acyclic, or no order of kernels exists."""
    place = {
        node.id: (node.region is not None, node.region if node.region is not None else node.id) for node in _all(graph)
    }
    regions: nx.DiGraph = nx.DiGraph()
    regions.add_edges_from((place[a], place[b]) for a, b in graph.networkx.edges() if place[a] != place[b])
    if not nx.is_directed_acyclic_graph(regions):
        cycle = [number for (fused, number), _ in nx.find_cycle(regions) if fused]
        yield None, f"regions {', '.join(map(str, cycle))} that wait for each other"


INVARIANTS = (
    Invariant("imported", "no cycles", _acyclic),
    Invariant("imported", "every input position connected exactly once", _connected),
    Invariant("imported", "inputs and constants that read nothing, outputs that nothing reads", _sources),
    Invariant("imported", "edges of their producer's type", _edge_types),
    Invariant("imported", "the operator's attributes, all of them", _complete_attributes),
    Invariant("imported", "the types that the operator infers", _inferred_types),
    Invariant("imported", "constants that hold data of their type", _constant_data),
    Invariant("imported", "at least one output, and unique names of inputs and of outputs", _names),
    Invariant("canonical", f"tensors of rank {MAX_RANK} at most", _ranks),
    Invariant("canonical", "no dead nodes", _alive),
    Invariant("canonical", "no operator whose inputs are all constants", _folded),
    Invariant("fused", "inputs, constants and outputs outside of all regions", _structural_regions),
    Invariant("fused", "regions that can run one after the other", _region_order),
)
