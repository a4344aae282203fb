"""The flat form of a convolution over a tensor between zeros: the rows of its product are all pixels of the input,
zeros included, so that a tap reads the same rows further on, and a tile of them is a box out of a matrix.

Line and image run on into the next one, as they share their zeros: what pixel m of the input needs under the tap (r, s)
is pixel m + (r·d − pad)·line + s·d − pad of one matrix. Pixels that are no place of the window are computed as well,
and dropped, or stored as the zeros that the result needs there itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .matrices import ALIGNMENT_BYTES, Matrices, Matrix, NotMatrices, check_operands, require, right
from .plan import Border
from .problem import Axis, Contraction, IterDim, Operand, steps_of
from .rewriting import mapped

PIXEL = "m"
"""The iteration dimension of the input's pixels."""
_SPATIAL = ("n", "p", "q")


@dataclass(frozen=True)
class FlatContraction(Contraction):
    """A convolution whose rows are the pixels m of its input, of all images, with the zeros behind lines and images.

    x begins with the margin in front of them. Operands whose pixels lie like the input's step along m, others along n,
    p and q: the place of the window at pixel m, which exists where p and q are below ``places``. border: of the input.
    whole: whether what is stored lies like the input, so that zeros are stored where there is no place.
    """

    border: Border = field(kw_only=True)
    places: tuple[int, int] = field(kw_only=True)
    whole: bool = field(kw_only=True)

    def extent(self, axis: Axis) -> int:
        return self.border.images * self.border.image if axis is Axis.ROW else super().extent(axis)


def flattened(problem: Contraction) -> FlatContraction:
    """The flat form of a convolution.

    Raises:
        NotMatrices: it has none.
    """
    require(type(problem) is Contraction, "it computes something besides")
    require(not (problem.prologue or problem.normalise or problem.pool), "it computes something besides")
    border = problem.x.border
    if border is None:
        raise NotMatrices("x lies between no zeros")
    require(all(tap.step == 1 and not tap.masked for tap in problem.taps), "windows move in steps, or leave the zeros")
    uneven = any(operand.unravel or operand.bounds for operand in (*problem.operands, problem.output))
    require(not uneven, "what it stores or reads besides is no tensor of places and columns")
    rows = problem.positions(Axis.ROW)
    extents = {problem.dims[index].name: problem.dims[index].extent for index in rows}
    require(problem.extent(Axis.GROUP) == 1 and extents.keys() <= set(_SPATIAL), "its rows are not the pixels of x")
    return _rebuilt(problem, border, rows, (extents.get("p", 1), extents.get("q", 1)))


def is_flat(problem: Contraction) -> bool:
    """Whether a convolution has a flat form that boxes of matrices can be fetched for."""
    try:
        flat_matrices(flattened(problem))
    except NotMatrices:
        return False
    return True


def flat_matrices(problem: FlatContraction) -> Matrices:
    """Both operands: x with its margin, w with the rows of all taps.

    Raises:
        NotMatrices: an operand steps unevenly, or is not aligned.
    """
    check_operands(problem)
    require(problem.x_depth == 1, "the channels of x are not neighbours in memory")
    require(not steps_of(problem).flat, "a step covers a line of the filter")
    w, transposed = right(problem)
    require(not transposed and all(tap.w_stride % w.pitch == 0 for tap in problem.taps), "taps of w are no rows")
    border = problem.border
    pitch = border.channels * problem.x.dtype.itemsize
    require(pitch % ALIGNMENT_BYTES == 0, f"rows of x are not multiples of {ALIGNMENT_BYTES} bytes apart")
    x = Matrix(problem.x, border.pixels, problem.depth, border.channels)
    return Matrices(x, replace(w, rows=problem.tap_count * problem.depth), first_row=border.margin)


def _rebuilt(problem: Contraction, border: Border, rows: list[int], places: tuple[int, int]) -> FlatContraction:
    cols = problem.positions(Axis.COL)
    numbers = {old: new for new, old in enumerate((*rows, -1, *cols))}

    def stepping(operand: Operand) -> Operand:
        pitch = _pitch(operand, border)
        by_place = [0 if pitch else operand.strides[index] for index in rows]
        splits = tuple(replace(split, dim=numbers[split.dim]) for split in operand.splits)
        return replace(operand, strides=(*by_place, pitch, *(operand.strides[index] for index in cols)), splits=splits)

    pixel = IterDim(PIXEL, border.images * border.image, Axis.ROW)
    stepped = mapped(problem, stepping)
    changes: dict[str, Any] = {
        "dims": (*(problem.dims[index] for index in rows), pixel, *(problem.dims[index] for index in cols)),
        "x": replace(stepped.x, offset=stepped.x.offset - border.margin * border.channels),
        "whole": _pitch(problem.output, border) > 0,
    }
    return FlatContraction(**vars(stepped) | changes, border=border, places=places)


def _pitch(operand: Operand, border: Border) -> int:
    """Elements from pixel to pixel of an operand that lies like the input; 0 where it does not."""
    own = operand.border
    return own.channels if own is not None and replace(own, channels=border.channels) == border else 0
