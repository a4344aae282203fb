"""Windows (a depthwise convolution, or pooling), elementwise operators and a 1x1 convolution as one contraction."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...ir import Value
from ...ir.plan import PackedWeight, Placement
from ...ir.problem import Axis, IterDim, Operand, Tap
from ...ir.rewriting import collapse
from ...ir.separable import SeparableContraction
from .builder import ALIGNMENT, Builder, DimMap, round_up
from .contractions import SPATIAL_NAMES, sliding, tap
from .expansion import lower_expansion
from .filters import filter_operand
from .prologue import alone, lower_stage, stages
from .windows import divisor, padded_extents, pool_taps


def lower_separable(b: Builder) -> SeparableContraction:
    """Rows are (N, P, Q), columns the filters of the 1x1 convolution, the reduction runs over the channels."""
    *expands, last = stages(b)
    _, w_value, *bias = b.graph.inputs(b.anchor)
    shape = b.output_shape
    names = SPATIAL_NAMES[len(shape) - 2]
    rows = [IterDim(name, extent, Axis.ROW) for name, extent in zip(names, shape[2:], strict=True)]
    dims = (IterDim("n", shape[0], b.image_axis), *rows, IterDim("k", shape[1], Axis.COL))
    b.maps = (DimMap(0), *(DimMap(2 + axis) for axis in range(len(names))), DimMap(1))
    before = lower_stage(b, last)
    source, placed = b.located(b.graph.inputs((expands or [last])[0].anchor)[0])
    window = _window(alone(b, last.anchor), placed, len(dims))
    steps = [tap.step * stride for tap, stride in zip(window.taps, placed.strides[2:], strict=True)]
    w, _, w_col, w_depth, _ = filter_operand(b, w_value, 1)

    def over_channels(operand: Operand, stride: int) -> Operand:
        return replace(operand, strides=(0,) * len(dims), depth=stride)

    b.start()
    b.add_bias(bias, axis=1)
    b.add_elementwise()
    problem = SeparableContraction(
        family="separable",
        mode=window.mode,
        dims=dims,
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        pool=b.pool(),
        x=Operand("x", source, placed.dtype, (placed.strides[0], *steps, 0), placed.offset),
        w=replace(w, strides=(*(0 for _ in dims[1:]), w_col)),
        filter=window.filter,
        divisor=window.divisor,
        padded=window.padded,
        expansion=lower_expansion(b, expands[0], placed.strides[1], over_channels) if expands else None,
        depth=b.shape(b.graph.inputs(last.anchor)[0])[1],
        x_depth=placed.strides[1],
        w_depth=w_depth,
        prologue=tuple(before.statements),
        prologue_operands=tuple(over_channels(_renamed(operand), operand.strides[0]) for operand in before.operands),
        taps=window.taps,
        compute=b.compute,
        precision="tf32" if b.mode == "tf32" else "ieee",
    )
    collapsed = collapse(problem, sliding(window.taps))
    assert isinstance(collapsed, SeparableContraction)
    return collapsed


@dataclass(frozen=True)
class _Window:
    """What a window gives; see `SeparableContraction`."""

    mode: str
    taps: tuple[Tap, ...]
    filter: Operand | None = None
    divisor: str = "window"
    padded: tuple[int, ...] = ()


def _window(b: Builder, placed: Placement, dims: int) -> _Window:
    """The windows of the builder's anchor over its input, which lies as ``placed`` says."""
    if b.anchor.op != "Conv":
        taps = pool_taps(b, placed)
        padded = padded_extents(b, taps)
        return _Window("max" if b.anchor.op == "MaxPool" else "mean", taps, None, divisor(b, taps, padded), padded)
    value = b.graph.inputs(b.anchor)[1]
    packed = _pack_filter(b, value)
    sizes = b.shape(value)[2:]
    taps = tuple(tap(b, axis, size, 1 + axis, placed, packed.strides[1 + axis]) for axis, size in enumerate(sizes))
    return _Window("conv", taps, Operand("wd", packed, packed.dtype, (0,) * dims, depth=packed.strides[0]))


def _pack_filter(window: Builder, value: Value) -> PackedWeight:
    """The depthwise filter with its channels innermost, like the input's."""
    shape = window.shape(value)
    view = (shape[0], *shape[2:])
    order = (*range(1, len(view)), 0)
    return PackedWeight(value.node, window.compute, view, order, round_up(shape[0], ALIGNMENT))


def _renamed(operand: Operand) -> Operand:
    return replace(operand, name="bd" if operand.name == "bias" else f"pre{operand.name.removeprefix('in')}")
