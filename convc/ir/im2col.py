"""Convolutions as the copy engine's walk over windows: the im2col mode of tensor maps.

The engine takes images of (N, H, W, C) and fetches a box of pixels and channels: from a first pixel on it steps along
lines, from line to line and from image to image as a window does, and adds the same offset to every pixel. Where it
stands outside an image it brings zeros. So one box is what one position of the window reads for all rows of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

from .matrices import ALIGNMENT_BYTES, Matrix, pitch_of, require, right
from .plan import PackedWeight
from .pooled import PooledContraction
from .problem import Axis, Contraction, Operand, Tap

CORNERS = range(-128, 128)
"""Corners of the walk, in pixels from the edge of an image."""
MOST_STEP = 8
MOST_OFFSET = 255
LEAST_CHANNELS = 16
PLACES = {"t": "o", "r": "p", "s": "q"}
"""Window dimension → the dimension that it slides along, where that is merged with no other."""


@dataclass(frozen=True)
class Walk:
    """How a window walks along one dimension of the images. outputs: places; extent, stride: pixels and elements.

    A dimension without a window has one position for each output. tap: its window, if there is one.
    """

    outputs: int
    extent: int
    stride: int
    step: int = 1
    pad: int = 0
    dilation: int = 1
    tap: Tap | None = None

    @property
    def lower(self) -> int:
        """First place of the walk."""
        return -self.pad

    @property
    def upper(self) -> int:
        """Last place of the walk, counted from the last pixel."""
        return (self.outputs - 1) * self.step - self.pad - (self.extent - 1)

    @property
    def size(self) -> int:
        """Positions of the window."""
        return 1 if self.tap is None else self.tap.size


@dataclass(frozen=True)
class Im2col:
    """images: how many, and elements from one to the next. lines, columns: the walk along H and W. w: the weights as
    (positions · channels) x filters."""

    x: Operand
    images: tuple[int, int]
    lines: Walk
    columns: Walk
    channels: int
    w: Matrix

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.images[0], self.lines.extent, self.columns.extent, self.channels

    @property
    def strides(self) -> tuple[int, int, int, int]:
        return self.images[1], self.lines.stride, self.columns.stride, 1


def im2col(problem: Contraction) -> Im2col:
    """The walk of a convolution.

    Raises:
        NotMatrices: a form that the engine does not walk, with the reason.
    """
    _check_form(problem)
    rows = [index for index in problem.positions(Axis.ROW) if problem.dims[index].extent > 1 or _tap(problem, index)]
    require(0 < len(rows) <= 3, "rows are not images, lines and columns")
    merged = any(tap.dim < 0 or problem.dims[tap.dim].name != PLACES[tap.name] for tap in problem.taps)
    require(not merged, "places of the window are not a dimension of their own")
    walks = [_walk(problem, index) for index in rows]
    columns, lines = walks[-1], walks[-2] if len(walks) > 1 else None
    images = walks[-3] if len(walks) > 2 else None
    require(images is None or images.tap is None, "windows reach over three dimensions")
    lines = lines or Walk(1, 1, pitch_of(columns.extent * columns.stride, problem.x.dtype))
    apart = images or Walk(1, 1, pitch_of(lines.extent * lines.stride, problem.x.dtype))
    found = Im2col(problem.x, (apart.outputs, apart.stride), lines, columns, problem.depth, _weights(problem))
    _check_limits(found)
    return found


def _check_form(problem: Contraction) -> None:
    require(problem.mode == "conv" and not isinstance(problem, PooledContraction), "no plain convolution")
    require(not problem.prologue and problem.pool is None and not problem.normalise, "no plain convolution")
    require(problem.extent(Axis.GROUP) == 1, "channels or images come in groups")
    x = problem.x
    require(x.dtype is problem.compute and x.dtype.itemsize == 2, f"x is {x.dtype}, and not of a 16-bit type")
    require(not (x.unravel or x.bounds or x.splits), "x steps unevenly")
    require(problem.x_depth == 1, "the channels of x are not neighbours in memory")
    require(problem.depth % LEAST_CHANNELS == 0, f"channels are no multiple of {LEAST_CHANNELS}")
    require(isinstance(problem.w.source, PackedWeight), "weights are computed")


def _tap(problem: Contraction, index: int) -> Tap | None:
    return next((tap for tap in problem.taps if tap.dim == index), None)


def _walk(problem: Contraction, index: int) -> Walk:
    outputs, tap = problem.dims[index].extent, _tap(problem, index)
    if tap is None:
        return Walk(outputs, outputs, problem.x.strides[index])
    return Walk(outputs, tap.limit, tap.x_stride // tap.dilation, tap.step, tap.pad, tap.dilation, tap)


def _weights(problem: Contraction) -> Matrix:
    """All positions and channels of the weights below each other."""
    matrix, transposed = right(problem)
    require(not transposed, "weights are transposed")
    inner = problem.depth * matrix.pitch
    for tap in reversed(problem.taps):
        require(tap.w_stride == inner, "positions of the weights do not follow each other")
        inner *= tap.size
    return Matrix(matrix.operand, problem.depth * problem.tap_count, matrix.cols, matrix.pitch)


def _check_limits(found: Im2col) -> None:
    itemsize = found.x.dtype.itemsize
    aligned = all(step * itemsize % ALIGNMENT_BYTES == 0 for step in (found.x.offset, *found.strides[:3]))
    require(aligned, f"pixels of x are not multiples of {ALIGNMENT_BYTES} bytes apart")
    require(all(stride > 0 for stride in found.strides), "x is repeated")
    for walk in (found.lines, found.columns):
        require(walk.lower in CORNERS and walk.upper in CORNERS, "the window leaves the image too far")
        require(walk.step <= MOST_STEP, f"the window moves more than {MOST_STEP} pixels")
        require((walk.size - 1) * walk.dilation <= MOST_OFFSET, "the window is too wide")
