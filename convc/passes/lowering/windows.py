"""Pooling and local response normalisation as reductions over windows."""

from __future__ import annotations

from ...ir.plan import Placement
from ...ir.problem import ACCUMULATOR, Axis, IterDim, Operand, Ref, Tap, WindowReduction
from ...ir.rewriting import collapse
from .builder import Builder, DimMap
from .contractions import SPATIAL_NAMES, sliding, tap


def lower_pool(b: Builder) -> WindowReduction:
    """Max and average pooling: rows are (N, P, Q), columns the channels."""
    node = b.anchor
    shape = b.output_shape
    source, placed = b.located(b.graph.inputs(node)[0])
    dims, b.maps = _pixels_by_channels(shape)
    taps = pool_taps(b, placed)
    steps = [tap.step * tap.x_stride // tap.dilation for tap in taps]
    b.start()
    b.add_elementwise()
    padded = padded_extents(b, taps)
    problem = WindowReduction(
        family="window",
        mode="max" if node.op == "MaxPool" else "mean",
        dims=dims,
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        x=Operand("x", source, placed.dtype, (placed.strides[0], *steps, placed.strides[1]), placed.offset),
        taps=taps,
        divisor=divisor(b, taps, padded),
        padded=padded,
    )
    return collapse(problem, sliding(taps))


def _pixels_by_channels(shape: tuple[int, ...]) -> tuple[tuple[IterDim, ...], tuple[DimMap, ...]]:
    spatial = shape[2:]
    names = SPATIAL_NAMES[len(spatial)]
    rows = [IterDim(name, extent, Axis.ROW) for name, extent in zip(names, spatial, strict=True)]
    dims = (IterDim("n", shape[0], Axis.ROW), *rows, IterDim("c", shape[1], Axis.COL))
    return dims, (DimMap(0), *(DimMap(2 + axis) for axis in range(len(spatial))), DimMap(1))


def pool_taps(b: Builder, placed: Placement) -> tuple[Tap, ...]:
    """The windows of a pooling, the anchor, over its input; rows begin with the batch."""
    kernel = b.anchor.attributes["kernel_shape"]
    return tuple(tap(b, axis, kernel[axis], 1 + axis, placed) for axis in range(len(kernel)))


def padded_extents(b: Builder, taps: tuple[Tap, ...]) -> tuple[int, ...]:
    """Extents of a pooling's input with its padding."""
    ends = b.anchor.attributes["pads"][len(taps) :]
    return tuple(tap.limit + tap.pad + end for tap, end in zip(taps, ends, strict=True))


def divisor(b: Builder, taps: tuple[Tap, ...], padded: tuple[int, ...]) -> str:
    """What an average divides by; see `WindowReduction`."""
    if b.anchor.op == "MaxPool" or not any(tap.masked for tap in taps):
        return "window"
    if not b.anchor.attributes["count_include_pad"]:
        return "valid"
    reach = [(n - 1) * t.step + (t.size - 1) * t.dilation + 1 for n, t in zip(b.output_shape[2:], taps, strict=True)]
    clipped = any(last > extent for last, extent in zip(reach, padded, strict=True))
    return "padded" if clipped else "window"


def lower_lrn(b: Builder) -> WindowReduction:
    """y = x / (k + α/n · Σ x²)^β, the sum over n neighbouring channels (Krizhevsky et al. 2012, §3.3)."""
    node = b.anchor
    value = b.graph.inputs(node)[0]
    shape = b.output_shape
    source, placed = b.located(value)
    spatial = tuple(IterDim(f"p{axis}", extent, Axis.ROW) for axis, extent in enumerate(shape[2:]))
    dims = (IterDim("n", shape[0], Axis.ROW), *spatial, IterDim("c", shape[1], Axis.COL))
    b.maps = (DimMap(0), *(DimMap(2 + axis) for axis in range(len(spatial))), DimMap(1))
    size = node.attributes["size"]
    before = (size - 1) // 2
    masked = Tap.leaves(shape[1], size, 1, before, 1, shape[1])
    window = (Tap("s", size, len(dims) - 1, 1, before, 1, shape[1], placed.strides[1], masked=masked),)
    strides = tuple(placed.strides[m.dim] for m in b.maps)
    b.start()
    scaled = b.apply(node, "Mul", ACCUMULATOR, Ref("number", number=node.attributes["alpha"] / size))
    shifted = b.apply(node, "Add", scaled, Ref("number", number=node.attributes["bias"]))
    power = b.apply(node, "Pow", shifted, Ref("number", number=-node.attributes["beta"]))
    b.known[node.id] = b.apply(node, "Mul", b.read(value), power)
    b.add_elementwise()
    problem = WindowReduction(
        family="window",
        mode="sum_of_squares",
        dims=dims,
        output=b.output(),
        operands=tuple(b.operands),
        statements=tuple(b.statements),
        x=Operand("x", source, placed.dtype, strides, placed.offset),
        taps=window,
    )
    return collapse(problem, sliding(window))
