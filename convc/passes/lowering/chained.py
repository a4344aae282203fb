"""A convolution, elementwise operators and a 1x1 convolution as two products in one kernel."""

from __future__ import annotations

from dataclasses import replace

from ...ir import Node
from ...ir.chained import ChainedContraction
from ...ir.plan import Region
from ...ir.problem import Axis, Contraction, IterDim, Operand, Problem
from ...ir.rewriting import collapse
from .builder import Builder, DimMap
from .contractions import SPATIAL_NAMES, dense
from .filters import filter_operand


def lower_chained(b: Builder) -> ChainedContraction:
    """Rows are (N, P, Q), columns the filters of the 1x1 convolution; both reductions end in one tile."""
    start = next(b.graph.node(id) for id in b.region.prologue if b.graph.node(id).op == "Conv")
    _, w_value, *bias = b.graph.inputs(b.anchor)
    shape = b.output_shape
    names = SPATIAL_NAMES[len(shape) - 2]
    rows = zip(("n", *names), (shape[0], *shape[2:]), strict=True)
    dims = (*(IterDim(name, extent, Axis.ROW) for name, extent in rows), IterDim("k", shape[1], Axis.COL))
    b.maps = (DimMap(0), *(DimMap(2 + axis) for axis in range(len(names))), DimMap(1))
    w, _, w_col, w_depth, _ = filter_operand(b, w_value, 1)
    w = replace(w, name="v", strides=(*(0 for _ in dims[1:]), w_col))
    b.start()
    b.add_bias(bias, axis=1)
    b.add_elementwise()
    second = Problem("chained", "conv", dims, b.output(), (w, *b.operands), tuple(b.statements))
    second = collapse(second)
    return ChainedContraction(
        **vars(second) | {"operands": second.operands[1:]},
        first=_first(b, start),
        w=second.operands[0],
        w_depth=w_depth,
    )


def _first(b: Builder, start: Node) -> Contraction:
    """The first product over the rows and the middle channels ``m``, with what is done to it."""
    tail = b.graph.inputs(b.anchor)[0]
    region = Region(b.region.id, b.region.prologue, start.id, tail)
    rank = len(b.shape(tail))
    nowhere = Operand("y", tail, b.compute, (0,) * (1 + rank))
    plain = dense(Builder(b.fused, b.layouts, b.mode, region), 1, nowhere)
    plain = replace(plain, operands=tuple(_renamed(operand) for operand in plain.operands))
    found = collapse(plain, [tap.dim for tap in plain.taps if tap.slides_out])
    assert isinstance(found, Contraction)
    return replace(found, dims=tuple(replace(dim, name="m") if dim.axis is Axis.COL else dim for dim in found.dims))


def _renamed(operand: Operand) -> Operand:
    """So that what is read between the products has other names than what is read behind them."""
    return replace(operand, name=f"mid{operand.name.removeprefix('in')}")
