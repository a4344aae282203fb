"""What a kernel computes, free of any operator's name: iteration dimensions, operands with strides, and statements.

Lowering turns a fused region into one of these; tiling chooses a schedule for it; code generation writes it out. Every
iteration dimension belongs to an axis of the kernel: groups (one program each), rows and columns (the two sides of a
tile). Every operand has one stride per iteration dimension, so layouts, slices and broadcasts are all the same thing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .graph import Value
from .operator import Operator
from .plan import SHIFTED, Border, PackedWeight, Tile
from .types import DType


class Axis(enum.Enum):
    """The part of a kernel's index space that an iteration dimension runs over."""

    GROUP = "group"
    ROW = "row"
    COL = "col"


@dataclass(frozen=True)
class IterDim:
    """One iteration dimension; ``name`` becomes a variable of the kernel."""

    name: str
    extent: int
    axis: Axis


@dataclass(frozen=True)
class Bound:
    """Reading outside an extent along one iteration dimension: position = index − before.

    mode: ``constant`` gives ``value`` outside; ``reflect`` and ``edge`` read inside.
    """

    dim: int
    before: int
    extent: int
    stride: int
    mode: str = "constant"


@dataclass(frozen=True)
class Split:
    """An iteration dimension along which an operand does not step evenly: its own (extent, stride) pairs."""

    dim: int
    parts: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Ref:
    """An argument of a statement: the accumulator, an operand, an earlier statement, or a number."""

    kind: str
    index: int = 0
    number: float = 0.0


ACCUMULATOR = Ref("accumulator")


