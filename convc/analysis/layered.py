"""Placing the boxes of a directed graph in layers, from top to bottom.

The method is that of K. Sugiyama, S. Tagawa and M. Toda (1981): layers by longest path, bends where an edge passes a
layer, an order in each layer that crosses few edges (barycentres, swept down and up), then positions that keep edges
straight.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx

SWEEPS = 6
Point = tuple[float, float]


@dataclass(frozen=True)
class Bend:
    """Where an edge passes a layer; edges of one source share their bends."""

    source: Hashable
    layer: int


@dataclass
class Layout:
    """Centres of the boxes, the points that each edge passes between its ends, and the size of the whole."""

    centres: dict[Hashable, Point] = field(default_factory=dict)
    paths: dict[tuple[Hashable, Hashable], list[Point]] = field(default_factory=dict)
    width: float = 0.0
    height: float = 0.0


def arrange(
    graph: nx.DiGraph, sizes: Mapping[Hashable, tuple[float, float]], gap: float = 26.0, rise: float = 56.0
) -> Layout:
    """The layout of an acyclic graph.

    sizes: width and height of each node. gap: between boxes. rise: between layers.
    """
    layer = _layers(graph)
    proper = _with_bends(graph, layer)
    rows = _rows(proper, layer)
    widths = {node: sizes[node][0] if node in sizes else 10.0 for node in proper}
    across = _positions(proper, rows, widths, gap)
    return _placed(graph, proper, rows, across, widths, sizes, layer, rise)


def _layers(graph: nx.DiGraph) -> dict[Hashable, int]:
    """Longest path from the sources; sources themselves move down to just above their first reader."""
    layer = {node: index for index, row in enumerate(nx.topological_generations(graph)) for node in row}
    for node in list(graph):
        if graph.in_degree(node) == 0 and graph.out_degree(node):
            layer[node] = min(layer[reader] for reader in graph.successors(node)) - 1
    return layer


def _with_bends(graph: nx.DiGraph, layer: dict[Hashable, int]) -> nx.DiGraph:
    """The graph whose edges join neighbouring layers only; the layers of bends are entered into ``layer``."""
    proper = nx.DiGraph()
    proper.add_nodes_from(graph)
    for source, target in graph.edges():
        chain = [source, *(Bend(source, index) for index in range(layer[source] + 1, layer[target])), target]
        layer |= {bend: bend.layer for bend in chain[1:-1]}
        nx.add_path(proper, chain)
    return proper


def _rows(proper: nx.DiGraph, layer: Mapping[Hashable, int]) -> list[list[Hashable]]:
    """The nodes of each layer from left to right."""
    rows: list[list[Hashable]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for node in _depth_first(proper):
        rows[layer[node]].append(node)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        order = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for index in order:
            fixed = {node: place for place, node in enumerate(rows[index - 1 if down else index + 1])}
            neighbours = proper.predecessors if down else proper.successors
            own = {node: float(place) for place, node in enumerate(rows[index])}
            keys = {node: _mean([fixed[n] for n in neighbours(node)], own[node]) for node in rows[index]}
            rows[index].sort(key=keys.__getitem__)
    return rows


def _depth_first(proper: nx.DiGraph) -> list[Hashable]:
    """All nodes, each branch together, so that the first order is already a fair one."""
    seen: dict[Hashable, None] = {}
    for root in (node for node in proper if proper.in_degree(node) == 0):
        seen |= dict.fromkeys(node for node in nx.dfs_preorder_nodes(proper, root) if node not in seen)
    return list(seen)


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _positions(
    proper: nx.DiGraph, rows: Sequence[Sequence[Hashable]], widths: Mapping[Hashable, float], gap: float
) -> dict[Hashable, float]:
    """Horizontal centres: each node moves towards its neighbours as far as the order and the gaps allow."""
    across: dict[Hashable, float] = {}
    for row in rows:
        for node, place in zip(row, _packed([0.0] * len(row), [widths[n] for n in row], gap), strict=True):
            across[node] = place
    for sweep in range(4 * SWEEPS):
        neighbours = (proper.predecessors, proper.successors)[sweep % 2]
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [_mean([across[n] for n in neighbours(node)], across[node]) for node in row]
            for node, place in zip(row, _packed(wanted, [widths[n] for n in row], gap), strict=True):
                across[node] = place
    return across


def _packed(wanted: Sequence[float], widths: Sequence[float], gap: float) -> list[float]:
    """Centres as near to the wanted ones as boxes that do not overlap allow (least squares, by merging blocks)."""
    blocks: list[list[float]] = []  # sum of wanted − offset, count, width so far
    offsets: list[float] = []
    reach = 0.0
    for place, width in zip(wanted, widths, strict=True):
        offsets.append(reach + width / 2)
        blocks.append([place - offsets[-1], 1.0])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
        reach += width + gap
    shifts = [total / count for total, count in blocks for _ in range(int(count))]
    return [shift + offset for shift, offset in zip(shifts, offsets, strict=True)]


def _placed(
    graph: nx.DiGraph,
    proper: nx.DiGraph,
    rows: Sequence[Sequence[Hashable]],
    across: Mapping[Hashable, float],
    widths: Mapping[Hashable, float],
    sizes: Mapping[Hashable, tuple[float, float]],
    layer: Mapping[Hashable, int],
    rise: float,
) -> Layout:
    left = min((across[node] - widths[node] / 2 for node in proper), default=0.0)
    layout = Layout(width=max((across[node] + widths[node] / 2 - left for node in proper), default=0.0))
    spans: list[tuple[float, float]] = []
    top = 0.0
    for row in rows:
        tall = max((sizes[node][1] for node in row if node in sizes), default=0.0)
        spans.append((top, top + tall))
        top += tall + rise
    layout.height = max(top - rise, 0.0)
    for node in graph:
        upper, lower = spans[layer[node]]
        layout.centres[node] = (across[node] - left, (upper + lower) / 2)
    for source, target in graph.edges():
        bends = [Bend(source, index) for index in range(layer[source] + 1, layer[target])]
        points = [(across[bend] - left, edge) for bend in bends for edge in spans[bend.layer]]
        layout.paths[source, target] = points
    return layout
