"""Filters of dense convolutions as operands: the constant packed for the kernel, or a tensor where it lies."""

from __future__ import annotations

from ...ir import Value
from ...ir.plan import PackedWeight
from ...ir.problem import Operand
from .builder import ALIGNMENT, Builder, round_up


def filter_operand(b: Builder, value: Value, groups: int) -> tuple[Operand, int, int, int, tuple[int, ...]]:
    """The filter as an operand, and its strides along groups, filters, channels and taps."""
    shape = b.shape(value)
    filters = shape[0] // groups
    if b.graph.constant(value) is None:
        placed = b.placement(value)
        k, c, *taps = placed.strides
        return Operand("w", value, placed.dtype, (), placed.offset), filters * k, k, c, tuple(taps)
    view = (groups, filters, *shape[1:])
    order = (0, *range(3, len(view)), 2, 1)
    packed = PackedWeight(value.node, b.compute, view, order, round_up(filters, ALIGNMENT))
    g, k, c, *taps = packed.strides
    return Operand("w", packed, b.compute, ()), g, k, c, tuple(taps)
