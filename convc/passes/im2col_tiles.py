"""Convolutions whose boxes the copy engine fetches as it walks over windows: which launches become that, and how.

Only launches of one convolution do, and only once it is known which are: a kernel in Gluon shares no launch with one in
Triton's own language. The cost model takes the form where it predicts no more time than for the schedule that stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..ir.im2col import im2col
from ..ir.matrices import MAX_BOX, NotMatrices, has_matrices
from ..ir.plan import IM2COL, Tile
from ..ir.problem import Axis, Contraction, Problem, steps_of
from ..targets import Target
from ..targets.cost import contraction_seconds
from . import tiling
from .launches import Launch
from .slices import Entry
from .tile_sizes import MIN_DOT, MOST_STAGES, RESERVED_BYTES, by_time, ceil_power, powers
from .traffic import traffic

ROWS = (64, 128, 256)
DEPTHS = (64, 32, 16)
SUMS_PER_THREAD = 128
SUMS_BESIDE_OPERANDS = 64
"""The same where the epilogue holds operands of the whole tile beside them."""


def walking(schedule: Sequence[Entry], target: Target) -> list[Entry]:
    """The schedule with every launch of one convolution that is not predicted to be slower that way."""
    return [_walking(entry, target) if isinstance(entry, Launch) else entry for entry in schedule]


def _walking(launch: Launch, target: Target) -> Launch:
    if len(launch.steps) > 1:
        return launch
    (step,) = launch.steps
    problem = step.work.problem
    if type(problem) is not Contraction or has_matrices(problem):
        return launch
    best = next(iter(ranked(problem, target)), None)
    if best is None or best.predicted_us > step.tile.predicted_us:
        return launch
    return replace(launch, steps=(replace(step, tile=replace(best, reason=tiling.reason(problem, best, target))),))


def candidates(problem: Problem, target: Target) -> list[Tile]:
    """Every schedule of a launch of one problem, this form among them where it is to be used, the cheapest first."""
    others = tiling.ranked(problem, target)
    if type(problem) is not Contraction or not target.has_im2col:
        return others
    return sorted([*others, *ranked(problem, target)], key=lambda tile: tile.predicted_us)


def ranked(problem: Contraction, target: Target) -> list[Tile]:
    """All schedules of that form, the cheapest first; none where the engine cannot walk the windows."""
    try:
        im2col(problem)
    except NotMatrices:
        return []
    depth = next(depth for depth in DEPTHS if problem.depth % depth == 0)
    steps, moved = steps_of(problem).total(depth), traffic(problem).total
    return by_time(
        _candidates(problem, target, depth), lambda tile: contraction_seconds(problem, tile, target, steps, moved)
    )


def _candidates(problem: Contraction, target: Target, depth: int) -> Iterator[Tile]:
    along = problem.positions(Axis.ROW)
    beside = any(operand.strides[index] for operand in problem.operands for index in along)
    most = SUMS_BESIDE_OPERANDS if beside else SUMS_PER_THREAD
    for rows in ROWS:
        for cols in powers(MIN_DOT, min(MAX_BOX, ceil_power(problem.extent(Axis.COL)))):
            warps = 4 if rows * cols <= SUMS_BESIDE_OPERANDS * 128 else 8
            free = target.shared_bytes - RESERVED_BYTES - rows * cols  # the sums' way to the store: a byte for each
            stages = min(MOST_STAGES, free // (2 * depth * (rows + cols)))
            if rows < 16 * warps or rows * cols > most * 32 * warps or stages < 2:
                continue
            for producers in (1, 0):
                yield Tile(rows, cols, depth, warps, stages, access=IM2COL, producers=producers)
