"""Tiling: the schedule of every kernel, chosen by the cost model alone: deterministic, no GPU, no search on one.

Candidates are all block sizes that the target's limits allow; the cheapest by `convc.targets.cost` wins, and ties go to
the first in a fixed order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..ir.chained import ChainedContraction
from ..ir.expansion import ExpandedWindow
from ..ir.plan import POINTERS, Tile
from ..ir.pooled import PooledContraction
from ..ir.problem import EXACT_SUM, Axis, AxisReduction, Contraction, Problem, Steps, WindowReduction, steps_of
from ..ir.separable import SeparableContraction
from ..targets import Target
from ..targets.cost import contraction_seconds, lone_seconds, pooling_seconds, streaming_seconds
from . import chained_tiles, descriptor_tiles, expansion_tiles, prologue, separable_tiles
from .choice import operator_instructions
from .tile_sizes import LARGEST_BLOCK, MIN_DOT, by_time, ceil_power, powers
from .traffic import traffic

LEAST_POOLED_COLS = 16
"""Least columns of a memory-bound block whose rows are pooled: two threads' vectors."""
GATHERED_PER_THREAD = 16
"""Most elements of x that a thread addresses one by one: each takes an address, a value and its mask in registers."""
GATHERED_FOR_WINDOWS = 32
"""The same before overlapping pooling, whose tiles share less with their neighbours when they are large."""


def choose(problem: Problem, target: Target) -> Tile:
    """The cheapest schedule for a problem on a target."""
    if isinstance(problem, (Contraction, ChainedContraction)):
        best = ranked(problem, target)[0]
        return replace(best, reason=reason(problem, best, target))
    if isinstance(problem, ExpandedWindow):
        return expansion_tiles.choose(problem, target)
    return ranked(problem, target)[0]


def ranked(problem: Problem, target: Target) -> list[Tile]:
    """All candidates, the cheapest first, with their predicted times."""
    if isinstance(problem, (Contraction, ChainedContraction)):
        return _ranked_contractions(problem, target)
    if isinstance(problem, AxisReduction):
        return [_choose_reduction(problem, target)]
    if isinstance(problem, ExpandedWindow):
        return expansion_tiles.ranked(problem, target)
    return _ranked_streams(problem, target)


