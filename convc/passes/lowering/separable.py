"""A depthwise convolution, elementwise operators and a 1x1 convolution as one contraction."""

from __future__ import annotations

from dataclasses import replace

from ...ir import Node, Value
from ...ir.plan import PackedWeight, Region
from ...ir.problem import Axis, IterDim, Operand, collapse
from ...ir.separable import SeparableContraction
from .builder import ALIGNMENT, Builder, DimMap, round_up
from .contractions import SPATIAL_NAMES, _weights, tap


def lower_separable(b: Builder) -> SeparableContraction:
    """Rows are (N, P, Q), columns the filters of the 1x1 convolution, the reduction runs over the channels."""
    depthwise = next(b.graph.node(id) for id in b.region.prologue if b.graph.node(id).op == "Conv")
    _, w_value, *bias = b.graph.inputs(b.anchor)
    shape = b.output_shape
    names = SPATIAL_NAMES[len(shape) - 2]
    rows = zip(("n", *names), (shape[0], *shape[2:]), strict=True)
    dims = (*(IterDim(name, extent, Axis.ROW) for name, extent in rows), IterDim("k", shape[1], Axis.COL))
    b.maps = (DimMap(0), *(DimMap(2 + axis) for axis in range(len(names))), DimMap(1))
    before = _lower_chain(b, depthwise)
    x_value, filter_value = b.graph.inputs(depthwise)[:2]
    source, placed = b.located(x_value)
    window = Builder(b.fused, b.layouts, b.mode, _alone(b.region, depthwise))
    packed = _pack_filter(window, filter_value)
    kernel = b.shape(filter_value)[2:]
    taps = tuple(tap(window, i, size, 1 + i, placed, packed.strides[1 + i]) for i, size in enumerate(kernel))
    steps = [tap.step * stride for tap, stride in zip(taps, placed.strides[2:], strict=True)]
    w, _, w_col, w_depth, _ = _weights(b, w_value, 1)
    b.start()
    b.add_bias(bias, axis=1)
    b.add_elementwise()
    problem = SeparableContraction(
        family="separable",
        mode="conv",
        dims=dims,
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        x=Operand("x", source, placed.dtype, (placed.strides[0], *steps, 0), placed.offset),
        w=replace(w, strides=(*(0 for _ in dims[1:]), w_col)),
        filter=Operand("wd", packed, packed.dtype, (0,) * len(dims), depth=packed.strides[0]),
        depth=b.shape(x_value)[1],
        x_depth=placed.strides[1],
        w_depth=w_depth,
        prologue=tuple(before.statements),
        prologue_operands=tuple(_over_channels(operand, len(dims)) for operand in before.operands),
        taps=taps,
        compute=b.compute,
        precision="tf32" if b.mode == "tf32" else "ieee",
    )
    collapsed = collapse(problem, [tap.dim for tap in taps])
    assert isinstance(collapsed, SeparableContraction)
    return replace(collapsed, filter=replace(problem.filter, strides=(0,) * len(collapsed.dims)))


def _alone(region: Region, node: Node) -> Region:
    return Region(region.id, (node.id,), node.id, Value(node.id))


def _pack_filter(window: Builder, value: Value) -> PackedWeight:
    """The depthwise filter with its channels innermost, like the input's."""
    shape = window.shape(value)
    view = (shape[0], *shape[2:])
    order = (*range(1, len(view)), 0)
    return PackedWeight(value.node, window.compute, view, order, round_up(shape[0], ALIGNMENT))


def _lower_chain(b: Builder, depthwise: Node) -> Builder:
    """The depthwise bias and the elementwise operators behind it, over one dimension: the channels."""
    tail = b.graph.inputs(b.anchor)[0]
    region = replace(_alone(b.region, depthwise), nodes=b.region.prologue, output=tail)
    chain = Builder(b.fused, b.layouts, b.mode, region)
    chain.maps = (DimMap(1),)
    chain.start()
    chain.add_bias(b.graph.inputs(depthwise)[2:], axis=1)
    chain.add_elementwise()
    return chain


def _over_channels(operand: Operand, dims: int) -> Operand:
    name = "bd" if operand.name == "bias" else f"pre{operand.name.removeprefix('in')}"
    return replace(operand, name=name, strides=(0,) * dims, depth=operand.strides[0])
