"""Pictures of a graph: one rounded box for each fused kernel, as SVG, or as a page with the kernels' source.

Names come from the user's model: the templates escape everything that they are given. The files refer to nothing
outside themselves and hold no script.
"""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import jinja2
import networkx as nx

from ..ir import Graph, Kind, Node, Value
from .layered import Point, arrange
from .render import printable

MARGIN = 24.0
TITLE = 30.0
"""Height that the title takes."""
LINE = 15.0
CHARACTER = 6.7
"""Width of a character of the boxes' text at 11 px, rounded up."""
COLUMNS = 46
NAMES_SHOWN = 6
STEM = 18.0
"""Edges go straight down this far, so that the label beside them stays legible."""

COLOURS = {
    "convolution": "#dbe9fb",
    "matrix product": "#d7f0ea",
    "pooling": "#fdeccd",
    "reduction": "#f9dcdc",
    "elementwise": "#e9e2f8",
    "movement": "#e8e8e3",
    "no kernel": "#ffffff",
    "on the host": "#fbe3ee",
    "input or output": "#f3f4f6",
}


HOST = "on the host"
"""Stands for a kernel, and for its family, where the host computes a region."""


@dataclass(frozen=True)
class Step:
    """One launch of a region, or the host's step."""

    kernel: str
    equation: str
    rules: tuple[str, ...]
    tile: str
    traffic_bytes: int
    source: str


@dataclass(frozen=True)
class Box:
    """A region, or a node that is in none, as it is drawn: lines of text with their styles, and its place."""

    id: str
    family: str
    lines: tuple[tuple[str, str], ...]
    layers: tuple[str, ...]
    steps: Sequence[Step]
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def colour(self) -> str:
        return COLOURS[self.family]


@dataclass(frozen=True)
class Arrow:
    """An edge: its path, and the type of its tensor with the place of that label; no label where another has it."""

    path: str
    label: str
    x: float
    y: float


@dataclass
class Picture:
    """Everything that the templates show."""

    title: str
    width: float = 0.0
    height: float = 0.0
    boxes: list[Box] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)
    legend: list[tuple[str, str]] = field(default_factory=list)


def draw(graph: Graph, title: str, steps: Mapping[int, Sequence[Step]], kind: str) -> str:
    """The text of an ``.svg`` or ``.html`` file. steps: the launches of each region."""
    return environment().get_template(f"picture{kind}.j2").render(picture=depict(graph, title, steps))


@cache
def environment() -> jinja2.Environment:
    """The templates of pages and pictures; everything that is put into them is escaped."""
    loader = jinja2.PackageLoader("convc.analysis", "templates")
    return jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def depict(graph: Graph, title: str, steps: Mapping[int, Sequence[Step]]) -> Picture:
    """The picture of a graph: constants are left out, and nodes of one region are one box."""
    members: dict[Hashable, list[Node]] = {}
    for node in graph.nodes():
        if node.op != "Constant":
            members.setdefault(_owner(node), []).append(node)
    boxes = {key: _box(index, nodes, steps) for index, (key, nodes) in enumerate(members.items())}
    edges = _edges(graph)
    quotient = nx.DiGraph()
    quotient.add_nodes_from(boxes)
    quotient.add_edges_from(edges)
    layout = arrange(quotient, {key: (box.width, box.height) for key, box in boxes.items()})
    picture = Picture(printable(title), layout.width + 2 * MARGIN, layout.height + 2 * MARGIN + TITLE)
    placed = {key: _moved(box, layout.centres[key]) for key, box in boxes.items()}
    picture.boxes = list(placed.values())
    picture.arrows = _arrows(graph, edges, placed, layout.paths)
    families = {box.family for box in picture.boxes}
    picture.legend = [(family, colour) for family, colour in COLOURS.items() if family in families]
    return picture


def _owner(node: Node) -> Hashable:
    """The key of the box that a node is drawn in."""
    return ("region", node.region) if node.region is not None else ("node", node.id)


def _edges(graph: Graph) -> dict[tuple[Hashable, Hashable], Value]:
    """The tensors between boxes; of several between the same two, the first."""
    found: dict[tuple[Hashable, Hashable], Value] = {}
    for node in graph.nodes():
        for value in graph.inputs(node):
            source, target = graph.producer(value), _owner(node)
            if source.op != "Constant" and _owner(source) != target:
                found.setdefault((_owner(source), target), value)
    return found


