"""What a fused expansion computes: a depthwise convolution whose input a 1x1 convolution makes from fewer channels."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .problem import Axis, Operand, Statement, WindowReduction
from .types import DType


@dataclass(frozen=True, kw_only=True)
class ExpandedWindow(WindowReduction):
    """acc[row, col] = Σ over taps of y[row + tap, col]·w[tap, col] with y[pixel, col] = f(x[pixel, :]·expand[:, col]).

    y is zero in the padding, whatever f makes of zero. depth: channels of x; x_depth, w_depth: strides of x and expand
    along them. f: the prologue, whose accumulator is the product; its operands are vectors over the columns.
    compute: the type in which products take x and to which y is rounded. precision: as in `Contraction`.
    """

    expand: Operand
    depth: int
    x_depth: int
    w_depth: int
    prologue: tuple[Statement, ...] = ()
    prologue_operands: tuple[Operand, ...] = ()
    compute: DType = DType.FP32
    precision: str = "ieee"

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (*super().reads, self.expand, *self.prologue_operands)

    @property
    def tap_count(self) -> int:
        return math.prod(tap.size for tap in self.taps)

    @property
    def pixels(self) -> int:
        """Distinct pixels of x under all windows."""
        windows = {tap.dim: tap for tap in self.taps}
        rows = ((self.dims[index].extent, windows.get(index)) for index in self.positions(Axis.ROW))
        return math.prod(tap.covered(extent) if tap else extent for extent, tap in rows)

    def products(self, pixels: int) -> int:
        """Multiply-accumulates that expand so many pixels."""
        return pixels * self.depth * self.extent(Axis.COL)

    @property
    def macs(self) -> int:
        return super().macs + self.products(self.pixels)

    @property
    def recomputed_macs(self) -> int:
        """Multiply-accumulates of the expansion that are done more than once: windows overlap."""
        return self.products(self.extent(Axis.ROW) * self.tap_count - self.pixels)
