"""1x1 convolutions that the depthwise convolution behind them computes again for every tap, and when that pays.

The expansion of an inverted residual makes a large tensor from a small one. The depthwise kernel loads the small one
under each tap instead, expands it by a short product on tensor cores, applies what lies between, rounds as a store
would, puts zeros into the padding, and weighs the result. The depthwise convolution may itself be computed by the 1x1
convolution behind it (`convc.passes.separable`), for each of its T tiles of columns: then the whole inverted residual
is one kernel; otherwise T = 1. With C channels made from D, P·Q pixels of the result, H·W of the expanded tensor,
windows of R·S, batch N and i instructions for each expanded element, fusion

- saves 2·e·N·C·H·W bytes of memory (the expanded tensor, written and read, e = 2 bytes an element) and one launch;
- costs N·C·(T·P·Q·R·S − H·W) elements that are expanded again: D multiply-adds each on tensor cores, i instructions on
  ordinary units; and reads x from L2 for every line of a window and every `COLUMNS` channels.

The policy weighs both sides (`convc.passes.choice`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ..ir import Graph, Node, Value
from .chains import behind, elements, extents, is_depthwise, unfit_chain, unfit_product, unfit_window, unfree
from .choice import ELEMENT_BYTES, ISSUED_PER_MAC, Choice, operator_instructions
from .separable import COLUMNS as TILE_COLUMNS

RULE = "expand-depthwise"
MOST_INPUTS = 64
"""Most channels that are expanded: they are one step of the product."""
COLUMNS = 64
"""Channels that a block makes from one load of x, about."""
INSTRUCTIONS = 5
"""On ordinary units for each expanded element, beside its operators: rounding, widening, the mask, the multiply-add."""
STEP_INSTRUCTIONS = 70
"""Instructions of each thread for a tap, whatever it expands: addresses, masks, barriers; see
`convc.targets.cost.issue_efficiency`."""
VALUES_PER_THREAD, SUMS_PER_THREAD = 16, 8
"""Most elements that a thread expands at once: in a depthwise kernel, and in one that goes on with a product."""


def instructions(operators: Iterable[str]) -> int:
    """Instructions for each expanded element, given the names of the operators behind the product."""
    return INSTRUCTIONS + operator_instructions(operators)


def propose(graph: Graph, depthwise: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The 1x1 convolution and the elementwise operators that ``depthwise`` can compute itself, or why not.

    None where no dense convolution leads to a depthwise one.
    """
    if not is_depthwise(graph, depthwise):
        return None
    chain, sources = behind(graph, depthwise)
    dense = [value for value in sources if graph.producer(value).op == "Conv"]
    if not dense or is_depthwise(graph, graph.producer(dense[0])):
        return None
    expansion = graph.producer(dense[0])
    nodes = [expansion.id, *chain]
    reason = (
        _unfit_expansion(graph, expansion)
        or unfit_window(graph, depthwise)
        or unfit_chain(graph, chain, dense[0], sources)
        or unfree(graph, nodes, depthwise, taken)
    )
    anchor = graph.node(taken.get(depthwise.id, depthwise.id))
    return reason or _choice(graph, expansion, depthwise, anchor, nodes)


def _unfit_expansion(graph: Graph, conv: Node) -> str | None:
    x, w = graph.inputs(conv)[:2]
    if any(size != 1 for size in graph.type(w).shape[2:]):
        return "the convolution in front has a window of its own"
    if any(graph.constant(value) is None for value in graph.inputs(conv)[1:]):
        return "the weights of the 1x1 convolution are computed at run time"
    if extents(graph, x)[1] > MOST_INPUTS:
        return f"it is made from more than {MOST_INPUTS} channels"
    return unfit_product(graph, conv)


def _choice(graph: Graph, expansion: Node, depthwise: Node, anchor: Node, nodes: list[int]) -> Choice:
    """Savings and costs of fusing; see the formulas above.

    anchor: the depthwise convolution, or the 1x1 convolution that computes it already.
    """
    x, made = graph.inputs(expansion)[0], elements(graph, Value(expansion.id))
    inputs, channels = (extents(graph, value)[1] for value in (x, Value(expansion.id)))
    kernel = extents(graph, graph.inputs(depthwise)[1])[2:]
    composed = anchor.id != depthwise.id
    results = elements(graph, Value(depthwise.id))
    filters = extents(graph, Value(anchor.id))[1] if composed else 1
    tiles = math.ceil(filters / TILE_COLUMNS)
    again = max(0, tiles * results * math.prod(kernel) - made)
    bias = ["Add"] * (len(graph.inputs(expansion)) - 2)
    issued = instructions([*bias, *(graph.node(id).op for id in nodes[1:])])
    issued += STEP_INSTRUCTIONS // (SUMS_PER_THREAD if composed else VALUES_PER_THREAD)
    lines = results // channels * inputs * math.prod(kernel[:-1]) * depthwise.attributes["strides"][-1]
    return Choice(
        RULE,
        (*nodes, anchor.id),
        anchor.id,
        tuple(nodes),
        saved_bytes=2 * ELEMENT_BYTES * made,
        unit_macs=again * issued // ISSUED_PER_MAC,
        tensor_macs=again * inputs,
        again_bytes=ELEMENT_BYTES * max(0, tiles * math.ceil(channels / COLUMNS) * lines - elements(graph, x)),
        why="expanding pixels again for every window",
    )
