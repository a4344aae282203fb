"""Tensors as they lie in memory: reading one through its placement, and the slices of a concatenation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..ir import Graph, Node
from ..ir.plan import Layouts, Placement


def strided(memory: np.ndarray, placed: Placement, base: int = 0) -> np.ndarray:
    """A tensor in a buffer, as a view: ``memory`` holds the buffer's bytes, the block begins at byte ``base``."""
    dtype = placed.dtype.numpy
    if 0 in placed.shape:
        return np.empty(placed.shape, dtype)
    first = base + placed.offset * dtype.itemsize
    reach = [(extent - 1) * stride for extent, stride in zip(placed.shape, placed.strides, strict=True)]
    lowest = first + sum(step for step in reach if step < 0) * dtype.itemsize
    elements = memory[lowest : lowest + placed.span * dtype.itemsize].view(dtype)
    strides = tuple(stride * dtype.itemsize for stride in placed.strides)
    return np.lib.stride_tricks.as_strided(elements[(first - lowest) // dtype.itemsize :], placed.shape, strides)


def slot(graph: Graph, layouts: Layouts, concat: Node, position: int) -> Placement:
    """Where operand number ``position`` of a concatenation lies inside the result."""
    operands = graph.inputs(concat)
    axis = concat.attributes["axis"]
    whole = layouts.placements[graph.values(concat)[0]]
    before = sum(int(graph.type(value).shape[axis]) for value in operands[:position])  # type: ignore[arg-type]
    shape = tuple(int(dim) for dim in graph.type(operands[position]).shape)  # type: ignore[arg-type]
    return replace(whole, shape=shape, offset=whole.offset + before * whole.strides[axis])


def in_place(graph: Graph, layouts: Layouts, concat: Node, position: int) -> bool:
    """Whether that operand is written there by its own kernel, so that nothing is copied."""
    operands = graph.inputs(concat)
    repeated = operands[position] in operands[:position]
    return not repeated and layouts.placements.get(operands[position]) == slot(graph, layouts, concat, position)
