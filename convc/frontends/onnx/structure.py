"""Checks and orderings of a model's graphs that need no values: versions, names, sizes, order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from convc import errors

from . import limits

FunctionKey = tuple[str, str, str]
Functions = Mapping[FunctionKey, onnx.FunctionProto]


def label(node: NodeProto) -> str:
    """The node's name, or one made of its operator and first output."""
    return node.name or f"{node.op_type}:{next(iter(node.output), '')}"


def key(node: NodeProto) -> FunctionKey:
    return (normal(node.domain), node.op_type, node.overload)


def normal(domain: str) -> str:
    """The default operator set has two spellings."""
    return "" if domain == "ai.onnx" else domain


# -- versions ----------------------------------------------------------------------------------------------------------
def check_model(model: onnx.ModelProto) -> None:
    """Raises `LoadError` for a model without its required parts or of a version that convc does not read."""
    if not model.HasField("ir_version"):
        raise errors.model_without("IR version")
    if not limits.OLDEST_IR <= model.ir_version <= onnx.IR_VERSION:
        raise errors.version_out_of_range("IR version", model.ir_version, limits.OLDEST_IR, onnx.IR_VERSION)
    if not model.HasField("graph"):
        raise errors.model_without("graph")
    if not model.graph.output:
        raise errors.model_without("outputs")


def opsets(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Operator set versions by domain.

    Raises:
        LoadError: none for the default domain, one domain twice, or a version out of range.
    """
    versions: dict[str, int] = {}
    for entry in imports:
        domain = normal(entry.domain)
        if domain in versions:
            raise errors.domain_imported_twice(domain)
        versions[domain] = entry.version
        newest = onnx.defs.onnx_opset_version() if not domain else max(entry.version, 1)
        if not 1 <= entry.version <= newest:
            raise errors.version_out_of_range(f"opset {domain}".strip(), entry.version, 1, newest)
    if not versions:
        raise errors.model_without("operator set")
    return versions


# -- sizes -------------------------------------------------------------------------------------------------------------
def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def _all_nodes(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """These nodes and those in their subgraphs. Raises `LimitError` where they nest too deeply."""
    stack: list[tuple[Iterable[NodeProto], int]] = [(nodes, 0)]
    while stack:
        level, depth = stack.pop()
        if depth > limits.SUBGRAPH_DEPTH:
            raise errors.too_many("levels of subgraphs", depth, limits.SUBGRAPH_DEPTH)
        for node in level:
            yield node
            stack.extend((graph.node, depth + 1) for graph in subgraphs(node))


def check_sizes(model: onnx.ModelProto) -> dict[FunctionKey, onnx.FunctionProto]:
    """The local functions by key, once the model is known to be small enough with all of them inlined.

    Sizes are counted once a function and added up, never by inlining.

    Raises:
        LoadError: functions that call themselves, or two of one name. LimitError: too many nodes, or too deep.
    """
    functions: dict[FunctionKey, onnx.FunctionProto] = {}
    for function in model.functions:
        name = (normal(function.domain), function.name, function.overload)
        if name in functions:
            raise errors.duplicate_name("local function", function.name)
        functions[name] = function
    bodies = {name: Counter(map(key, _all_nodes(function.node))) for name, function in functions.items()}
    called = {name: [callee for callee in body if callee in functions] for name, body in bodies.items()}
    try:
        order = list(TopologicalSorter(called).static_order())
    except CycleError as error:
        raise errors.recursive_function(error.args[1][0][1]) from None
    sizes: dict[FunctionKey, int] = {}
    for name in order:
        sizes[name] = _size(bodies[name], sizes)
    total = _size(Counter(map(key, _all_nodes(model.graph.node))), sizes)
    if total > limits.NODES:
        raise errors.too_many("nodes after inlining the local functions", total, limits.NODES)
    return functions


def _size(body: Counter[FunctionKey], sizes: Mapping[FunctionKey, int]) -> int:
    return sum(count * (1 + sizes.get(name, 0)) for name, count in body.items())


# -- names and order ---------------------------------------------------------------------------------------------------
def check_unique(what: str, names: Iterable[str], taken: set[str]) -> None:
    """Adds ``names`` to ``taken``. Raises `LoadError` for one that is there already."""
    for name in names:
        if name in taken:
            raise errors.duplicate_name(what, name)
        taken.add(name)


def names_read(nodes: Iterable[NodeProto]) -> set[str]:
    """Every name that nodes or their subgraphs read, results of subgraphs included."""
    read: set[str] = set()
    for node in _all_nodes(nodes):
        read.update(node.input)
        for graph in subgraphs(node):
            read.update(output.name for output in graph.output)
    return read


def ordered(nodes: Sequence[NodeProto]) -> Sequence[NodeProto]:
    """The nodes so that each comes after those that it reads; the given order where that is one.

    Raises:
        LoadError: a cycle.
    """
    reads = [names_read([node]) for node in nodes]
    producer = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{producer[name] for name in names if name in producer} for names in reads]
    if all(not before or max(before) < index for index, before in enumerate(waits)):
        return nodes
    try:
        return [nodes[index] for index in TopologicalSorter(dict(enumerate(waits))).static_order()]
    except CycleError as error:
        raise errors.cyclic_graph([label(nodes[index]) for index in error.args[1]]) from None
