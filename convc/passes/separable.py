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

from ..ir import Graph, Node, Value
from .chains import behind, elements, extents, is_depthwise, unfit_chain, unfit_product, unfit_window, unfree
from .choice import ELEMENT_BYTES, Choice

RULE = "depthwise-pointwise"
COLUMNS = 256
"""Most columns of a tile."""


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
        or unfit_chain(graph, chain, windows[0], sources)
        or unfree(graph, nodes, conv, taken)
    )
    return reason or _choice(graph, depthwise, conv, nodes)


def _choice(graph: Graph, depthwise: Node, conv: Node, nodes: list[int]) -> Choice:
    """Savings and costs of fusing; see the formulas above."""
    x, w = graph.inputs(depthwise)[:2]
    filters = extents(graph, Value(conv.id))[1]
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
