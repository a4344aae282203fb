"""Convolutions and matrix products as contractions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ...ir import Value
from ...ir.plan import Border, PackedWeight, Placement
from ...ir.problem import EXACT_SUM, Axis, Contraction, IterDim, Operand, Tap, WindowReduction
from ...ir.rewriting import collapse
from ..borders import covers
from .builder import ALIGNMENT, Builder, DimMap, Refused, round_up
from .expansion import expanded_window
from .filters import filter_operand
from .prologue import lower_prologue, prologue_source, stages

SPATIAL_NAMES = {1: ("q",), 2: ("p", "q"), 3: ("o", "p", "q")}
TAP_NAMES = {1: ("s",), 2: ("r", "s"), 3: ("t", "r", "s")}


def lower_conv(b: Builder) -> Contraction | WindowReduction:
    """Convolution: rows are (N, P, Q), columns the filters of one group, the reduction runs over taps and channels."""
    groups = b.anchor.attributes["groups"]
    x = b.graph.inputs(b.anchor)[0]
    if groups > 1 and groups == b.shape(x)[1]:
        return _lower_depthwise(b)
    problem = dense(b, groups)
    return collapse(problem, [tap.dim for tap in problem.taps if tap.slides_out])


@dataclass(frozen=True)
class _Sizes:
    batch: int
    channels: int
    filters: int
    outputs: tuple[int, ...]
    kernel: tuple[int, ...]


def _sizes(b: Builder) -> _Sizes:
    x, w = b.graph.inputs(b.anchor)[:2]
    shape = b.output_shape
    return _Sizes(shape[0], b.shape(x)[1], shape[1], shape[2:], b.shape(w)[2:])


def _taps(b: Builder, first_dim: int, x: Placement, w_strides: tuple[int, ...]) -> tuple[Tap, ...]:
    kernel = _sizes(b).kernel
    return tuple(tap(b, axis, kernel[axis], first_dim + axis, x, w_strides[axis]) for axis in range(len(kernel)))


def tap(b: Builder, axis: int, size: int, dim: int, x: Placement, w_stride: int = 0) -> Tap:
    """The window of the anchor along one spatial axis."""
    attributes = b.anchor.attributes
    step, pad, dilation = (attributes[name][axis] for name in ("strides", "pads", "dilations"))
    limit = x.shape[2 + axis]
    return Tap(
        name=TAP_NAMES[len(x.shape) - 2][axis],
        size=size,
        dim=dim,
        step=step,
        pad=pad,
        dilation=dilation,
        limit=limit,
        x_stride=x.strides[2 + axis] * dilation,
        w_stride=w_stride,
        masked=Tap.leaves(b.output_shape[2 + axis], size, step, pad, dilation, limit),
    )


def _bordered(border: Border, taps: tuple[Tap, ...], outputs: tuple[int, ...]) -> tuple[Tap, ...]:
    """The windows of a product over an input with zeros around it, which are read where there are enough of them."""
    periods = (border.lines_apart, border.line)
    return tuple(
        replace(tap, masked=False, period=period) if tap.masked and covers(border, axis, tap, outputs[axis]) else tap
        for axis, (tap, period) in enumerate(zip(taps, periods, strict=True))
    )


def sliding(taps: tuple[Tap, ...]) -> list[int]:
    """Iteration dimensions that must stay by themselves: windows that can leave the input slide along them."""
    return [tap.dim for tap in taps]


def dense(b: Builder, groups: int, output: Operand | None = None) -> Contraction:
    """A convolution over (group, N, P, Q, filter), nothing merged; ``output`` where it is not the region's own."""
    x_value, w_value, *bias = b.graph.inputs(b.anchor)
    sizes = _sizes(b)
    filters, depth = sizes.filters // groups, sizes.channels // groups
    names = SPATIAL_NAMES[len(sizes.outputs)]
    dims = (
        IterDim("g", groups, Axis.GROUP),
        IterDim("n", sizes.batch, b.image_axis),
        *(IterDim(name, extent, Axis.ROW) for name, extent in zip(names, sizes.outputs, strict=True)),
        IterDim("k", filters, Axis.COL),
    )
    spatial = tuple(DimMap(2 + axis) for axis in range(len(names)))
    b.maps = (DimMap(1, filters), DimMap(0), *spatial, DimMap(1))
    read = prologue_source(b, x_value)
    source, placed = b.located(read, b.compute)
    w, w_group, w_col, w_depth, w_taps = filter_operand(b, w_value, groups)
    taps = _taps(b, 2, placed, w_taps)
    if placed.border is not None and read == x_value:
        taps = _bordered(placed.border, taps, sizes.outputs)

    def strides(tensor: Placement) -> tuple[tuple[int, ...], int]:
        steps = [tap.step * stride for tap, stride in zip(taps, tensor.strides[2:], strict=True)]
        return (depth * tensor.strides[1], tensor.strides[0], *steps, 0), tensor.strides[1]

    x_strides, x_depth = strides(placed)
    x = Operand("x", source, placed.dtype, x_strides, placed.offset, border=placed.border)
    before = lower_prologue(b, x_value, read, strides)
    b.start()
    b.add_bias(bias, axis=1)
    b.add_elementwise()
    return Contraction(
        family="contraction",
        mode="conv",
        dims=dims,
        output=output or b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        pool=b.pool(),
        x=x,
        w=Operand("w", w.source, w.dtype, (w_group, 0, *(0 for _ in names), w_col), w.offset),
        depth=depth,
        x_depth=x_depth,
        w_depth=w_depth,
        prologue=tuple(before.statements),
        prologue_operands=tuple(before.operands),
        taps=tuple(tap for tap in taps if tap.size > 1 or tap.slides_out),
        compute=b.compute,
        precision="tf32" if b.mode == "tf32" else "ieee",
        sums=b.sums,
    )


