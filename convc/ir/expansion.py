"""Expansions: a depthwise convolution whose input a 1x1 convolution makes from fewer channels, in the same kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .plan import Tile
from .problem import Axis, Operand, Problem, Statement, Tap, WindowReduction
from .types import DType

UNROLLED_EXPANSIONS = 9
"""Windows up to this size are unrolled where each position is expanded for blocks of channels one after the other: the
pixels are the same for all of them, are loaded once, and wait in shared memory."""


@dataclass(frozen=True)
class Expansion:
    """y[pixel, channel] = f(Σ over inputs of x[pixel, input]·w[input, channel]), read through windows over pixels.

    y is zero in the windows' padding, whatever f makes of zero, and rounded as if stored. inputs: channels of x;
    x_step, w_step: strides of x and w along them. f: the statements, whose accumulator is the product; ``operands`` are
    vectors over the channels.
    """

    w: Operand
    inputs: int
    x_step: int
    w_step: int
    statements: tuple[Statement, ...] = ()
    operands: tuple[Operand, ...] = ()

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (self.w, *self.operands)

    @property
    def block(self) -> int:
        """Extent of the step of a product that takes all inputs: a power of two, and enough for `tl.dot`."""
        return max(16, 1 << (self.inputs - 1).bit_length())

    def mapped(self, change: Callable[[Operand], Operand]) -> Expansion:
        """With every operand changed."""
        return replace(self, w=change(self.w), operands=tuple(map(change, self.operands)))


def pixels_under(problem: Problem, taps: Sequence[Tap]) -> int:
    """Distinct pixels of the input under all windows; groups and rows run over their places."""
    windows = {tap.dim: tap for tap in taps}
    places = (*problem.positions(Axis.GROUP), *problem.positions(Axis.ROW))
    extents = ((problem.dims[index].extent, windows.get(index)) for index in places)
    return math.prod(tap.covered(extent) if tap else extent for extent, tap in extents)


@dataclass(frozen=True, kw_only=True)
class ExpandedWindow(WindowReduction):
    """acc[row, col] = Σ over taps of y[row + tap, col]·w[tap, col], where the expansion makes y.

    compute: the type in which products take x and to which y is rounded. precision: as in `Contraction`.
    """

    expansion: Expansion
    compute: DType = DType.FP32
    precision: str = "ieee"

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (*super().reads, *self.expansion.reads)

    @property
    def tap_count(self) -> int:
        return math.prod(tap.size for tap in self.taps)

    def products(self, pixels: int) -> int:
        """Multiply-accumulates that expand so many pixels."""
        return pixels * self.expansion.inputs * self.extent(Axis.COL)

    @property
    def macs(self) -> int:
        return super().macs + self.products(pixels_under(self, self.taps))

    def recomputed_macs(self, tile: Tile) -> int:
        """Multiply-accumulates of the expansion that are done more than once: windows overlap."""
        places = self.extent(Axis.GROUP) * self.extent(Axis.ROW)
        return self.products(places * self.tap_count - pixels_under(self, self.taps))
