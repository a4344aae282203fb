"""Schedules of contractions whose operands the copy engine fetches.

The threads hold sums and nothing else, so that tiles are larger than those of pointers, and 4 warps drive what takes 8
there. Shared memory is the limit: a block may take all of a multiprocessor's, or half of it, so that two of them take
turns with copies and products.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.flat import is_flat
from ..ir.matrices import MAX_BOX, has_matrices
from ..ir.plan import DESCRIPTORS, SHIFTED, Tile
from ..ir.problem import Contraction
from ..targets import Target
from .tile_sizes import MIN_DOT, MOST_STAGES, RESERVED_BYTES, ceil_power

LEAST_DEPTH = 64
"""Depth of a step where channels allow: rows of 128 bytes, which is the widest swizzle."""
SUMS_PER_THREAD = {"mma": 64, "wgmma": 128, "tcgen05": 128}
"""Most accumulators of a thread, by the instruction of the tensor cores: what `mma` multiplies takes registers too."""


def form(problem: Contraction, depth: int, target: Target) -> str | None:
    """How a target can fetch the operands of a problem in steps of this depth, or those of its flat form; None where it
    cannot. Where a window has several positions, steps must end where its channels do: the rows of w behind them are
    the next position's, and the zeros that x has there do not make zero of infinity."""
    if not target.has_descriptors or (problem.taps and problem.depth % depth):
        return None
    return DESCRIPTORS if has_matrices(problem) else SHIFTED if is_flat(problem) else None


def fitting(problem: Contraction, access: str, target: Target, rows: int, cols: int, depth: int) -> Iterator[Tile]:
    """Tiles of this block size, of an unsplit reduction, that the target's limits allow."""
    if max(rows, cols, depth) > MAX_BOX or depth < _least_depth(problem):
        return
    for warps in _warps(rows * cols, target):
        for stages in _stages(target, depth * (rows + cols) * problem.compute.itemsize):
            yield Tile(rows, cols, depth, warps, stages, access=access)


def _least_depth(problem: Contraction) -> int:
    """Depth of a step that takes rows as wide as the channels allow."""
    reach = problem.depth & -problem.depth if problem.taps else ceil_power(problem.depth)  # the largest that divides
    return min(LEAST_DEPTH, max(MIN_DOT, reach))


def _warps(sums: int, target: Target) -> Iterator[int]:
    """4 warps where each thread can hold its share of the sums; 8 for more, and besides where threads that hold fewer
    cost no more instructions: products out of registers take as many, and tcgen05 is issued by one thread."""
    each = SUMS_PER_THREAD[target.instruction] * 32
    if sums <= 4 * each:
        yield 4
    wide = sums > 4 * each or (target.instruction != "wgmma" and sums >= 128 * 128)
    if wide and sums <= 8 * each:
        yield 8


def _stages(target: Target, nbytes: int) -> Iterator[int]:
    """The deepest pipeline of one block to a multiprocessor, and that of two, for ``nbytes`` of operands a step."""
    found = {min(MOST_STAGES, (target.shared_bytes // blocks - RESERVED_BYTES) // nbytes) for blocks in (1, 2)}
    yield from (stages for stages in sorted(found, reverse=True) if stages >= 2)
