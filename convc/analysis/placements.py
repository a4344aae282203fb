"""Tensors as they lie in memory: reading one through its placement, and the slices of a concatenation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir import Graph, Node
from ..ir.plan import Layouts, Placement
from ..passes.borders import RULE as ZERO_BORDERS
from ..passes.shuffles import sliced


def strided(memory: np.ndarray, placed: Placement, base: int = 0) -> np.ndarray:
    """A tensor in a buffer as a view, or as a copy where it does not step evenly.

    memory: the buffer's bytes. base: the byte where the block begins.
    """
    dtype = placed.dtype.numpy
    if 0 in placed.shape:
        return np.empty(placed.shape, dtype)
    first = base + placed.offset * dtype.itemsize
    pairs = [pair for parts in placed.all_parts for pair in parts]
    reach = [(extent - 1) * stride for extent, stride in pairs]
    lowest = first + sum(step for step in reach if step < 0) * dtype.itemsize
    elements = memory[lowest : lowest + placed.span * dtype.itemsize].view(dtype)
    strides = tuple(stride * dtype.itemsize for _, stride in pairs)
    extents = tuple(extent for extent, _ in pairs)
    steps = np.lib.stride_tricks.as_strided(elements[(first - lowest) // dtype.itemsize :], extents, strides)
    return steps.reshape(placed.shape) if placed.parts else steps


def zero_borders(graph: Graph, layouts: Layouts) -> list[dict[str, Any]]:
    """The tensors that lie between zeros, with how many ``lines`` and ``columns`` of them, and those that convolutions
    with padding read all the same, with the ``reason`` why they do not; in running order."""
    found: dict[int, dict[str, Any]] = {}
    for value, placed in layouts.placements.items():
        if placed.border is not None:
            border = placed.border
            found[value.node] = {"lines": border.lines, "columns": border.columns, "reason": None}
    for decline in layouts.declines:
        if decline.rule == ZERO_BORDERS:
            found[decline.source] = {"lines": 0, "columns": 0, "reason": decline.reason}
    nodes = [node for node in graph.nodes() if node.id in found]
    return [{"tensor": node.label, "origins": list(node.origins), **found[node.id]} for node in nodes]


def slot(graph: Graph, layouts: Layouts, concat: Node, position: int) -> Placement:
    """Where operand number ``position`` of a concatenation lies inside the result."""
    operands = graph.inputs(concat)
    axis = concat.attributes["axis"]
    whole = layouts.placements[graph.values(concat)[0]]
    before = sum(int(graph.type(value).shape[axis]) for value in operands[:position])  # type: ignore[arg-type]
    shape = tuple(int(dim) for dim in graph.type(operands[position]).shape)  # type: ignore[arg-type]
    part = sliced(whole, axis, before, shape)
    assert part is not None
    return part


def in_place(graph: Graph, layouts: Layouts, concat: Node, position: int) -> bool:
    """Whether that operand is written there by its own kernel, so that nothing is copied."""
    operands = graph.inputs(concat)
    repeated = operands[position] in operands[:position]
    return not repeated and layouts.placements.get(operands[position]) == slot(graph, layouts, concat, position)
