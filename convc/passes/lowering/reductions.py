"""Reductions over whole dimensions, and softmax."""

from __future__ import annotations

from ...ir.problem import Axis, AxisReduction, IterDim, Operand
from ...ir.rewriting import collapse
from .builder import Builder, DimMap, Refused

MODES = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "product",
    "ReduceLogSum": "log_sum",
    "ReduceL1": "sum_of_magnitudes",
    "ReduceL2": "norm",
    "ReduceSumSquare": "sum_of_squares",
}


LONGEST_ROW = 1 << 17
"""Elements that a softmax goes over, at most: a block holds a whole row. So many are compiled for a GPU in 15 seconds,
and many of them spill; Triton's own limit is 2^20."""


def lower_reduce(b: Builder) -> AxisReduction:
    """Reductions: rows are the kept dimensions in the order in which the input lies in memory."""
    node = b.anchor
    if node.op not in MODES:
        raise Refused(f"{node.op}: no kernel reduces this way")
    return _reduction(b, MODES[node.op], node.attributes["axes"])


def lower_extreme(b: Builder) -> AxisReduction:
    """Places of the largest or the least along an axis."""
    node = b.anchor
    dtype = b.graph.type(b.graph.inputs(node)[0]).dtype
    if not dtype.fits_fp32 and not (dtype.is_float and dtype.itemsize <= 4):
        raise Refused(f"{node.op} on {dtype}", node.id)
    mode = node.op.lower() + ("_last" if node.attributes["last"] else "")
    return _reduction(b, mode, (node.attributes["axis"],))


def _reduction(b: Builder, mode: str, axes: tuple[int, ...]) -> AxisReduction:
    node = b.anchor
    source, placed = b.located(b.graph.inputs(node)[0])
    kept = [axis for axis in range(len(placed.shape)) if axis not in axes]
    landing = {axis: axis if node.attributes["keepdims"] else kept.index(axis) for axis in kept}
    by_stride = sorted(kept, key=lambda axis: (-placed.strides[axis], axis))
    reduced = sorted(axes, key=lambda axis: (-placed.strides[axis], axis))
    b.maps = tuple(DimMap(landing[axis]) for axis in by_stride)
    b.start()
    b.add_elementwise()
    problem = AxisReduction(
        family="reduction",
        mode=mode,
        dims=tuple(IterDim(f"i{axis}", placed.shape[axis], Axis.ROW) for axis in by_stride),
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        x=Operand("x", source, placed.dtype, tuple(placed.strides[axis] for axis in by_stride), placed.offset),
        reduced=_merged([(placed.shape[axis], placed.strides[axis]) for axis in reduced]),
    )
    return collapse(problem)


def _merged(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Reduced dimensions with neighbours joined where the input steps evenly over both."""
    merged: list[tuple[int, int]] = []
    for extent, stride in pairs:
        if extent == 1:
            continue
        if merged and merged[-1][1] == stride * extent:
            merged[-1] = (merged[-1][0] * extent, stride)
        else:
            merged.append((extent, stride))
    return tuple(merged) or ((1, 0),)


def lower_softmax(b: Builder) -> AxisReduction:
    """Softmax and its logarithm: columns are the dimension that is normalised."""
    node = b.anchor
    source, placed = b.located(b.graph.inputs(node)[0])
    axis = node.attributes["axis"]
    if placed.shape[axis] > LONGEST_ROW:
        raise Refused(f"{node.op} of more than {LONGEST_ROW} elements")
    others = sorted(
        (other for other in range(len(placed.shape)) if other != axis),
        key=lambda other: (-placed.strides[other], other),
    )
    b.maps = (*(DimMap(other) for other in others), DimMap(axis))
    b.start()
    b.add_elementwise()
    rows = [IterDim(f"i{other}", placed.shape[other], Axis.ROW) for other in others]
    problem = AxisReduction(
        family="softmax",
        mode="softmax" if node.op == "Softmax" else "log_softmax",
        dims=(*rows, IterDim("c", placed.shape[axis], Axis.COL)),
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        x=Operand("x", source, placed.dtype, tuple(placed.strides[m.dim] for m in b.maps), placed.offset),
    )
    return collapse(problem)
