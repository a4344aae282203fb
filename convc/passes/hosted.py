"""What runs on the host: operators that no kernel computes, and everything that depends on a size which only the run
finds out.

Such nodes are *hosted*: NumPy evaluates them between launches, as the numpy executor would. Nodes that only move or
change what the host has, on its way to the host again, are hosted too: a launch for them would cost two waits.

Hosted nodes are gathered into steps. The level of a node is the number of times that kernels and host must have taken
turns before it: a kernel is on the level of what it reads, the host one above the kernels that it reads. All hosted
nodes of one level are one step, and no step waits for itself, because whatever lies between two of its nodes is hosted
and on the same level. There are as many steps as the longest path takes turns, which is the least. A node that
nobody waits for joins a later step.
"""

from __future__ import annotations

from collections.abc import Mapping

from .. import errors
from ..ir import Graph, Kind, Node, Value

_LIGHT = (Kind.ELEMENTWISE, Kind.VIEW, Kind.MOVEMENT, Kind.REDUCTION)
"""Kinds of operators that the host takes along."""


def hosted_nodes(graph: Graph, refused: Mapping[int, str]) -> dict[int, str]:
    """Every node that runs on the host, with the reason. refused: those that have no kernel."""
    found = dict(refused)
    for node in graph.nodes():
        if node.kind is not Kind.STRUCTURAL and node.id not in found and not _is_static(graph, node):
            found[node.id] = errors.HOSTED_FOUND_SIZE
    return found | dict.fromkeys(_taken_along(graph, found), errors.HOSTED_BETWEEN) if found else {}


def _is_static(graph: Graph, node: Node) -> bool:
    return all(type.is_static for type in (*node.outputs, *map(graph.type, graph.inputs(node))))


def _taken_along(graph: Graph, hosted: Mapping[int, str]) -> list[int]:
    """Light nodes that only hosted ones read, or outputs, and that read only what the host has; views in front of
    hosted nodes whatever they read."""
    nodes = graph.nodes()
    has: set[int] = {*hosted}
    for node in nodes:
        operands = {value.node for value in graph.inputs(node) if graph.constant(value) is None}
        given = {id for id in operands if graph.node(id).op == "Input"}
        if node.kind in _LIGHT and operands and operands <= has | given:
            has.add(node.id)
    wanted: set[int] = {*hosted}
    for node in reversed(nodes):
        readers = {use.node for value in graph.values(node) for use in graph.users(value)}
        outputs = {id for id in readers if graph.node(id).op == "Output"}
        known = node.id in has and (not outputs or _reads_hosted(graph, node, hosted, has))
        if (known and readers <= wanted | outputs) or (node.kind is Kind.VIEW and readers and readers <= wanted):
            wanted.add(node.id)
    return [node.id for node in nodes if node.id in wanted and node.id not in hosted]


def _reads_hosted(graph: Graph, node: Node, hosted: Mapping[int, str], has: set[int]) -> bool:
    """Whether something that a hosted node makes leads to a node through ``has``: not the network's inputs alone."""
    stack = [node.id]
    while stack:
        id = stack.pop()
        if id in hosted:
            return True
        stack.extend(value.node for value in graph.inputs(id) if value.node in has)
    return False


def steps(graph: Graph, hosted: Mapping[int, str]) -> list[list[int]]:
    """The hosted nodes of every step, in topological order; steps in the order in which they run."""
    if not hosted:
        return []
    nodes = graph.nodes()
    earliest = _earliest(graph, nodes, hosted)
    latest = _latest(graph, nodes, hosted, earliest)
    levels: dict[int, list[int]] = {}
    for node in nodes:
        if node.id in hosted:
            levels.setdefault(latest[node.id], []).append(node.id)
    return [levels[level] for level in sorted(levels)]


def _earliest(graph: Graph, nodes: list[Node], hosted: Mapping[int, str]) -> dict[int, int]:
    """The lowest level of every node. Level 0 of the host reads nothing that a kernel makes."""
    level: dict[int, int] = {}
    for node in nodes:
        before = [graph.node(value.node) for value in graph.inputs(node)]
        turns = [
            level[source.id] + (source.id not in hosted and source.kind is not Kind.STRUCTURAL and node.id in hosted)
            for source in before
        ]
        level[node.id] = max(turns, default=0)
    return level


def _latest(graph: Graph, nodes: list[Node], hosted: Mapping[int, str], earliest: Mapping[int, int]) -> dict[int, int]:
    """The highest level that each hosted node can have without anybody waiting for it longer."""
    last = max(earliest[id] for id in hosted)
    latest: dict[int, int] = {}
    for node in reversed(nodes):
        if node.id in hosted:
            readers = {use.node for value in graph.values(node) for use in graph.users(value)}
            bounds = [latest.get(id, earliest[id]) for id in readers if graph.node(id).op != "Output"]
            latest[node.id] = min(bounds, default=last)
    return latest


def leaving(graph: Graph, nodes: list[int]) -> tuple[Value, ...]:
    """The values of a step's nodes that something else reads."""
    inside = set(nodes)
    return tuple(
        value for id in nodes for value in graph.values(id) if any(use.node not in inside for use in graph.users(value))
    )