@dataclass(frozen=True)
class Pick:
    """Where a tensor is read, or stored, along one of its dimensions: at positions that an operand holds, or that a
    statement computes, as whole numbers of any type.

    extent, stride: of that dimension. wraps: whether negative positions count from the end. Outside zeros are read, and
    nothing is stored.
    """

    at: Ref
    extent: int
    stride: int
    wraps: bool = False


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads or writes: strides per iteration dimension, and offset, in elements.

    unravel: where the tensor's shape does not divide into the iteration dimensions: its own (extent, stride) pairs over
    the linear row index. splits: dimensions along which it steps unevenly; ``strides`` holds their innermost steps.
    bounds: dimensions along which it is padded while being read. depth: its stride along the
    reduction, for operands of a contraction's prologue. border: zeros around its images that the kernel writes, or
    reads as they are. picks: dimensions along which other operands say where it is
    read or stored.
    """

    name: str
    source: Value | PackedWeight
    dtype: DType
    strides: tuple[int, ...]
    offset: int = 0
    unravel: tuple[tuple[int, int], ...] = ()
    bounds: tuple[Bound, ...] = ()
    splits: tuple[Split, ...] = ()
    fill: float = 0.0
    depth: int = 0
    border: Border | None = None
    picks: tuple[Pick, ...] = ()


@dataclass(frozen=True)
class Statement:
    """One elementwise operator applied to arguments; ``node`` is the graph node that it stands for."""

    node: int
    operator: Operator
    attributes: Mapping[str, Any]
    arguments: tuple[Ref, ...]


@dataclass(frozen=True)
class Tap:
    """A window dimension: ``size`` positions ``dilation`` apart.

    dim: the iteration dimension that it slides along, in steps of ``step``, starting at −``pad``. limit: extent
    of the input there. x_stride, w_stride: elements per tap. masked: whether some position lies outside the input, and
    must not be read. period: where such positions are zeros in memory, and are read, the positions from one line or
    image to the next.
    """

    name: str
    size: int
    dim: int
    step: int
    pad: int
    dilation: int
    limit: int
    x_stride: int
    w_stride: int = 0
    masked: bool = False
    period: int = 0

    @staticmethod
    def leaves(outputs: int, size: int, step: int, pad: int, dilation: int, limit: int) -> bool:
        """Whether a window that takes ``outputs`` places reaches outside an input of ``limit`` positions."""
        return pad > 0 or (outputs - 1) * step - pad + (size - 1) * dilation >= limit

    @property
    def slides_out(self) -> bool:
        """Whether some position lies outside the input."""
        return self.masked or self.period > 0

    def after(self, places: int) -> int:
        """Positions behind the input that a window reaches which takes ``places`` places, not below 0."""
        return max(0, (places - 1) * self.step - self.pad + (self.size - 1) * self.dilation + 1 - self.limit)

    def beyond(self, places: int) -> int:
        """Positions outside the input that such a window reaches on either side: the larger number."""
        return max(self.pad, self.after(places))

    def covered(self, places: int) -> int:
        """Distinct input positions under a window that takes ``places`` places, those in a border of zeros included."""
        positions = {i * self.step + j * self.dilation - self.pad for i in range(places) for j in range(self.size)}
        if self.period:
            return len({position % self.period for position in positions})
        return sum(0 <= position < self.limit for position in positions)


@dataclass(frozen=True)
class GlobalPool:
    """What a kernel makes of its result, too: its mean or maximum over the rows of each group and column.

    mode: ``mean`` or ``max``. output: where it is stored; it has no strides along rows. keeps: whether the result that
    it is taken of is stored too.
    """

    mode: str
    output: Operand
    keeps: bool


@dataclass(frozen=True)
class Problem:
    """Base: the iteration space, what is stored, and the statements between.

    family: the kernel family. mode: a variant of the family. statements: the epilogue, or the whole kernel of
    a pointwise one; the last one is stored to ``output``. operands: what the statements read.
    equation: what is computed, in words of operators. pool: what is made of the last statement over all rows of a
    group, which are then the pixels of one image.
    """

    family: str
    mode: str
    dims: tuple[IterDim, ...]
    output: Operand
    operands: tuple[Operand, ...] = ()
    statements: tuple[Statement, ...] = ()
    equation: str = ""
    pool: GlobalPool | None = None

    def extent(self, axis: Axis) -> int:
        """Product of the extents along an axis."""
        return math.prod(dim.extent for dim in self.dims if dim.axis is axis)

    def positions(self, axis: Axis) -> list[int]:
        """Indices of the dimensions along an axis, outermost first."""
        return [index for index, dim in enumerate(self.dims) if dim.axis is axis]

    def extents_of(self, operand: Operand) -> tuple[int, ...]:
        """How far an operand or the output reaches along each dimension."""
        return tuple(dim.extent for dim in self.dims)

    def owner_of(self, operand: Operand) -> Problem:
        """The part of the problem whose dimensions an operand steps along."""
        return self

    @property
    def reads(self) -> tuple[Operand, ...]:
        """Every operand that is read."""
        return self.operands

    @property
    def stores(self) -> tuple[Operand, ...]:
        """Every operand that is stored."""
        if self.pool is None:
            return (self.output,)
        return (self.output, self.pool.output) if self.pool.keeps else (self.pool.output,)

    @property
    def macs(self) -> int:
        return 0

    def row_tiles(self, block: int) -> int:
        """Tiles of ``block`` rows, of one group and block of columns."""
        return math.ceil(self.extent(Axis.ROW) / block)

    def programs(self, tile: Tile) -> int:
        """Thread blocks of a launch."""
        across = math.ceil(self.extent(Axis.COL) / (tile.cols * tile.col_blocks))
        return self.extent(Axis.GROUP) * self.row_tiles(tile.rows) * across * tile.split_k

    def recomputed_macs(self, tile: Tile) -> int:
        """Multiply-adds that a schedule does more than once."""
        return 0


@dataclass(frozen=True)
class Contraction(Problem):
    """acc[row, col] = Σ over taps and depth of x·w: convolution and matrix product.

    depth: channels per group (or K of a matrix product); x_depth, w_depth: strides along it. taps: window dimensions.
    precision: of the products, ``ieee`` or ``tf32`` for fp32 operands. sums: fp32; int32 where operands are integers of
    at most 255 in size, whose products are added up exactly. prologue: statements applied to x as it is
    loaded (their accumulator is x), over ``prologue_operands``. normalise: ``softmax`` or ``log_softmax`` of each row
    behind the statements, or nothing; tiles then hold whole rows.
    """

    x: Operand = field(kw_only=True)
    w: Operand = field(kw_only=True)
    depth: int = field(kw_only=True)
    x_depth: int = field(kw_only=True)
    w_depth: int = field(kw_only=True)
    taps: tuple[Tap, ...] = ()
    compute: DType = DType.FP32
    precision: str = "ieee"
    sums: DType = DType.FP32
    prologue: tuple[Statement, ...] = ()
    prologue_operands: tuple[Operand, ...] = ()
    normalise: str = ""

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (self.x, self.w, *self.prologue_operands, *self.operands)

    @property
    def tap_count(self) -> int:
        return math.prod(tap.size for tap in self.taps)

    def programs(self, tile: Tile) -> int:
        border = self.x.border
        if tile.access != SHIFTED or border is None:
            return super().programs(tile)
        along = math.ceil(border.images * border.image / tile.rows)
        return super().programs(tile) // self.row_tiles(tile.rows) * along

    def recomputed_macs(self, tile: Tile) -> int:
        border = self.x.border
        if tile.access != SHIFTED or border is None:
            return 0
        rows = self.extent(Axis.ROW)
        return max(0, border.images * border.image - rows) * self.macs // rows

    @property
    def macs(self) -> int:
        return math.prod(self.extent(axis) for axis in Axis) * self.depth * self.tap_count


@dataclass(frozen=True)
class WindowReduction(Problem):
    """acc[row, col] = reduction of x over windows: pooling, depthwise convolution, local response normalisation.

    mode: ``max``, ``mean``, ``conv`` (weighted by w), ``sum_of_squares``. divisor: for ``mean``, ``window``
    (the whole window), ``valid`` (positions inside the input) or ``padded`` (positions inside the padded input, whose
    extents are ``padded``). x is also readable, unwindowed, by statements through ``operands``.
    """

    x: Operand = field(kw_only=True)
    w: Operand | None = None
    taps: tuple[Tap, ...] = ()
    divisor: str = "window"
    padded: tuple[int, ...] = ()
    sums: DType = DType.FP32

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (self.x, *([self.w] if self.w else []), *self.operands)

    @property
    def macs(self) -> int:
        size = math.prod(dim.extent for dim in self.dims) * math.prod(tap.size for tap in self.taps)
        return size if self.mode == "conv" else 0


@dataclass(frozen=True)
class AxisReduction(Problem):
    """Reduction over whole dimensions: acc[row] = reduce(x[row, :]), or softmax along the columns.

    reduced: (extent, stride of x) of the reduced dimensions, outermost first; empty for softmax, whose columns
    are the dimension that is normalised.
    """

    x: Operand = field(kw_only=True)
    reduced: tuple[tuple[int, int], ...] = ()

    @property
    def reads(self) -> tuple[Operand, ...]:
        return (self.x, *self.operands)


INT32_LIMIT = 2**31 - 1
EXACT_SUM = 256
"""Products of two whole numbers of at most 255 whose sum fp32 holds exactly: 256 of them stay below 2^24."""
FLAT_DEPTH = 16
"""Below so many channels, one step of the main loop covers the innermost window dimension and the channels."""
FLAT_LENGTH = 256
"""Not where these are more elements, though: a block of 16 rows would not have the registers for their addresses (and
sums of integers are exact to that length: `EXACT_SUM`)."""


@dataclass(frozen=True)
class Steps:
    """The main loop of a contraction: ``outer`` window positions, each with ``inner`` steps of ``depth`` elements.

    flat: whether the innermost window dimension is part of a step (few channels). length: elements that a
    step would need to cover everything inside a window position.
    """

    flat: bool
    outer: int
    length: int

    def inner(self, depth: int) -> int:
        return math.ceil(self.length / depth)

    def total(self, depth: int) -> int:
        return self.outer * self.inner(depth)


def steps_of(problem: Contraction) -> Steps:
    """How the main loop of a contraction is cut."""
    last = problem.taps[-1].size if problem.taps else 0
    if problem.taps and problem.depth < FLAT_DEPTH and last * problem.depth <= FLAT_LENGTH:
        return Steps(True, problem.tap_count // last, last * problem.depth)
    return Steps(False, problem.tap_count, problem.depth)
