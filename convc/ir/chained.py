"""What two convolutions in one kernel compute, the second of them 1x1: two matrix products, one after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .plan import Tile
from .problem import Axis, Contraction, Operand, Problem


@dataclass(frozen=True)
class ChainedContraction(Problem):
    """acc[row, col] = Σ over middle channels m of f(Σ over taps and depth of x·w₁)[row, m]·w[m, col].

    first: the first product and, as its statements, f; its rows are those of the whole, its columns the middle
    channels, and its output is in no memory. w steps along the middle channels by w_depth. statements and operands are
    what follows the second product.
    """

    first: Contraction = field(kw_only=True)
    w: Operand = field(kw_only=True)
    w_depth: int = field(kw_only=True)

    @property
    def middle(self) -> int:
        """Channels between the products."""
        return self.first.extent(Axis.COL)

    @property
    def middle_block(self) -> int:
        """Columns of the first product's tile: a power of two, at least the 16 of a product, that covers all."""
        return max(16, 1 << (self.middle - 1).bit_length())

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (*self.first.reads, self.w, *self.operands)

    @property
    def macs(self) -> int:
        return self.first.macs + self.extent(Axis.ROW) * self.extent(Axis.COL) * self.middle

    def row_tiles(self, block: int) -> int:
        return self.first.row_tiles(block)

    def recomputed_macs(self, tile: Tile) -> int:
        """Multiply-adds of the first product: programs that share the columns of a tile each make it."""
        across = math.ceil(self.extent(Axis.COL) / (tile.cols * tile.col_blocks))
        return (across - 1) * self.first.macs

    def owner_of(self, operand: Operand) -> Problem:
        return self.first if any(operand is own for own in self.first.reads) else self
