"""Picking by computed positions: copies that read, or store, along some dimensions where other tensors say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Graph, Node, Value
from ...ir.plan import PackedWeight, Placement
from ...ir.problem import Operand, Pick, Problem, Ref
from ...ir.rewriting import collapse
from .builder import Builder, Refused, over
from .pointwise import space


@dataclass(frozen=True)
class Picking:
    """How the dimensions of what is picked, or put in place, move through the data and the indices: by their
    dimensions, None for none. picked: the dimensions of the data whose positions are read: one, or as many as the
    indices' last dimension holds, which are then ``together``.
    """

    data: tuple[int | None, ...]
    indices: tuple[int | None, ...]
    picked: tuple[int, ...]
    together: bool = False


def picking(graph: Graph, node: Node) -> Picking:
    """Of Gather, GatherElements and GatherND, and of what Scatter… puts in place."""
    data, indices = (graph.type(value).rank for value in graph.inputs(node)[:2])
    if node.op in ("GatherND", "ScatterND"):
        before, length = node.attributes.get("batch_dims", 0), graph.type(graph.inputs(node)[1]).shape[-1]
        picked = tuple(range(before, before + int(length)))  # type: ignore[arg-type]
        rest = tuple(range(before + len(picked), data))
        moved = (*range(before), *(None,) * (indices - 1 - before), *rest)
        return Picking(moved, (*range(indices - 1), *(None,) * len(rest)), picked, together=True)
    axis = node.attributes["axis"]
    if node.op in ("GatherElements", "ScatterElements"):
        return Picking(tuple(None if dim == axis else dim for dim in range(data)), tuple(range(indices)), (axis,))
    rest = tuple(range(axis + 1, data))
    moved = (*range(axis), *(None,) * indices, *rest)
    return Picking(moved, (*(None,) * axis, *range(indices), *(None,) * len(rest)), (axis,))


def lower_gather(b: Builder) -> Problem:
    """A copy whose source is at positions that are read along with it."""
    node = b.graph.node(b.region.output.node)
    data, indices = b.graph.inputs(node)
    output = b.placement(b.region.output)
    dims, b.maps = space(output)
    source, placed = b.located(data)
    x, *at = _picked(b, picking(b.graph, node), ("x", source, placed), indices, output.shape)
    return collapse(Problem("pointwise", "gather", dims, over("y", b.region.output, output, b.maps), (x, *at)))


def lower_scatter(b: Builder) -> list[Problem]:
    """A copy of the data, and then one of the updates to the positions that are read along with them."""
    node = b.graph.node(b.region.output.node)
    data, indices, updates = b.graph.inputs(node)
    if node.attributes["reduction"] != "none":
        raise Refused(f"{node.op} with reduction {node.attributes['reduction']}")
    output = b.placement(b.region.output)
    dims, b.maps = space(output)
    whole = over("y", b.region.output, output, b.maps)
    copied = collapse(
        Problem("pointwise", "copy", dims, whole, (over("x", *b.located(data), b.maps),), equation="y = x")
    )
    source, placed = b.located(updates)
    if 0 in placed.shape:
        return [copied]
    dims, b.maps = space(placed)
    y, *at = _picked(b, picking(b.graph, node), ("y", b.region.output, output), indices, placed.shape)
    return [copied, collapse(Problem("pointwise", "scatter", dims, y, (over("x", source, placed, b.maps), *at)))]


def _picked(
    b: Builder,
    found: Picking,
    data: tuple[str, Value | PackedWeight, Placement],
    indices: Value,
    shape: tuple[int, ...],
) -> list[Operand]:
    """The operand in which positions are picked, and those that hold them, which follow one other operand."""
    name, source, placed = data
    if any(len(placed.all_parts[dim]) > 1 for dim in found.picked):
        raise Refused("picking along a dimension that does not lie evenly")
    positions, held = b.located(indices)
    picks = tuple(
        Pick(Ref("operand", 1 + i), placed.shape[dim], placed.strides[dim], wraps=True)
        for i, dim in enumerate(found.picked)
    )
    at = over("at", positions, moving(held, found.indices, shape), b.maps)
    step = held.strides[-1] if found.together else 0
    reads = [replace(at, name=f"at{i}" if i else "at", offset=at.offset + i * step) for i in range(len(picks))]
    return [replace(over(name, source, moving(placed, found.data, shape), b.maps), picks=picks), *reads]


def moving(placed: Placement, dims: Sequence[int | None], shape: Sequence[int]) -> Placement:
    """A tensor under another shape, whose dimensions move through those of its own that are named, or not at all."""
    parts = tuple(_steps(placed, dim, extent) for dim, extent in zip(dims, shape, strict=True))
    return replace(placed, shape=tuple(shape), strides=tuple(pairs[-1][1] for pairs in parts), parts=parts)


def _steps(placed: Placement, dim: int | None, extent: int) -> tuple[tuple[int, int], ...]:
    """Of the first ``extent`` positions along a dimension."""
    if dim is None:
        return ((extent, 0),)
    if placed.shape[dim] == extent:
        return placed.all_parts[dim]
    if len(placed.all_parts[dim]) > 1:
        raise Refused("part of a dimension that does not lie evenly")
    return ((extent, placed.strides[dim]),)
