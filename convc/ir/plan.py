"""What the later stages add to a graph: fused regions, physical placements, schedules and launches.

A physical layout is data. Every tensor that exists in memory has a `Placement`: a block of memory, an offset and one
stride per *logical* dimension. Channels-last, a slice of a concatenation, a transposed or reshaped view are all just
placements, and kernels take their strides from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .graph import Graph, Value
from .types import DType


@dataclass(frozen=True)
class Region:
    """Nodes that one kernel computes, or that the host does in one step.

    nodes: in topological order. anchor: the node that decides the kernel family, None for elementwise chains.
    output: the value that leaves the region. rules: names of the fusion rules that built it. prologue: those of
    the nodes that the anchor reads through, computed while its operand is loaded. pool: the last node, where it reduces
    the result over whole images. also: the value of that node where its operand, which is then ``output``, leaves the
    region too; nothing but ``output`` leaves where it is None. on_host: where the host computes the nodes, every value
    that leaves the region, ``output`` first.
    """

    id: int
    nodes: tuple[int, ...]
    anchor: int | None
    output: Value
    rules: tuple[str, ...] = ()
    prologue: tuple[int, ...] = ()
    pool: int | None = None
    also: Value | None = None
    on_host: tuple[Value, ...] = ()

    @property
    def head(self) -> int:
        """The anchor, or the first of the nodes where there is none."""
        return self.anchor if self.anchor is not None else self.nodes[0]

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Every value that leaves the region."""
        if self.on_host:
            return self.on_host
        return (self.output,) if self.also is None else (self.output, self.also)


@dataclass(frozen=True)
class Decline:
    """Why a rule left an edge alone: the reason is a sentence fragment for the user."""

    rule: str
    source: int
    target: int
    reason: str


@dataclass(frozen=True)
class Block:
    """A piece of memory: a graph input or output, the weights, or a part of the arena.

    buffer: ``arena``, ``weights``, ``input:I`` or ``output:I``. nbytes: its size. dtype: of its elements. margin: bytes
    in front of its first image.
    """

    id: int
    buffer: str
    nbytes: int
    dtype: DType
    margin: int = 0

    def part_bytes(self, parts: int) -> int:
        """Bytes for one of so many parts of the batch."""
        return self.margin + (self.nbytes - self.margin) // parts


@dataclass(frozen=True)
class Border:
    """Zeros around the images of a channels-last tensor, counted in pixels of ``channels`` elements.

    ``columns`` of zeros follow every line of an image, ``lines`` of them every image; neighbours share them: what is
    right of a line is left of the next, what is below an image is above the next. A margin of zeros in front of the
    first pixel is what lies left of and above it.
    """

    images: int
    height: int
    width: int
    lines: int
    columns: int
    channels: int

    @property
    def line(self) -> int:
        """Pixels from one line to the next."""
        return self.width + self.columns

    @property
    def lines_apart(self) -> int:
        """Lines from one image to the next."""
        return self.height + self.lines

    @property
    def image(self) -> int:
        """Pixels from one image to the next."""
        return self.lines_apart * self.line

    @property
    def inside(self) -> int:
        """Pixels of an image itself."""
        return self.height * self.width

    @property
    def margin(self) -> int:
        """Pixels of the block in front of the first one of the first image."""
        return self.lines * self.line + self.columns

    @property
    def around(self) -> int:
        """Pixels of zeros that each image brings: right of its lines and below it."""
        return self.image - self.inside

    @property
    def zeros(self) -> int:
        """All pixels of zeros."""
        return self.margin + self.images * self.around

    @property
    def pixels(self) -> int:
        """All pixels of the block."""
        return self.margin + self.images * self.image

    @property
    def strides(self) -> tuple[int, int, int, int]:
        """Elements per image, channel, line and column."""
        return self.image * self.channels, 1, self.line * self.channels, self.channels


