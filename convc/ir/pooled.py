"""What a convolution computes that ends in pooling: a contraction whose rows are taken together, window by window."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .plan import Tile
from .problem import Axis, Contraction, Operand

STEP = 2
"""Distance of neighbouring windows; the rows of a tile come in blocks of STEP x STEP pixels."""
BLOCK = STEP * STEP


@dataclass(frozen=True)
class PoolWindow:
    """Windows along one dimension of the convolution's result, in steps of 2.

    dim: name of the iteration dimension, whose extent is what the windows cover. size: of a window. before: padding in
    front. limit: extent of the convolution's result. places: windows.
    """

    dim: str
    size: int
    before: int
    limit: int
    places: int

    @property
    def leaves(self) -> bool:
        """Whether some window reaches past the convolution's result."""
        return self.before > 0 or (self.places - 1) * STEP - self.before + self.size > self.limit

    @property
    def covered(self) -> int:
        """Pixels of the convolution that windows read."""
        return min(self.limit, (self.places - 1) * STEP - self.before + self.size)


@dataclass(frozen=True)
class PooledContraction(Contraction):
    """y[window, col] = max or mean over the window's rows of f(Σ over taps and depth of x·w).

    Rows are pixels of the convolution; what is stored has ``places`` of each window in their stead, and the output's
    strides are for those. pooling: ``max`` or ``mean``; windows: along the last two dimensions of the rows.
    A tile takes its rows in blocks of 2 x 2 pixels. Windows of 2 are these blocks. Windows of 3 also read the first
    line and column of the next blocks, so that tiles overlap: each stores one window less along p and q than it has
    blocks.
    """

    windows: tuple[PoolWindow, PoolWindow] = field(kw_only=True)
    pooling: str = field(kw_only=True)

    @property
    def overlaps(self) -> bool:
        """Whether windows share pixels."""
        return any(window.size > STEP for window in self.windows)

    @property
    def images(self) -> int:
        """Images of the batch."""
        return self.extent(Axis.ROW) // math.prod(window.covered for window in self.windows)

    @property
    def pixels(self) -> int:
        """Pixels of the pooled images, all of the batch."""
        return self.images * math.prod(window.places for window in self.windows)

    def extents_of(self, operand: Operand) -> tuple[int, ...]:
        if operand is not self.output:
            return super().extents_of(operand)
        places = {window.dim: window.places for window in self.windows}
        return tuple(places.get(dim.name, dim.extent) for dim in self.dims)

    def row_tiles(self, block: int) -> int:
        if not self.overlaps:
            return math.ceil(self.pixels / (block // BLOCK))
        return self.images * math.prod(self.grid(block))

    def grid(self, block: int) -> tuple[int, int]:
        """Tiles of ``block`` rows along p and q of one image, for windows that overlap."""
        lines, columns = blocks_of(block)
        down, across = self.windows
        return math.ceil(down.places / (lines - 1)), math.ceil(across.places / (columns - 1))

    def recomputed_macs(self, tile: Tile) -> int:
        """Multiply-adds of pixels that several tiles compute, or that no window covers."""
        again = self.row_tiles(tile.rows) * tile.rows - self.extent(Axis.ROW)
        return max(0, again) * self.macs // self.extent(Axis.ROW) if self.overlaps else 0


def blocks_of(rows: int) -> tuple[int, int]:
    """Blocks of 2 x 2 pixels along p and q in a tile of ``rows`` rows, a power of two: as square as can be."""
    blocks = rows // BLOCK
    lines = 1 << ((blocks.bit_length() - 1) // 2)
    return lines, blocks // lines
