"""Programs that are enough for fewer images than a launch was planned for.

Programs of a kernel are numbered with columns of a tile fastest, then rows, then groups. Where images are the outermost
rows or groups, those of the first images come first: a launch of that many programs computes them, of the very same
kernel. Which they are says the problem for a part of the batch (`convc.passes.slices.divided`), under the same tile.
"""

from __future__ import annotations

import math
from collections.abc import Set

from ..ir import Value
from ..ir.plan import SHIFTED, Layouts, Tile
from ..ir.problem import Axis, Contraction, Operand, Problem, WindowReduction
from .slices import divided

SHARING = (Contraction, Problem, WindowReduction)
"""Problems whose tiles of rows share the zeros around their results."""


def fewer_programs(
    problem: Problem, tile: Tile, grid: tuple[int, int, int], layouts: Layouts, batch: int, held: Set[Value]
) -> tuple[tuple[int, int], ...]:
    """(images, programs along the grid's first dimension) for halves of the batch, halves of those and so on.

    The fewest come first; there are none where the programs are in another order. held: the values whose first
    dimension holds the images.
    """
    operands = [*problem.reads, *problem.stores]
    if problem.programs(tile) != math.prod(grid) or not all(_holds(operand, held) for operand in operands):
        return ()
    found, parts = [], 2
    while batch % parts == 0:
        part = divided(problem, layouts, parts)
        if part is None or not _in_front(problem, part):
            break
        programs = max(part.programs(tile) // math.prod(grid[1:]), _for_zeros(problem, tile, grid[0], parts))
        if programs < grid[0]:
            found.append((batch // parts, programs))
        parts *= 2
    return tuple(reversed(found))


def _for_zeros(problem: Problem, tile: Tile, programs: int, parts: int) -> int:
    """Programs that write the zeros around the images of one of so many parts, and those that close its last image.

    Every tile of rows writes the same number of them, in the order of the images (`convc.codegen.border`). In the flat
    form zeros are rows, but for those in front of the first image.
    """
    across = math.ceil(problem.extent(Axis.COL) / (tile.cols * tile.col_blocks))
    needed = 0
    for border in (operand.border for operand in problem.stores if operand.border is not None):
        if type(problem) not in SHARING or problem.extent(Axis.GROUP) > 1 or border.images % parts:
            return programs
        images = 0 if tile.access == SHIFTED else border.images
        each = math.ceil((images * border.around + border.margin) / (programs // across))
        zeros = images // parts * border.around + border.margin
        needed = max(needed, math.ceil(zeros / each) * across)
    return needed


def _holds(operand: Operand, held: Set[Value]) -> bool:
    """Whether an operand holds images, or is a weight."""
    return not isinstance(operand.source, Value) or operand.source in held


def _in_front(problem: Problem, part: Problem) -> bool:
    """Whether the part is of the outermost groups, or of the outermost rows where there is one group."""
    pairs = enumerate(zip(problem.dims, part.dims, strict=True))
    index = next(i for i, (whole, some) in pairs if whole.extent != some.extent)
    axis = problem.dims[index].axis
    alone = axis is Axis.GROUP or (axis is Axis.ROW and problem.extent(Axis.GROUP) == 1)
    return alone and problem.positions(axis)[0] == index
