"""What a fused separable convolution computes: a matrix product whose left side is made from windows, channel by
channel: a depthwise convolution, or pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .problem import Axis, Contraction, Operand


@dataclass(frozen=True, kw_only=True)
class SeparableContraction(Contraction):
    """acc[row, col] = Σ over channels of f(window over taps of x[row + tap, channel])·w[channel, col].

    mode: what a window gives: ``conv`` (the sum weighted by filter[tap, channel]), ``max``, ``mean``. depth counts
    channels; x, filter and w step along them by x_depth, filter.depth and w_depth. taps slide over x along rows and are
    no part of the reduction. divisor, padded: of ``mean``, as in `WindowReduction`. f: the prologue, whose accumulator
    is the window's result; its operands are vectors over the channels.
    """

    filter: Operand | None = None
    divisor: str = "window"
    padded: tuple[int, ...] = ()

    @property
    def reads(self) -> tuple[Operand, ...]:
        filters = [self.filter] if self.filter else []
        return (self.x, *filters, self.w, *self.prologue_operands, *self.operands)

    @property
    def window_elements(self) -> int:
        """Elements that the windows take in, each window once."""
        return self.extent(Axis.ROW) * self.depth * self.tap_count

    @property
    def window_macs(self) -> int:
        """Multiply-accumulates of the windows, each once: pooling has none."""
        return self.window_elements if self.filter else 0

    @property
    def macs(self) -> int:
        return math.prod(dim.extent for dim in self.dims) * self.depth + self.window_macs