class Tiles:
    """Schedules for one target under conditions. Problems are ranked once, and must live as long as this does."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._ranked: dict[int, list[Tile]] = {}
        self._best: dict[tuple[int, int | None], Tile | None] = {}

    def best(self, problem: Problem) -> Tile:
        """The cheapest schedule."""
        return self.with_warps(problem, None) or choose(problem, self.target)

    def with_warps(self, problem: Problem, warps: int | None) -> Tile | None:
        """The cheapest schedule with that many warps, any number for None; None where there is none."""
        key = id(problem), warps
        if key not in self._best:
            self._best[key] = self._chosen(problem, warps)
        return self._best[key]

    def _chosen(self, problem: Problem, warps: int | None) -> Tile | None:
        if not isinstance(problem, (Contraction, ChainedContraction)):
            tile = choose(problem, self.target)
            return replace(tile, num_warps=warps or tile.num_warps)
        fitting = (tile for tile in self._candidates(problem) if warps in (None, tile.num_warps))
        best = next(fitting, None)
        return best and replace(best, reason=reason(problem, best, self.target))

    def alone(self, problem: Problem, warps: int) -> Tile | None:
        """The schedule with which one block of that many warps does the whole problem soonest; None where there is
        none that `can_be_alone`."""
        if not isinstance(problem, (Contraction, ChainedContraction)):
            tile = choose(problem, replace(self.target, sms=1))  # blocks as large as they go, as nobody waits for one
        else:
            whole = [tile for tile in self._candidates(problem) if can_be_alone(tile)]
            if not whole:
                return None
            fitting = [tile for tile in whole if tile.num_warps == warps] or whole
            tile = min(fitting, key=lambda tile: alone_seconds(problem, tile, self.target))
        seconds = alone_seconds(problem, tile, self.target)
        tiles = problem.programs(tile)
        text = f"{tile.rows}x{tile.cols}: {tiles} tiles, all by the last block; predicted {seconds * 1e6:.1f} us"
        return replace(tile, num_warps=warps, reason=text, predicted_us=round(seconds * 1e6, 3))

    def _candidates(self, problem: Contraction | ChainedContraction) -> list[Tile]:
        if id(problem) not in self._ranked:
            self._ranked[id(problem)] = ranked(problem, self.target)
        return self._ranked[id(problem)]


def can_be_alone(tile: Tile) -> bool:
    """Whether the last block of a launch may run it: it must not wait for others, and copies of the copy engine are not
    ordered behind what other blocks of the launch have stored."""
    return tile.split_k == 1 and tile.access == POINTERS


def alone_seconds(problem: Problem, tile: Tile, target: Target) -> float:
    """Predicted seconds of a problem that one block does alone."""
    if target.is_interpreter:
        return tile.predicted_us * 1e-6
    if isinstance(problem, ChainedContraction):
        return chained_tiles.alone_seconds(problem, tile, target)
    if isinstance(problem, SeparableContraction):
        return separable_tiles.alone_seconds(problem, tile, target)
    if isinstance(problem, ExpandedWindow):
        return expansion_tiles.alone_seconds(problem, tile, target)
    steps = steps_of(problem).total(tile.depth) if isinstance(problem, Contraction) else 1
    return lone_seconds(problem, tile, steps, traffic(problem).total, target)


# -- contractions -----------------------------------------------------------------------------------------------------
def _ranked_contractions(problem: Contraction | ChainedContraction, target: Target) -> list[Tile]:
    if isinstance(problem, ChainedContraction):
        return chained_tiles.ranked(problem, target)
    if isinstance(problem, SeparableContraction):
        return separable_tiles.ranked(problem, target)
    return by_time(_candidates(problem, steps_of(problem), target), _timing(problem, target))


def with_fewer_stages(problem: Problem, tile: Tile, target: Target) -> list[Tile]:
    """The same blocks of a contraction with fewer steps loaded ahead, the cheapest first, with their predicted times;
    none where its operands do not come from memory as they are."""
    if not isinstance(problem, Contraction) or isinstance(problem, SeparableContraction):
        return []
    fewer = (replace(tile, num_stages=stages, reason="") for stages in range(tile.num_stages - 1, 1, -1))
    return by_time(fewer, _timing(problem, target))


def _timing(problem: Contraction, target: Target) -> Callable[[Tile], float]:
    """Predicted seconds of a tile of a contraction."""
    steps, moved = steps_of(problem), traffic(problem).total
    issued = _prologue_instructions(problem, steps)

    def seconds(tile: Tile) -> float:
        own = contraction_seconds(problem, tile, target, steps.total(tile.depth), moved, issued)
        return own + pooling_seconds(problem, tile, target)

    return seconds


def _prologue_instructions(problem: Contraction, steps: Steps) -> int:
    """Instructions for each element of x that a prologue computes."""
    if not problem.prologue:
        return 0
    own = prologue.GATHERED_INSTRUCTIONS if steps.flat else prologue.INSTRUCTIONS
    return own + operator_instructions(statement.operator.name for statement in problem.prologue)


def reason(problem: Contraction | ChainedContraction, tile: Tile, target: Target) -> str:
    """The tile and why, for the user."""
    if isinstance(problem, ChainedContraction):
        return f"{chained_tiles.described(problem, tile, target)}; predicted {tile.predicted_us:.1f} us"
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    tiles = problem.programs(tile) // tile.split_k
    text = f"{tile.rows}x{tile.cols}x{tile.depth}: {tiles} tiles of {rows}x{cols} on {target.sms} multiprocessors"
    if tile.access != POINTERS:
        text += f", by {tile.access}"
    if tile.split_k > 1:
        text += f", the reduction split {tile.split_k} ways to fill them"
    return f"{text}; predicted {tile.predicted_us:.1f} us"


def _candidates(problem: Contraction, steps: Steps, target: Target) -> Iterator[Tile]:
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    low, high = _row_range(rows, target)
    if _is_gathered(problem, steps):
        low = min(low, max(MIN_DOT, _most_gathered(problem) // min(_depths(problem, steps, target))))
    depths = {depth: descriptor_tiles.form(problem, depth, target) for depth in _depths(problem, steps, target)}
    widest = min(ceil_power(cols), 2048 if target.is_interpreter else 256)
    for block_rows in powers(MIN_DOT if problem.normalise else low, high):
        for block_cols in powers(max(MIN_DOT, widest) if problem.normalise else MIN_DOT, widest):
            for depth, access in depths.items():
                if target.is_interpreter:
                    yield from _interpreted(access, block_rows, block_cols, depth)
                    continue
                found: list[Tile] = []
                if access:
                    found += descriptor_tiles.fitting(problem, access, target, block_rows, block_cols, depth)
                found += _fitting(problem, steps, target, block_rows, block_cols, depth)
                yield from (split for tile in found for split in _split(tile, steps.total(depth)))


def _row_range(rows: int, target: Target) -> tuple[int, int]:
    if target.is_interpreter:
        return MIN_DOT, min(ceil_power(rows), 8192)
    return (16 if target.instruction == "mma" and rows < 64 else 64 if rows > 32 else 16), 256 if rows > 64 else 64


def _depths(problem: Contraction, steps: Steps, target: Target) -> Iterator[int]:
    widest = 1024 if target.is_interpreter else (128 if problem.compute.itemsize == 2 else 32)
    if steps.flat:
        yield max(MIN_DOT, ceil_power(steps.length))
        return
    top = min(ceil_power(steps.length), widest if problem.sums.is_float else min(widest, EXACT_SUM))
    yield from (depth for depth in powers(MIN_DOT, top) if depth >= min(32, top))


def _interpreted(access: str | None, rows: int, cols: int, depth: int) -> Iterator[Tile]:
    """Tiles of this block size in the interpreter; it takes descriptors where a GPU could."""
    if rows * cols <= LARGEST_BLOCK and max(rows, cols) * depth <= LARGEST_BLOCK:
        pointers = Tile(rows, cols, depth, num_warps=1, num_stages=1)
        yield from [replace(pointers, access=access)] if access else []
        yield pointers


def _fitting(problem: Contraction, steps: Steps, target: Target, rows: int, cols: int, depth: int) -> Iterator[Tile]:
    """Tiles of this block size, with pointers, that the target's limits allow."""
    gathered = rows * depth if _is_gathered(problem, steps) else 0
    warps = 8 if rows * cols >= 128 * 128 or gathered > GATHERED_PER_THREAD * 128 else 4
    if rows * cols > _accumulator_limit(problem) or gathered > _most_gathered(problem):
        return
    for stages in (4, 3, 2):
        if stages * depth * (rows + cols) * problem.compute.itemsize + 4096 <= min(target.shared_bytes, 160 * 1024):
            break
    else:
        return
    yield Tile(rows, cols, depth, warps, stages)