def _family(nodes: Sequence[Node], has_kernel: bool) -> str:
    kinds = {node.kind for node in nodes}
    ops = {node.op for node in nodes}
    if ops & {"Input", "Output"}:
        return "input or output"
    if "Conv" in ops:
        return "convolution"
    for kind, family in (
        (Kind.CONTRACTION, "matrix product"),
        (Kind.WINDOW, "pooling"),
        (Kind.REDUCTION, "reduction"),
        (Kind.ELEMENTWISE, "elementwise"),
    ):
        if kind in kinds:
            return family
    return "movement" if has_kernel or Kind.MOVEMENT in kinds else "no kernel"


def _box(index: int, nodes: Sequence[Node], steps: Mapping[int, Sequence[Step]]) -> Box:
    region = nodes[0].region
    own = steps.get(region, ()) if region is not None else ()
    layers = tuple(printable(name) for name in dict.fromkeys(name for node in nodes for name in node.origins))
    family = _family(nodes, bool(own))
    if steps and not own and family != "input or output":
        family = "no kernel"
    if any(step.kernel == HOST for step in own):
        family = HOST
    lines = _lines(nodes, layers, own, family)
    width = max(len(text) for text, _ in lines) * CHARACTER + 22
    return Box(f"box{index}", family, lines, layers, own, width=width, height=len(lines) * LINE + 14)


def _lines(
    nodes: Sequence[Node], layers: Sequence[str], steps: Sequence[Step], family: str
) -> tuple[tuple[str, str], ...]:
    """The text of a box: the layers, the equations (the operators where there is no kernel), and the kernels."""
    shown = [name if len(name) <= COLUMNS else f"…{name[1 - COLUMNS :]}" for name in layers[:NAMES_SHOWN]]
    more = [f"and {len(layers) - NAMES_SHOWN} more"] if len(layers) > NAMES_SHOWN else []
    names = textwrap.wrap(", ".join([*shown, *more]), COLUMNS) or [nodes[0].op]
    lines = [(text, "name") for text in names]
    if family == "input or output":
        return (*lines, (nodes[0].op.lower(), "kernel"))
    equations = list(dict.fromkeys(step.equation for step in steps)) or [" · ".join(node.op.lower() for node in nodes)]
    for equation in equations[:3]:
        wrapped = textwrap.wrap(printable(equation), COLUMNS, max_lines=3, placeholder=" …")
        lines += [(text, "equation") for text in wrapped]
    kernels = list(dict.fromkeys(step.kernel for step in steps))
    lines += [(f"{kernel}", "kernel") for kernel in kernels[:4]]
    if len(kernels) > 4:
        lines.append((f"and {len(kernels) - 4} more kernels", "kernel"))
    return (*lines, ("no kernel needed", "kernel")) if family == "no kernel" else tuple(lines)


def _moved(box: Box, centre: Point) -> Box:
    x, y = centre[0] - box.width / 2 + MARGIN, centre[1] - box.height / 2 + MARGIN + TITLE
    return Box(box.id, box.family, box.lines, box.layers, box.steps, x, y, box.width, box.height)


def _arrows(
    graph: Graph,
    edges: Mapping[tuple[Hashable, Hashable], Value],
    boxes: Mapping[Hashable, Box],
    paths: Mapping[tuple[Hashable, Hashable], Sequence[Point]],
) -> list[Arrow]:
    """The edges as curves. A tensor that several boxes read is labelled once, below the box that makes it."""
    labelled: set[Value] = set()
    arrows = []
    for (source, target), value in edges.items():
        above, below = boxes[source], boxes[target]
        start = (above.x + above.width / 2, above.y + above.height)
        end = (below.x + below.width / 2, below.y)
        bends = [(x + MARGIN, y + MARGIN + TITLE) for x, y in paths[source, target]]
        points = [start, (start[0], start[1] + STEM), *bends, end]
        label = "" if value in labelled else _type_text(graph, value)
        labelled.add(value)
        arrows.append(Arrow(_curve(points), label, start[0] + 7, start[1] + 15))
    return arrows


def _type_text(graph: Graph, value: Value) -> str:
    type = graph.type(value)
    return printable(f"{type.dtype} {'×'.join(str(dim) for dim in type.shape) or 'scalar'}")


def _curve(points: Sequence[Point]) -> str:
    """A path that leaves and enters boxes vertically."""
    parts = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        if abs(x1 - x0) < 0.5:
            parts.append(f"L{x1:.1f} {y1:.1f}")
        else:
            middle = (y0 + y1) / 2
            parts.append(f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}")
    return "".join(parts)
