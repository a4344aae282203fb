"""Picking by computed positions: a copy that reads along some dimensions where other tensors say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...ir import Graph, Node
from ...ir.plan import Placement
from ...ir.problem import Operand, Pick, Problem, Ref
from ...ir.rewriting import collapse
from .builder import Builder, Refused, over
from .pointwise import space


@dataclass(frozen=True)
class Picking:
    """How the dimensions of a result move through the data and the indices: by their dimensions, None for none.

    picked: the dimensions of the data whose positions are read: one, or as many as the indices' last dimension holds,
    which is then ``together``.
    """

    data: tuple[int | None, ...]
    indices: tuple[int | None, ...]
    picked: tuple[int, ...]
    together: bool = False


def picking(graph: Graph, node: Node) -> Picking:
    """Of Gather, GatherElements and GatherND."""
    data, indices = (graph.type(value).rank for value in graph.inputs(node)[:2])
    if node.op == "GatherND":
        before, length = node.attributes["batch_dims"], graph.type(graph.inputs(node)[1]).shape[-1]
        picked = tuple(range(before, before + int(length)))  # type: ignore[arg-type]
        rest = tuple(range(before + len(picked), data))
        moved = (*range(before), *(None,) * (indices - 1 - before), *rest)
        return Picking(moved, (*range(indices - 1), *(None,) * len(rest)), picked, together=True)
    axis = node.attributes["axis"]
    if node.op == "GatherElements":
        return Picking(tuple(None if dim == axis else dim for dim in range(data)), tuple(range(indices)), (axis,))
    rest = tuple(range(axis + 1, data))
    moved = (*range(axis), *(None,) * indices, *rest)
    return Picking(moved, (*(None,) * axis, *range(indices), *(None,) * len(rest)), (axis,))


def lower_gather(b: Builder) -> Problem:
    """A copy whose source is at positions that are read along with it."""
    node = b.graph.node(b.region.output.node)
    found = picking(b.graph, node)
    output = b.placement(b.region.output)
    dims, b.maps = space(output)
    (data, placed), (positions, held) = (b.located(value) for value in b.graph.inputs(node)[:2])
    x = over("x", data, moving(placed, found.data, output.shape), b.maps)
    if any(len(placed.all_parts[dim]) > 1 for dim in found.picked):
        raise Refused(f"{node.op} along a dimension that does not lie evenly")
    picks = tuple(
        Pick(Ref("operand", 1 + i), placed.shape[dim], placed.strides[dim], wraps=True)
        for i, dim in enumerate(found.picked)
    )
    at = over("at", positions, moving(held, found.indices, output.shape), b.maps)
    step = held.strides[-1] if found.together else 0
    reads = [replace(at, name=f"at{i}" if i else "at", offset=at.offset + i * step) for i in range(len(picks))]
    operands: tuple[Operand, ...] = (replace(x, picks=picks), *reads)
    return collapse(Problem("pointwise", "gather", dims, over("y", b.region.output, output, b.maps), operands))


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
