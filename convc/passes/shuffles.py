"""Movements that the writer does: a kernel stores each element where reshapes and transpositions behind it put it.

A channel shuffle is Reshape, Transpose, Reshape, and so is the movement from depth to space. The last Reshape merges
dimensions that no longer lie behind one another, so only a copy can do it once the tensor is in memory. Going backwards
through the views, from where the last result will lie, gives every dimension of the first tensor as a few (extent,
stride) pairs, its parts: k becomes k // 4 · 1 + k % 4 · 8, say. The kernel that makes the tensor stores it there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir import Graph, Kind, Node, Value
from ..ir.plan import FusedGraph, Placement, Region
from .pooling import RULE as POOLED

RULE = "shuffle-in-writer"
READER_RULE = "shuffle-in-reader"

Pair = tuple[int, int]
"""(extent, stride)."""
Parts = tuple[tuple[Pair, ...], ...]
"""For every dimension its pairs, outermost first."""


def before(graph: Graph, views: Sequence[Node], placed: Placement) -> list[Placement] | None:
    """Where the operand of each of ``views``, one behind the other, lies, given where the last result lies.

    None where some dimension would need a part of another one's step.
    """
    found: list[Placement] = []
    parts = placed.all_parts
    for node in reversed(views):
        shape = tuple(int(dim) for dim in graph.type(graph.inputs(node)[0]).shape)  # type: ignore[arg-type]
        if node.op == "Transpose":
            axes = node.attributes["perm"]
            parts = tuple(parts[axes.index(axis)] for axis in range(len(axes)))
        else:
            divided = regrouped(parts, shape)
            if divided is None:
                return None
            parts = divided
        found.insert(0, _placement(placed, shape, parts))
    return found


def read_through(fused: FusedGraph, value: Value, source: Placement) -> Placement | None:
    """Where a reshaped tensor lies if those who read it step through its operand's memory, unevenly; None where
    some of them cannot: all but elementwise operators that no prologue holds."""
    graph = fused.graph
    shape = tuple(int(dim) for dim in graph.type(value).shape)  # type: ignore[arg-type]
    parts = regrouped(source.all_parts, shape)
    if parts is None:
        return None
    uneven = {axis for axis, pairs in enumerate(parts) if len(pairs) > 1}
    regions = fused.region_of()
    for use in graph.users(value):
        reader, region = graph.node(use.node), regions.get(use.node)
        if region is None or reader.kind is not Kind.ELEMENTWISE or reader.op == "Copy" or reader.id in region.prologue:
            return None
        lead = len(reader.outputs[0].shape) - len(shape)
        whole = region.anchor is None or 1 - lead not in uneven
        if not whole or 0 in uneven or region.pool is not None or POOLED in region.rules:
            return None
    return _placement(source, shape, parts)


def unfit(fused: FusedGraph, region: Region, placed: Placement | None, homes: Mapping[Value, Value]) -> str | None:
    """Why a region cannot store its result where ``placed`` says, None for nowhere; None where it can.

    homes: what is written straight into which concatenation.
    """
    graph = fused.graph
    node = graph.node(region.output.node)
    if placed is None:
        return "the dimensions do not divide into those of the result"
    if placed.parts and len(placed.parts[0]) > 1:
        return "it would take the batch apart"
    if region.pool is not None or POOLED in region.rules:
        return "its kernel pools what it stores"
    if node.op in ("ScatterElements", "ScatterND"):
        return "its kernel stores where indices say"
    if node.op == "Concat":
        return _unfit_slices(fused, node, placed, homes)
    conv = graph.node(region.anchor) if region.anchor is not None else node
    groups = int(conv.attributes.get("groups", 1))
    filters = placed.shape[1] // groups if conv.op in ("Conv", "ConvInteger") else 1
    if groups > 1 and not divides(placed.all_parts[1], filters):
        return "its groups do not divide into the parts of the channels"
    return None


def _unfit_slices(fused: FusedGraph, concat: Node, placed: Placement, homes: Mapping[Value, Value]) -> str | None:
    """The same of a concatenation, and of those that write into it."""
    start, axis, regions = 0, concat.attributes["axis"], fused.region_of()
    for value in fused.graph.inputs(concat):
        shape = tuple(int(dim) for dim in fused.graph.type(value).shape)  # type: ignore[arg-type]
        part = sliced(placed, axis, start, shape)
        if part is None:
            return "its slices do not divide into the parts of the channels"
        if part.parts and homes.get(value) == Value(concat.id):
            reason = unfit(fused, regions[value.node], part, homes)
            if reason is not None:
                return reason
        start += shape[axis]
    return None


def _placement(placed: Placement, shape: tuple[int, ...], parts: Parts) -> Placement:
    """The memory of ``placed`` under another shape."""
    strides = tuple(pairs[-1][1] for pairs in parts)
    even = all(len(pairs) == 1 for pairs in parts)
    return replace(placed, shape=shape, strides=strides, parts=() if even else parts)


def regrouped(parts: Parts, shape: Sequence[int]) -> Parts | None:
    """The pairs of a tensor under another shape of as many elements; None where they do not divide into it."""
    left = [pair for pairs in parts for pair in pairs if pair[0] > 1]
    found: list[tuple[Pair, ...]] = []
    for extent in reversed(shape):
        pairs = _taken(left, extent)
        if pairs is None:
            return None
        found.insert(0, pairs)
    return tuple(found)


def _taken(left: list[Pair], extent: int) -> tuple[Pair, ...] | None:
    """Takes pairs that cover ``extent`` from the end of ``left``, the last of them in part where need be."""
    taken: list[Pair] = []
    while extent > 1:
        size, stride = left.pop()
        part = math.gcd(size, extent)
        if part == 1 or (part < size and part < extent):
            return None
        if part < size:
            left.append((size // part, stride * part))
        _prepend(taken, (part, stride))
        extent //= part
    return tuple(taken) or ((1, 0),)


def _prepend(pairs: list[Pair], pair: Pair) -> None:
    """Puts a pair in front, as one with the first where both step evenly."""
    if pairs and pairs[0][0] * pairs[0][1] == pair[1]:
        pairs[0] = (pairs[0][0] * pair[0], pairs[0][1])
    else:
        pairs.insert(0, pair)


def steps_between(parts: Sequence[Pair], step: int, reach: int) -> tuple[Pair, ...]:
    """The pairs of a dimension that an index takes which moves in steps of ``step`` up to ``reach``; none where it is a
    single place.

    The pairs must divide there, as `divides` tells.
    """
    left = list(parts)
    inner = _taken(left, step)
    taken = _taken(left, reach // step)
    assert inner is not None and taken is not None
    return taken if reach > step else ()


def divides(parts: Sequence[Pair], at: int) -> bool:
    """Whether the pairs of a dimension divide into its last ``at`` places and the rest."""
    return _taken(list(parts), at) is not None


def sliced(placed: Placement, axis: int, start: int, shape: tuple[int, ...]) -> Placement | None:
    """A slice of a tensor along one dimension, given its shape; None where its pairs do not divide there."""
    length, pairs = shape[axis], placed.all_parts[axis]
    if len(pairs) == 1:
        offset = placed.offset + start * placed.strides[axis]
        parts = placed.parts and (*placed.parts[:axis], ((length, pairs[0][1]),), *placed.parts[axis + 1 :])
        return replace(placed, shape=shape, offset=offset, parts=parts)
    left = list(pairs)
    inner = _taken(left, length)
    if inner is None or start % length:
        return None
    offset, place = placed.offset, start // length
    for extent, stride in reversed(left):
        offset += place % extent * stride
        place //= extent
    parts = (*placed.parts[:axis], inner, *placed.parts[axis + 1 :])
    return replace(_placement(placed, shape, parts), offset=offset)
