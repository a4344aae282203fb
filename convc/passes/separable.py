"""Depthwise convolutions that the 1x1 convolution behind them computes in registers, and when that pays.

The 1x1 convolution needs every channel of a pixel, so each tile of its columns (at most `COLUMNS` filters) computes the
depthwise part again. With C channels, P·Q pixels, a window of R·S, batch N and T = ⌈K / COLUMNS⌉ column tiles, fusion

- saves 2·e·N·C·P·Q bytes of memory (the intermediate, written and read, e = 2 bytes an element) and one launch;
- costs (T − 1)·N·C·P·Q·R·S multiply-adds on ordinary units, and (T − 1)·e·N·C·H·W bytes from L2.

The policy weighs both sides (`convc.passes.choice`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir import Graph, Kind, Node, Value
from .choice import ELEMENT_BYTES, Choice

RULE = "depthwise-pointwise"
COLUMNS = 256
"""Most columns of a tile."""
MAX_OPERANDS = 6
"""Most tensors that the operators between the convolutions read, the depthwise bias not counted."""


def propose(graph: Graph, conv: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The depthwise convolution and the elementwise operators that ``conv`` can compute itself, or why not.

    None where no depthwise convolution leads to ``conv``.
    """
    if conv.op != "Conv":
        return None
    chain, sources = behind(graph, conv)
    windows = [value for value in sources if is_depthwise(graph, graph.producer(value))]
    if not windows or is_depthwise(graph, conv):
        return None
    depthwise = graph.producer(windows[0])
    nodes = [depthwise.id, *chain]
    reason = (
        unfit_product(graph, conv)
        or unfit_window(graph, depthwise)
        or unfit_chain(graph, chain, sources - {windows[0]})
        or unfree(graph, nodes, conv)
    )
    return reason or _choice(graph, depthwise, conv, nodes)


def behind(graph: Graph, conv: Node) -> tuple[list[int], set[Value]]:
    """Elementwise operators of the input's shape that lead to ``conv``, and what they read that is not constant; or
    what ``conv`` itself reads."""
    shape = graph.type(graph.inputs(conv)[0]).shape
    chain: list[int] = []
    sources: set[Value] = set()
    stack = [graph.inputs(conv)[0]]
    while stack:
        value = stack.pop()
        node = graph.producer(value)
        if node.kind is Kind.ELEMENTWISE and graph.type(value).shape == shape:
            if node.id not in chain:
                chain.append(node.id)
                stack.extend(graph.inputs(node))
        elif graph.constant(value) is None:
            sources.add(value)
    return sorted(chain), sources


def is_depthwise(graph: Graph, node: Node) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    if node.op != "Conv" or node.attributes["groups"] == 1:
        return False
    return bool(graph.type(graph.inputs(node)[0]).shape[1] == node.attributes["groups"])


def unfit_product(graph: Graph, conv: Node) -> str | None:
    """Why a convolution cannot compute windows while it loads its operand; None where it can."""
    if any(size != 1 for size in graph.type(graph.inputs(conv)[1]).shape[2:]):
        return "every position of the window would compute it again"
    if any(conv.attributes["pads"]):
        return "the 1x1 convolution pads its input, and the padding must stay zero"
    if any(step != 1 for step in conv.attributes["strides"]):
        return "the 1x1 convolution skips pixels"
    return "the 1x1 convolution is grouped" if conv.attributes["groups"] > 1 else None


def unfit_window(graph: Graph, depthwise: Node) -> str | None:
    """Why a depthwise convolution cannot be computed beside a 1x1 convolution; None where it can."""
    x, w = graph.inputs(depthwise)[:2]
    if graph.type(w).shape[0] != graph.type(x).shape[1]:
        return "the depthwise convolution has several filters per channel"
    if any(graph.constant(value) is None for value in graph.inputs(depthwise)[1:]):
        return "the depthwise weights are computed at run time"
    return None


def unfit_chain(graph: Graph, chain: list[int], others: set[Value]) -> str | None:
    """Why a kernel cannot compute the operators of ``chain`` between windows and product; None where it can.

    others: what they read that is neither constant nor the windows' result.
    """
    if others:
        return "an operator between them reads a tensor that is not constant"
    operands = {value for id in chain for value in graph.inputs(id) if graph.constant(value) is not None}
    if any(not _per_channel(graph, value, id) for id in chain for value in graph.inputs(id) if value in operands):
        return "an operator between them reads a constant that varies from pixel to pixel"
    if len(operands) > MAX_OPERANDS:
        return f"the operators between them read more than {MAX_OPERANDS} tensors"
    odd = [type.dtype for id in chain for type in graph.node(id).outputs if not type.dtype.is_float]
    return f"a result between them is {odd[0]}" if odd else None


def _per_channel(graph: Graph, value: Value, reader: int) -> bool:
    """Whether a constant is a number or has one value per channel."""
    shape = graph.type(value).shape
    if graph.node(reader).op == "BatchNormalization" or elements(graph, value) == 1:
        return True
    channels = len(shape) - (len(graph.node(reader).outputs[0].shape) - 1)
    return all(dim == 1 for axis, dim in enumerate(shape) if axis != channels)


def unfree(graph: Graph, nodes: list[int], conv: Node) -> str | None:
    """Whether anything but these nodes and ``conv`` reads what they make."""
    inside = {*nodes, conv.id}
    readers = {use.node for id in nodes for use in graph.users(Value(id))}
    if any(graph.node(id).op == "Output" for id in readers):
        return "it is a graph output"
    return None if readers <= inside else "several operators read it"


def _choice(graph: Graph, depthwise: Node, conv: Node, nodes: list[int]) -> Choice:
    """Savings and costs of fusing; see the formulas above."""
    x, w = graph.inputs(depthwise)[:2]
    filters = int(graph.type(Value(conv.id)).shape[1])  # type: ignore[arg-type]
    again = math.ceil(filters / COLUMNS) - 1
    middle = elements(graph, Value(depthwise.id))
    taps = elements(graph, w) // depthwise.attributes["groups"]
    return Choice(
        RULE,
        (*nodes, conv.id),
        conv.id,
        tuple(nodes),
        saved_bytes=2 * ELEMENT_BYTES * middle,
        unit_macs=again * middle * taps,
        again_bytes=again * ELEMENT_BYTES * elements(graph, x),
        why=f"computing it again for every {COLUMNS} filters",
    )


def elements(graph: Graph, value: Value) -> int:
    """Elements of a value whose shape is known."""
    shape: list[int] = [int(dim) for dim in graph.type(value).shape]  # type: ignore[arg-type]
    return math.prod(shape)
