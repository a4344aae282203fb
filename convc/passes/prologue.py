"""Prologues: elementwise operators in front of a convolution, computed while its operand is loaded.

Batch normalisation and ReLU in front of DenseNet's convolutions, the gate of a squeeze-and-excitation block, and the
conversion and normalisation of an image in front of the first convolution are of this kind. The padding of the
convolution stays zero behind the operators. With C channels, P·Q places of windows of R·S over H·W pixels, K filters
per group in T = ⌈K/`COLUMNS`⌉ tiles of columns, batch N and i instructions for each element, it

- saves 2·e·N·C·H·W bytes of memory (the operators' result, written and read, e = 2 bytes an element) and a launch;
- costs N·C·(T·P·Q·R·S − H·W) elements that are computed again on ordinary units, i instructions each. With few channels
  a step of the main loop covers a line of the filter, and S·C counts as the power of two that fills it.

The policy weighs both sides (`convc.passes.choice`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ..ir import Graph, Kind, Node, Value
from ..ir.problem import FLAT_DEPTH
from .chains import elements, extents
from .choice import ELEMENT_BYTES, ISSUED_PER_MAC, Choice, operator_instructions
from .element_types import odd_types_in_fp32

RULE = "conv-prologue"
MAX_OPERANDS = 6
"""Most tensors that a prologue reads. A guess, not measured."""
MAX_FULL_OPERANDS = 2
"""Most of them that are as large as the convolution's input. A guess, not measured."""
COLUMNS = 128
"""Filters that a block makes from one load of x, about."""
INSTRUCTIONS = 5
"""On ordinary units for each element beside its operators, where x would otherwise go straight to shared memory:
loading, widening, the mask, rounding, storing."""
GATHERED_INSTRUCTIONS = 2
"""The same where x goes through registers anyway, because a step crosses taps: the mask, rounding."""
_LEAST_DEPTH = 16


def propose(graph: Graph, conv: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The elementwise nodes that ``conv`` can read through, or why not; None where there is nothing elementwise.

    taken: nodes that belong to a kernel already, with its seed.
    """
    if conv.op not in ("Conv", "ConvInteger"):
        return None
    x = graph.inputs(conv)[0]
    producer = graph.producer(x)
    if producer.kind is not Kind.ELEMENTWISE:
        return None
    reason = _unfree(graph, producer, conv, taken)
    if reason:
        return reason
    nodes = _chain(graph, conv, x, taken)
    return unfit(graph, conv, nodes) or _choice(graph, conv, nodes)


def unfit(graph: Graph, conv: Node, nodes: Sequence[int]) -> str | None:
    """Why a convolution cannot compute the elementwise ``nodes`` while it loads its operand; None where it can."""
    x, w = graph.inputs(conv)[:2]
    if not graph.type(x).is_static:
        return "its shape is not known"
    if 1 < conv.attributes["groups"] == graph.type(x).shape[1]:
        return "the convolution is depthwise"
    outside = _read(graph, nodes)
    odd = [graph.type(value).dtype for node, _, value in outside if not _readable(graph, node, value)]
    if odd:
        return f"an operator in front of it reads {odd[0]}"
    odd = odd_types_in_fp32(graph, nodes)
    if odd:
        return f"an operator in front of it computes on {odd[0]}"
    values = {value for _, _, value in outside}
    shape = graph.type(x).shape
    full = [value for value in values if graph.type(value).shape == shape]
    computed = [value for value in full if graph.constant(value) is None]
    if not computed or len(full) > MAX_FULL_OPERANDS or len(values) > MAX_OPERANDS:
        return "it would read too many tensors" if computed else "it would read no tensor of its operand's shape"
    moves = any(conv.attributes["pads"]) or any(size != 1 for size in graph.type(w).shape[2:])
    if moves and (len(computed) > 1 or any(_varies(graph, *use) for use in outside if use[2] not in computed)):
        return "an operator in front of its windows or padding reads two tensors that vary from pixel to pixel"
    return None


def _read(graph: Graph, nodes: Sequence[int]) -> list[tuple[Node, int, Value]]:
    """What the nodes read from outside: the reader, its operand's position, and the value."""
    uses = ((graph.node(id), place, value) for id in nodes for place, value in enumerate(graph.inputs(id)))
    return [use for use in uses if use[2].node not in nodes]


def _readable(graph: Graph, reader: Node, value: Value) -> bool:
    dtype = graph.type(value).dtype
    return (dtype.is_float and dtype.itemsize <= 4) or (reader.op == "Cast" and dtype.fits_fp32)


def _varies(graph: Graph, reader: Node, position: int, value: Value) -> bool:
    """Whether an operand has more than one value per image and channel."""
    if reader.op == "BatchNormalization" and position > 0:
        return False
    spatial = len(reader.outputs[0].shape) - 2
    return any(dim != 1 for dim in graph.type(value).shape[-spatial:])


def _unfree(graph: Graph, producer: Node, conv: Node, taken: Mapping[int, int]) -> str | None:
    if producer.id in taken:
        return "it already belongs to another kernel"
    readers = {use.node for use in graph.users(Value(producer.id))}
    return None if readers == {conv.id} else "several operators read it"


def _chain(graph: Graph, conv: Node, x: Value, taken: Mapping[int, int]) -> list[int]:
    """The elementwise nodes behind ``x`` that nobody else reads."""
    inside = {conv.id}
    nodes: list[int] = []
    stack = [x]
    while stack:
        value = stack.pop()
        node = graph.producer(value)
        readers = {use.node for use in graph.users(value)}
        fits = node.kind is Kind.ELEMENTWISE and node.id not in taken and _alike(graph, conv, value, x)
        if node.id in inside or not fits or not readers <= inside:
            continue
        inside.add(node.id)
        nodes.append(node.id)
        stack.extend(graph.inputs(node))
    return sorted(nodes)


def _alike(graph: Graph, conv: Node, value: Value, x: Value) -> bool:
    """Whether a value in front of a convolution's operand is as large; integers may be computed in fp32."""
    if conv.op == "ConvInteger":
        return graph.type(value).shape == graph.type(x).shape
    return graph.type(value) == graph.type(x)


def _choice(graph: Graph, conv: Node, nodes: Sequence[int]) -> Choice:
    """What fusing saves and costs; see the formulas above."""
    x, w = graph.inputs(conv)[:2]
    filters, channels, *kernel = extents(graph, w)
    places = elements(graph, Value(conv.id)) // filters * conv.attributes["groups"]
    depth, gathered = channels * math.prod(kernel), False
    if channels < FLAT_DEPTH and (math.prod(kernel) > 1 or any(conv.attributes["pads"])):
        line = channels * kernel[-1]
        depth, gathered = math.prod(kernel[:-1]) * max(_LEAST_DEPTH, 1 << (line - 1).bit_length()), True
    tiles = math.ceil(filters // conv.attributes["groups"] / COLUMNS)
    again = max(0, places * depth * tiles - elements(graph, x))
    operators: Iterable[str] = (graph.node(id).op for id in nodes)
    issued = (GATHERED_INSTRUCTIONS if gathered else INSTRUCTIONS) + operator_instructions(operators)
    return Choice(
        RULE,
        (*nodes, conv.id),
        conv.id,
        tuple(nodes),
        saved_bytes=2 * ELEMENT_BYTES * elements(graph, x),
        unit_macs=again * issued // ISSUED_PER_MAC,
        why="computing it again for every position of the window",
    )