def _lower_depthwise(b: Builder) -> WindowReduction:
    """Depthwise convolution: columns are (channel, multiplier), each a small weighted window."""
    x_value, w_value, *bias = b.graph.inputs(b.anchor)
    if b.graph.constant(w_value) is None:
        raise Refused("depthwise Conv with weights computed at run time")
    sizes = _sizes(b)
    if not b.sums.is_float and math.prod(sizes.kernel) > EXACT_SUM:
        raise Refused(f"depthwise {b.anchor.op} of more than {EXACT_SUM} positions")
    multiplier = sizes.filters // sizes.channels
    names = SPATIAL_NAMES[len(sizes.outputs)]
    dims = (
        IterDim("n", sizes.batch, b.image_axis),
        *(IterDim(name, extent, Axis.ROW) for name, extent in zip(names, sizes.outputs, strict=True)),
        IterDim("c", sizes.channels, Axis.COL),
        IterDim("j", multiplier, Axis.COL),
    )
    b.maps = (
        DimMap(0),
        *(DimMap(2 + axis) for axis in range(len(names))),
        DimMap(1, multiplier),
        DimMap(1),
    )
    before = stages(b)
    source, placed = b.located(b.graph.inputs(before[0].anchor)[0] if before else x_value)
    view = (sizes.filters, *sizes.kernel)
    order = (*range(1, len(view)), 0)
    packed = PackedWeight(w_value.node, b.compute, view, order, round_up(sizes.filters, ALIGNMENT))
    taps = _taps(b, 1, placed, packed.strides[1:])
    steps = [tap.step * tap.x_stride // tap.dilation for tap in taps]
    x_strides = (placed.strides[0], *steps, 0 if before else placed.strides[1], 0)
    b.start()
    b.add_bias(bias, axis=1)
    b.add_elementwise()
    problem = WindowReduction(
        family="window",
        mode="conv",
        dims=dims,
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        pool=b.pool(),
        x=Operand("x", source, placed.dtype, x_strides, placed.offset),
        w=Operand("w", packed, packed.dtype, (0, *(0 for _ in names), multiplier, 1)),
        taps=taps,
        sums=b.sums,
    )
    if before:
        problem = expanded_window(b, problem, before[0], placed.strides[1])
    return collapse(problem, sliding(taps))


def lower_matmul(b: Builder) -> Contraction:
    """MatMul and Gemm: rows from the left operand, columns from the right, shared leading dimensions are groups."""
    left, right, *rest = b.graph.inputs(b.anchor)
    attributes = b.anchor.attributes
    x_source, x_placed = b.located(left, b.compute)
    a = _Matrix(x_placed.shape, x_placed.strides, bool(attributes.get("trans_a")), is_left=True)
    w_source, w_placed = _right_operand(b, right, bool(attributes.get("trans_b")))
    m = _Matrix(w_placed.shape, w_placed.strides, bool(attributes.get("trans_b")), is_left=False)
    dims, maps, x_strides, w_strides = _matmul_dims(b, a, m)
    b.maps = tuple(maps)
    b.start()
    _scale(b, attributes.get("alpha", 1.0), attributes.get("beta", 1.0), rest)
    b.add_elementwise()
    problem = Contraction(
        family="contraction",
        mode="matmul",
        dims=tuple(dims),
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        x=Operand("x", x_source, x_placed.dtype, tuple(x_strides), x_placed.offset),
        w=Operand("w", w_source, w_placed.dtype, tuple(w_strides), w_placed.offset),
        depth=a.depth[0],
        x_depth=a.depth[1],
        w_depth=m.depth[1],
        compute=b.compute,
        precision="tf32" if b.mode == "tf32" else "ieee",
        sums=b.sums,
    )
    return collapse(problem)


class _Matrix:
    """One operand of a matrix product: (extent, stride) of its reduction, its free dimension, and its batch."""

    def __init__(self, shape: tuple[int, ...], strides: tuple[int, ...], transposed: bool, is_left: bool) -> None:
        pairs = list(zip(shape, strides, strict=True))
        if len(pairs) == 1:
            self.batch: list[tuple[int, int]] = []
            self.depth, self.free = pairs[0], None
            return
        self.batch = pairs[:-2]
        first, second = pairs[-2:]
        depth_last = is_left != transposed
        self.depth, self.free = (second, first) if depth_last else (first, second)

    free: tuple[int, int] | None


def _right_operand(b: Builder, value: Value, transposed: bool) -> tuple[Value | PackedWeight, Placement]:
    shape = b.shape(value)
    if b.graph.constant(value) is None or len(shape) != 2:
        return b.located(value, b.compute)
    order = (1, 0) if transposed else (0, 1)
    packed = PackedWeight(value.node, b.compute, shape, order, round_up(shape[order[-1]], ALIGNMENT))
    return packed, Placement(-1, b.compute, shape, packed.strides)


def _matmul_dims(b: Builder, a: _Matrix, m: _Matrix) -> tuple[list[IterDim], list[DimMap], list[int], list[int]]:
    out = b.output_shape
    batch = len(out) - (a.free is not None) - (m.free is not None)
    axis = Axis.GROUP if any(extent > 1 for extent, _ in m.batch) else Axis.ROW
    dims, maps, x_strides, w_strides = [], [], [], []
    for position in range(batch):
        dims.append(IterDim(f"b{position}", out[position], axis))
        maps.append(DimMap(position))
        x_strides.append(_batch_stride(a.batch, position, batch))
        w_strides.append(_batch_stride(m.batch, position, batch))
    if a.free is not None:
        dims.append(IterDim("m", a.free[0], Axis.ROW))
        maps.append(DimMap(batch))
        x_strides.append(a.free[1])
        w_strides.append(0)
    if m.free is not None:
        dims.append(IterDim("k", m.free[0], Axis.COL))
        maps.append(DimMap(len(out) - 1))
        x_strides.append(0)
        w_strides.append(m.free[1])
    return dims, maps, x_strides, w_strides


def _batch_stride(pairs: list[tuple[int, int]], position: int, batch: int) -> int:
    index = position - (batch - len(pairs))
    if index < 0:
        return 0
    extent, stride = pairs[index]
    return stride if extent > 1 else 0


def _scale(b: Builder, alpha: float, beta: float, rest: list[Value]) -> None:
    """α·acc + β·c."""
    from ...ir.problem import ACCUMULATOR, Ref

    result = ACCUMULATOR
    if alpha != 1.0:
        result = b.apply(b.anchor, "Mul", result, Ref("number", number=alpha))
    if rest:
        addend = b.read(rest[0], name="bias")
        if beta != 1.0:
            addend = b.apply(b.anchor, "Mul", addend, Ref("number", number=beta))
        result = b.apply(b.anchor, "Add", result, addend)
    b.known[b.anchor.id] = result
