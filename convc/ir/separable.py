"""What a fused separable convolution computes: a matrix product whose left side is made from windows, channel by
channel: a depthwise convolution, or pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .expansion import Expansion, pixels_under
from .plan import Tile
from .problem import Axis, Contraction, Operand


@dataclass(frozen=True, kw_only=True)
class SeparableContraction(Contraction):
    """acc[row, col] = Σ over channels of f(window over taps of x[row + tap, channel])·w[channel, col].

    mode: what a window gives: ``conv`` (the sum weighted by filter[tap, channel]), ``max``, ``mean``. depth counts
    channels; x, filter and w step along them by x_depth, filter.depth and w_depth. taps slide over x along rows and are
    no part of the reduction. divisor, padded: of ``mean``, as in `WindowReduction`. f: the prologue, whose accumulator
    is the window's result; its operands are vectors over the channels. expansion: what the windows read is made from x
    with fewer channels; then x_depth means nothing.
    """

    filter: Operand | None = None
    divisor: str = "window"
    padded: tuple[int, ...] = ()
    expansion: Expansion | None = None

    @property
    def reads(self) -> tuple[Operand, ...]:
        filters = [self.filter] if self.filter else []
        expansion = self.expansion.reads if self.expansion else ()
        return (self.x, *expansion, *filters, self.w, *self.prologue_operands, *self.operands)

    @property
    def window_elements(self) -> int:
        """Elements that the windows take in, each window once."""
        return self.extent(Axis.GROUP) * self.extent(Axis.ROW) * self.depth * self.tap_count

    @property
    def window_macs(self) -> int:
        """Multiply-accumulates of the windows, each once: pooling has none."""
        return self.window_elements if self.filter else 0

    def products(self, pixels: int) -> int:
        """Multiply-accumulates that expand so many pixels."""
        return pixels * self.expansion.inputs * self.depth if self.expansion else 0

    def recomputed_macs(self, tile: Tile) -> int:
        """Multiply-adds of the windows, and of what they read, that are done more than once."""
        tiles = math.ceil(self.extent(Axis.COL) / tile.cols)
        places = self.extent(Axis.GROUP) * self.extent(Axis.ROW)
        expanded = tiles * places * self.tap_count - pixels_under(self, self.taps)
        return (tiles - 1) * self.window_macs + self.products(expanded)

    @property
    def macs(self) -> int:
        outputs = math.prod(dim.extent for dim in self.dims)
        return outputs * self.depth + self.window_macs + self.products(pixels_under(self, self.taps))