@dataclass(frozen=True)
class Placement:
    """Where a tensor lies: block, offset and one stride per logical dimension, both in elements.

    parts: where a dimension does not step evenly (a channel shuffle that its writer does): for every dimension its
    (extent, stride) pairs, outermost first; ``strides`` then holds the innermost ones. Empty where all step evenly.
    border: the zeros around its images, where it has them; the block is then all its own.
    """

    block: int
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    parts: tuple[tuple[tuple[int, int], ...], ...] = ()
    border: Border | None = None

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included; 0 for an empty tensor."""
        if 0 in self.shape:
            return 0
        return 1 + sum((extent - 1) * abs(stride) for parts in self.all_parts for extent, stride in parts)

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to the last."""
        return self.span * self.dtype.itemsize

    @property
    def all_parts(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """(extent, stride) pairs of every dimension, outermost first; one pair where it steps evenly."""
        return self.parts or tuple((pair,) for pair in zip(self.shape, self.strides, strict=True))


@dataclass(frozen=True)
class PackedWeight:
    """A constant as it will lie in the weights: a recipe, evaluated late.

    source: the constant's node. dtype: as stored. view: shape that the logical array is first given (splitting groups
    off). order: permutation of that view, outermost first. pitch: length that the innermost dimension is padded to with
    zeros.
    """

    source: int
    dtype: DType
    view: tuple[int, ...]
    order: tuple[int, ...]
    pitch: int

    @property
    def physical_shape(self) -> tuple[int, ...]:
        outer = tuple(self.view[axis] for axis in self.order[:-1])
        return (*outer, self.pitch) if self.order else ()

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements per dimension of ``view``."""
        strides = [0] * len(self.view)
        step = 1
        for position in reversed(range(len(self.order))):
            strides[self.order[position]] = step
            step *= self.physical_shape[position]
        return tuple(strides)


POINTERS = "pointers"
"""Ways in which a contraction reads its operands (`Tile.access`): one pointer for each element."""
DESCRIPTORS = "descriptors"
"""Boxes out of matrices that a GPU's copy engine fetches (`convc.ir.matrices`)."""
SHIFTED = "shifted descriptors"
"""Such boxes of the flat form (`convc.ir.flat`)."""
IM2COL = "im2col"
"""Boxes along the copy engine's walk over windows (`convc.ir.im2col`)."""


@dataclass(frozen=True)
class Tile:
    """A schedule: block sizes along rows, columns and the reduction, and how the GPU runs them.

    col_blocks: blocks of columns that one program makes one after the other (chained contractions).
    access: how a contraction reads its operands: `POINTERS`, `DESCRIPTORS`, `SHIFTED` or `IM2COL`. producers: warps
    that do nothing but fetch.
    """

    rows: int
    cols: int
    depth: int = 1
    num_warps: int = 4
    num_stages: int = 3
    split_k: int = 1
    col_blocks: int = 1
    access: str = POINTERS
    producers: int = 0
    reason: str = ""
    predicted_us: float = 0.0


@dataclass
class Layouts:
    """All placements of a fused graph.

    views: nodes that cost nothing. shuffles: those of them that the writer of what they read does, by storing it in
    their order. read_through: those that readers do, by stepping through memory in their order. declines: why it does
    not do others.
    """

    blocks: dict[int, Block] = field(default_factory=dict)
    placements: dict[Value, Placement] = field(default_factory=dict)
    views: frozenset[int] = frozenset()
    shuffles: frozenset[int] = frozenset()
    read_through: frozenset[int] = frozenset()
    declines: list[Decline] = field(default_factory=list)
    weights: dict[tuple[int, str], PackedWeight] = field(default_factory=dict)


@dataclass(frozen=True)
class FusedGraph:
    """A graph divided into regions, in an order in which they can run. hosted: the nodes that run on the host, with the
    reasons."""

    graph: Graph
    regions: tuple[Region, ...]
    declines: tuple[Decline, ...] = ()
    hosted: Mapping[int, str] = field(default_factory=dict)

    def region_of(self) -> Mapping[int, Region]:
        """Node number → its region."""
        return {node: region for region in self.regions for node in region.nodes}

    def stays_on_host(self, value: Value) -> bool:
        """Whether a value never lies in a buffer that kernels could read: its size is found by the run, or the host
        makes it and only the host reads it."""
        if not self.graph.type(value).is_static:
            return True
        return value.node in self.hosted and all(use.node in self.hosted for use in self.graph.users(value))


@dataclass(frozen=True)
class HostStep:
    """What the host computes between two launches.

    region: its nodes. reads, stores: the values that it takes from buffers and puts there; others stay with the host.
    predicted_us: the waits and the copies; what NumPy takes is not predicted.
    """

    region: Region
    reads: tuple[Value, ...]
    stores: tuple[Value, ...]
    predicted_us: float = 0.0
