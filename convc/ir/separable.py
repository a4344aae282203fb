"""What a fused separable convolution computes: a matrix product whose left side is a depthwise convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .problem import Axis, Contraction, Operand


@dataclass(frozen=True)
class SeparableContraction(Contraction):
    """acc[row, col] = Σ over channels of f(Σ over taps of x[row + tap, channel]·filter[tap, channel])·w[channel, col].

    depth counts channels; x, filter and w step along them by x_depth, filter.depth and w_depth. taps slide over x
    along rows and are no part of the reduction. f: the prologue, whose accumulator is the depthwise sum; its
    operands are vectors over the channels.
    """

    filter: Operand = field(kw_only=True)

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (self.x, self.filter, self.w, *self.prologue_operands, *self.operands)

    @property
    def depthwise_macs(self) -> int:
        """Multiply-accumulates of the depthwise part, each output once."""
        return self.extent(Axis.ROW) * self.depth * self.tap_count

    @property
    def macs(self) -> int:
        return math.prod(dim.extent for dim in self.dims) * self.depth + self.depthwise_macs