def _split(tile: Tile, steps: int) -> Iterator[Tile]:
    """A tile for a loop of so many steps, whole and split."""
    for split in _splits(steps):
        yield replace(tile, num_stages=min(tile.num_stages, max(2, steps // split)), split_k=split)


def _is_gathered(problem: Contraction, steps: Steps) -> bool:
    """Whether x goes through registers: its channels are not neighbours in memory, a step crosses taps, or a prologue
    computes on it."""
    return steps.flat or problem.x_depth != 1 or bool(problem.prologue)


def _most_gathered(problem: Contraction) -> int:
    """Most elements of x that the 8 warps of a block address one by one."""
    overlaps = isinstance(problem, PooledContraction) and problem.overlaps
    return (GATHERED_FOR_WINDOWS if overlaps else GATHERED_PER_THREAD) * 256


def _accumulator_limit(problem: Contraction) -> int:
    """Most accumulators of a block: 128 x 128 of tensor cores on 8 warps; half of that where the products are made
    without tensor cores, which keep their operands in registers."""
    return 128 * 128 if problem.compute.itemsize == 2 else 64 * 64


def _splits(steps: int) -> Iterator[int]:
    """Ways to split a reduction evenly."""
    yield 1
    yield from (split for split in (2, 3, 4, 6, 8, 9, 12, 16, 18) if steps % split == 0 and steps // split >= 2)


# -- memory-bound kernels ---------------------------------------------------------------------------------------------
def _ranked_streams(problem: Problem, target: Target) -> list[Tile]:
    """Blocks of about one vector per thread: wide along the columns, which are contiguous as a rule; but the cheapest
    of all where results are pooled along the rows, as high blocks leave fewer partial results."""
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    budget = LARGEST_BLOCK if target.is_interpreter else _streaming_block(problem, target)
    widest = min(ceil_power(cols), 256 if not target.is_interpreter else 4096)
    narrowest = min(widest, LEAST_POOLED_COLS) if problem.pool is not None else widest
    shapes = [(max(1, min(ceil_power(rows), budget // width)), width) for width in powers(narrowest, widest)]
    return sorted((_streamed(problem, target, *shape) for shape in shapes[::-1]), key=lambda tile: tile.predicted_us)


def _streamed(problem: Problem, target: Target, block_rows: int, block_cols: int) -> Tile:
    """A memory-bound kernel's tile of this size, with its predicted time."""
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    tile = Tile(block_rows, block_cols, num_warps=1 if target.is_interpreter else 4, num_stages=1)
    programs = problem.programs(tile)
    taps = math.prod(tap.size for tap in getattr(problem, "taps", ()))
    elements = programs * block_rows * block_cols * (len(problem.reads) - 1 + taps + 1)
    seconds = streaming_seconds(problem, programs, elements, target, traffic(problem).total)
    seconds += pooling_seconds(problem, tile, target)
    reason = f"{block_rows}x{block_cols}: {programs} blocks over {rows}x{cols}; predicted {seconds * 1e6:.1f} us"
    return replace(tile, reason=reason, predicted_us=round(seconds * 1e6, 3))


def _streaming_block(problem: Problem, target: Target) -> int:
    """Elements of a block on a GPU: 1024, or fewer where that would leave multiprocessors idle."""
    size = problem.extent(Axis.ROW) * problem.extent(Axis.COL) * problem.extent(Axis.GROUP)
    weighted = isinstance(problem, WindowReduction)
    largest = 1024 if weighted else 2048
    return max(128, min(largest, ceil_power(max(1, size // (2 * target.sms)))))


def _choose_reduction(problem: AxisReduction, target: Target) -> Tile:
    rows = problem.extent(Axis.ROW)
    length = problem.extent(Axis.COL) if problem.family == "softmax" else math.prod(e for e, _ in problem.reduced)
    largest = LARGEST_BLOCK if target.is_interpreter else 4096
    block_cols = ceil_power(length)
    if problem.family != "softmax":
        block_cols = min(block_cols, _reduction_width(target))
    fill = 1 if target.is_interpreter else max(1, rows // (2 * target.sms))
    wanted = ceil_power(rows) if target.is_interpreter else min(ceil_power(fill), 32)
    contiguous_rows = problem.x.strides and problem.x.strides[-1] == 1 and problem.family != "softmax"
    if contiguous_rows and not target.is_interpreter:
        wanted = max(wanted, min(ceil_power(rows), 32))
    block_rows = max(1, min(wanted, largest // block_cols))
    warps = 1 if target.is_interpreter else 4 if block_rows * block_cols <= 4096 else 8
    programs = math.ceil(rows / block_rows)
    seconds = streaming_seconds(problem, programs, rows * length, target, traffic(problem).total)
    reason = f"{block_rows} results of {length} elements per block; predicted {seconds * 1e6:.1f} us"
    return Tile(block_rows, block_cols, 1, warps, 1, reason=reason, predicted_us=round(seconds * 1e6, 3))


def _reduction_width(target: Target) -> int:
    return 4096 if target.is_interpreter else 128
