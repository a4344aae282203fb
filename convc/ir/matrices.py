"""Operands of a contraction as plain matrices, which is what a tensor map describes.

The copy engine of a GPU fetches a box out of a matrix whose rows are contiguous and evenly apart, and fills what lies
outside with zeros. A contraction can be fed that way where both its operands are such matrices along the reduction.
"""

from __future__ import annotations

from dataclasses import dataclass

from .pooled import PooledContraction
from .problem import Axis, Contraction, Operand
from .types import DType

ALIGNMENT_BYTES = 16
"""What the address of a matrix and the distance of its rows are multiples of."""
MAX_BOX = 256
"""Most elements of a box along a dimension."""


@dataclass(frozen=True)
class Matrix:
    """``rows`` x ``cols`` elements; neighbouring rows are ``pitch`` elements apart."""

    operand: Operand
    rows: int
    cols: int
    pitch: int


@dataclass(frozen=True)
class Matrices:
    """x as rows x depth, w as depth x columns, or as columns x depth where it is ``transposed``.

    image_rows: rows of x from one group of the problem to the next. first_row: of x, where the problem's rows begin.
    """

    x: Matrix
    w: Matrix
    transposed: bool = False
    image_rows: int = 0
    first_row: int = 0


class NotMatrices(Exception):
    """Why the operands of a contraction are no such matrices, a sentence fragment."""


def matrices(problem: Contraction) -> Matrices:
    """Both operands of a contraction.

    Raises:
        NotMatrices: an operand is computed on while it is loaded, or steps unevenly, or is not aligned.
    """
    _check_form(problem)
    w, transposed = right(problem)
    x, image_rows = _left(problem)
    return Matrices(x, w, transposed, image_rows)


def has_matrices(problem: Contraction) -> bool:
    """Whether both operands are matrices."""
    try:
        matrices(problem)
    except NotMatrices:
        return False
    return True


def require(condition: bool, otherwise: str) -> None:
    """Raises `NotMatrices` with a reason unless a condition holds."""
    if not condition:
        raise NotMatrices(otherwise)


def _check_form(problem: Contraction) -> None:
    require(not isinstance(problem, PooledContraction), "rows come in windows")
    require(not problem.taps, "windows have more than one position")
    require(not problem.prologue, "x is computed on while it is loaded")
    check_operands(problem)
    require(problem.pool is None or problem.pool.mode != "max", "rows past the end would take part in the maximum")


def check_operands(problem: Contraction) -> None:
    """Raises `NotMatrices` where x and w are not of the type of the products, 16 bits wide, or step unevenly."""
    for operand in (problem.x, problem.w):
        same = operand.dtype is problem.compute and operand.dtype.itemsize == 2 and operand.dtype.is_float
        require(same, f"{operand.name} is {operand.dtype}, and not of a 16-bit type")
        require(not (operand.unravel or operand.bounds or operand.splits), f"{operand.name} steps unevenly")


def _left(problem: Contraction) -> tuple[Matrix, int]:
    """x, and its rows from one group to the next."""
    x, rows = problem.x, problem.extent(Axis.ROW)
    require(problem.x_depth == 1 or problem.depth == 1, "the channels of x are not neighbours in memory")
    step = _even_step(problem, x, Axis.ROW)
    pitch = step or pitch_of(problem.depth, x.dtype)
    _check_aligned(x, pitch)
    apart, groups = _even_step(problem, x, Axis.GROUP), problem.extent(Axis.GROUP)
    require(groups == 1 or apart % pitch == 0, "groups of x do not begin at rows of it")
    image_rows = apart // pitch if groups > 1 else 0
    return Matrix(x, (groups - 1) * image_rows + rows, problem.depth, pitch), image_rows


def right(problem: Contraction) -> tuple[Matrix, bool]:
    """w, and whether its rows are the columns of the problem."""
    w, cols = problem.w, problem.extent(Axis.COL)
    require(not any(w.strides[index] for index in problem.positions(Axis.GROUP)), "each group has weights of its own")
    step = _even_step(problem, w, Axis.COL)
    if step == 1 or cols == 1:
        pitch = problem.w_depth if problem.depth > 1 else pitch_of(cols, w.dtype)
        _check_aligned(w, pitch)
        return Matrix(w, problem.depth, cols, pitch), False
    require(problem.w_depth == 1 or problem.depth == 1, "w is contiguous along neither of its dimensions")
    _check_aligned(w, step)
    return Matrix(w, cols, problem.depth, step), True


def _even_step(problem: Contraction, operand: Operand, axis: Axis) -> int:
    """Elements from one index of an axis to the next; 0 where the axis has one index."""
    step, reach = 0, 0
    for index in reversed(problem.positions(axis)):
        extent, stride = problem.dims[index].extent, operand.strides[index]
        if extent == 1:
            continue
        require(step == 0 or stride == reach, f"{operand.name} steps unevenly")
        require(stride > 0, f"{operand.name} is repeated")
        step, reach = step or stride, stride * extent
    return step


def _check_aligned(operand: Operand, pitch: int) -> None:
    """Rows are aligned, and those of other parts of a batch would be."""
    itemsize = operand.dtype.itemsize
    rows = [stride for stride in operand.strides if stride != 1]
    aligned = all(step * itemsize % ALIGNMENT_BYTES == 0 for step in (operand.offset, pitch, *rows))
    require(aligned, f"rows of {operand.name} are not multiples of {ALIGNMENT_BYTES} bytes apart")


def pitch_of(elements: int, dtype: DType) -> int:
    """A distance that is aligned, for so many elements that lie by themselves."""
    unit = ALIGNMENT_BYTES // dtype.itemsize
    return -(-elements // unit) * unit
