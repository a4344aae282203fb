"""Elementwise chains, and the copies that views, concatenation and padding need where a layout cannot absorb them."""

from __future__ import annotations

import math

from ...ir import Value
from ...ir.plan import Placement
from ...ir.problem import Axis, Bound, IterDim, Operand, Problem, Ref
from ...ir.rewriting import collapse
from ..layout import dense_strides, order_of, reshape_strides
from ..shuffles import sliced
from .builder import Builder, DimMap, Refused, over


def lower_elementwise(b: Builder) -> Problem:
    """A chain of elementwise operators over one shape. A copy alone takes elements of any type as they are."""
    if [b.graph.node(id).op for id in b.region.nodes] == ["Copy"]:
        source, placed = b.located(b.graph.inputs(b.region.output.node)[0])
        return _copy(b, Operand("x", source, placed.dtype, (), placed.offset), placed, b.placement(b.region.output))
    dims, b.maps = space(b.placement(b.region.output)) if b.region.pool is None else _pixels_by_channels(b)
    b.add_elementwise()
    return _pointwise(b, dims, "elementwise")


def _pixels_by_channels(b: Builder) -> tuple[tuple[IterDim, ...], tuple[DimMap, ...]]:
    """Iteration for a result that is pooled over whole images: rows are pixels, columns channels."""
    batch, channels, *spatial = b.output_shape
    rows = [IterDim(f"i{2 + axis}", extent, Axis.ROW) for axis, extent in enumerate(spatial)]
    maps = (DimMap(0), *(DimMap(2 + axis) for axis in range(len(spatial))), DimMap(1))
    return (IterDim("i0", batch, Axis.GROUP), *rows, IterDim("i1", channels, Axis.COL)), maps


def space(output: Placement) -> tuple[tuple[IterDim, ...], tuple[DimMap, ...]]:
    """Iteration in the order in which the output lies in memory: the innermost dimension makes the columns."""
    order = order_of(output)
    dims = tuple(
        IterDim(f"i{axis}", output.shape[axis], Axis.COL if position == len(order) - 1 else Axis.ROW)
        for position, axis in enumerate(order)
    )
    return dims, tuple(DimMap(axis) for axis in order)


def _pointwise(b: Builder, dims: tuple[IterDim, ...], mode: str) -> Problem:
    problem = Problem(
        family="pointwise",
        mode=mode,
        dims=dims,
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        pool=b.pool(),
    )
    return collapse(problem)


def lower_concat(b: Builder) -> list[Problem]:
    """One copy per operand that was not written in place."""
    node = b.graph.node(b.region.output.node)
    target = b.placement(b.region.output)
    axis, start, problems = node.attributes["axis"], 0, []
    seen: set[Value] = set()
    for value in b.graph.inputs(node):
        source, placed = b.located(value)
        slot = sliced(target, axis, start, placed.shape)
        assert slot is not None
        start += placed.shape[axis]
        in_place = isinstance(source, Value) and value not in seen and placed == slot
        seen.add(value)
        if not in_place and 0 not in placed.shape:
            problems.append(_copy(b, Operand("x", source, placed.dtype, (), placed.offset), placed, slot))
    return problems


def _copy(b: Builder, x: Operand, placed: Placement, slot: Placement) -> Problem:
    dims, maps = space(slot)
    strides = tuple(placed.strides[m.dim] for m in maps)
    output = over("y", b.region.output, slot, maps)
    operand = Operand("x", x.source, x.dtype, strides, x.offset)
    return collapse(Problem("pointwise", "copy", dims, output, (operand,)))


def lower_expand(b: Builder) -> Problem:
    """A copy along dimensions in which the operand does not move."""
    output = b.placement(b.region.output)
    dims, b.maps = space(output)
    x = b.operand("x", b.graph.inputs(b.region.output.node)[0])
    return collapse(Problem("pointwise", "copy", dims, over("y", b.region.output, output, b.maps), (x,)))


def lower_pad(b: Builder) -> Problem:
    """Padding: reads outside the operand give the fill value, or a reflected or repeated element. Elementwise operators
    may follow."""
    node = b.anchor
    dims, b.maps = space(b.placement(b.region.output))
    source, placed = b.located(b.graph.inputs(node)[0])
    if node.attributes["mode"] == "wrap":
        raise Refused("Pad with mode wrap: no kernel for it")
    befores = node.attributes["pads"][: len(placed.shape)]
    shape = b.output_shape
    bounds = tuple(
        Bound(index, befores[m.dim], placed.shape[m.dim], placed.strides[m.dim], node.attributes["mode"])
        for index, m in enumerate(b.maps)
        if shape[m.dim] != placed.shape[m.dim]
    )
    strides = tuple(placed.strides[m.dim] for m in b.maps)
    name = "x" if len(b.region.nodes) == 1 else "padded"
    value = node.attributes["value"]
    fill = int(value) if placed.dtype.is_integer else float(value)
    b.operands.append(Operand(name, source, placed.dtype, strides, placed.offset, bounds=bounds, fill=fill))
    b.known[node.id] = Ref("operand", 0)
    b.add_elementwise()
    return _pointwise(b, dims, "pad")


def lower_reshape(b: Builder) -> Problem:
    """A reshape that strides cannot express: a copy in the refinement of both shapes, or element by element."""
    source, placed = b.located(b.graph.inputs(b.region.output.node)[0])
    output = b.placement(b.region.output)
    shape = _refinement(placed.shape, output.shape)
    x_strides = None if shape is None else reshape_strides(placed.shape, placed.strides, shape)
    y_strides = None if shape is None else reshape_strides(output.shape, output.strides, shape)
    if shape is None or x_strides is None or y_strides is None:
        return _element_by_element(b, Operand("x", source, placed.dtype, (), placed.offset), placed, output)
    fine_x = Placement(placed.block, placed.dtype, shape, x_strides, placed.offset)
    fine_y = Placement(output.block, output.dtype, shape, y_strides, output.offset)
    return _copy(b, Operand("x", source, placed.dtype, (), placed.offset), fine_x, fine_y)


def _element_by_element(b: Builder, x: Operand, placed: Placement, output: Placement) -> Problem:
    count = math.prod(output.shape)
    dims = (IterDim("i", count, Axis.ROW),)
    reads = Operand("x", x.source, x.dtype, (0,), x.offset, unravel=_pairs(placed))
    writes = Operand("y", b.region.output, output.dtype, (0,), output.offset, unravel=_pairs(output))
    return Problem("pointwise", "copy", dims, writes, (reads,))


def _pairs(placed: Placement) -> tuple[tuple[int, int], ...]:
    return tuple(pair for pair in zip(placed.shape, placed.strides, strict=True) if pair[0] > 1) or ((1, 0),)


def _refinement(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The coarsest shape of which both are merges of neighbouring dimensions; None where there is none."""
    fine: list[int] = []
    a, c = list(first), list(second)
    left, right = 1, 1
    while a or c or left > 1 or right > 1:
        if left == 1 and a:
            left = a.pop()
            continue
        if right == 1 and c:
            right = c.pop()
            continue
        part = math.gcd(left, right)
        if part == 1:
            return None
        fine.append(part)
        left, right = left // part, right // part
    return tuple(reversed(fine))


__all__ = ["dense_strides", "lower_concat", "lower_elementwise", "lower_expand", "lower_pad", "lower_reshape"]
