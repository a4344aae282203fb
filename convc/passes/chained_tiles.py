"""Tiles of two products in one kernel, ranked by predicted time.

A tile has all the middle channels, so that a program makes the first product of its rows once and then one block of
columns of the second after the other: fewer programs, or, with its blocks of columns split among several, the first
product made again in each. No reduction is split: the first has to be whole before the second begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ..ir.chained import ChainedContraction
from ..ir.plan import Tile
from ..ir.problem import Axis, steps_of
from ..targets import Target
from ..targets.cost import (
    BLOCK_L2_BYTES_PER_S,
    BLOCKS_PER_SM,
    INTERPRETER_ELEMENT_S,
    INTERPRETER_FLOP_S,
    INTERPRETER_PROGRAM_S,
    INTERPRETER_STEP_S,
    issue_efficiency,
)
from .tile_sizes import LARGEST_BLOCK, MIN_DOT, by_time, ceil_power, powers
from .traffic import traffic

MOST_SHARED = 160 * 1024
"""Most shared memory of a block."""
MOST_GATHERED = 16
"""Most elements of x that a thread addresses one by one."""


def ranked(problem: ChainedContraction, target: Target) -> list[Tile]:
    """All candidates, the cheapest first, with their predicted times."""
    moved = traffic(problem).total
    return by_time(_candidates(problem, target), lambda tile: _seconds(problem, tile, target, moved))


def described(problem: ChainedContraction, tile: Tile, target: Target) -> str:
    """A tile in words."""
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    text = f"{tile.rows}x{problem.middle}x{tile.depth}, then {tile.col_blocks} of {tile.rows}x{tile.cols}"
    return f"{text}: {problem.programs(tile)} blocks for {rows}x{cols} on {target.sms} multiprocessors"


def asked_elements(problem: ChainedContraction, tile: Tile) -> int:
    """Elements of x and of both weights that the loops load, as often as they do."""
    middle = problem.middle_block
    loop = steps_of(problem.first).total(tile.depth) * tile.depth * (tile.rows + middle)
    return problem.programs(tile) * (loop + tile.col_blocks * middle * tile.cols)


# -- candidates -------------------------------------------------------------------------------------------------------
def _candidates(problem: ChainedContraction, target: Target) -> Iterator[Tile]:
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    for block_rows in _rows(problem, target):
        for block_cols in powers(MIN_DOT, min(ceil_power(cols), 2048 if target.is_interpreter else 128)):
            for depth in _depths(problem, target):
                yield from _fitting(problem, target, min(block_rows, max(MIN_DOT, ceil_power(rows))), block_cols, depth)


def _rows(problem: ChainedContraction, target: Target) -> Iterator[int]:
    """Heights of tiles; below 64 rows only where no more are there, or where fp32 takes the registers."""
    rows = problem.extent(Axis.ROW)
    if target.is_interpreter:
        return powers(MIN_DOT, min(ceil_power(rows), 4096))
    small = rows <= 32 or problem.first.compute.itemsize == 4 or target.instruction == "mma"
    return powers(MIN_DOT if small else 64, 128 if rows > 64 else 64)


def _depths(problem: ChainedContraction, target: Target) -> Iterator[int]:
    steps = steps_of(problem.first)
    if steps.flat:
        return powers(max(MIN_DOT, ceil_power(steps.length)), MIN_DOT)
    widest = 1024 if target.is_interpreter else 128 if problem.first.compute.itemsize == 2 else 32
    top = max(MIN_DOT, min(ceil_power(steps.length), widest))
    return powers(min(32, top), top)


def _fitting(problem: ChainedContraction, target: Target, rows: int, cols: int, depth: int) -> Iterator[Tile]:
    """Tiles of this block size that the target's limits allow, with the columns in one program or in several."""
    middle = problem.middle_block
    blocks = math.ceil(problem.extent(Axis.COL) / cols)
    if target.is_interpreter:
        if max(rows * max(middle, cols), depth * max(rows, middle), middle * cols) <= LARGEST_BLOCK:
            yield Tile(rows, cols, depth, 1, 1, col_blocks=blocks)
        return
    itemsize = problem.first.compute.itemsize
    warps = 8 if rows * max(middle, cols) >= 128 * 128 else 4
    gathered = rows * depth if steps_of(problem.first).flat or problem.first.x_depth != 1 else 0
    if rows * (middle + cols) > (128 * 256 if itemsize == 2 else 32 * 128) or gathered > MOST_GATHERED * 32 * warps:
        return
    for stages in (4, 3, 2):
        loop = stages * depth * (rows + middle)
        second = rows * middle + stages * middle * cols
        if max(loop, second) * itemsize + 4096 <= min(target.shared_bytes, MOST_SHARED):  # one after the other
            break
    else:
        return
    for count in _divisions(blocks):
        yield Tile(rows, cols, depth, warps, stages, col_blocks=count)


def _divisions(blocks: int) -> Iterator[int]:
    """Blocks of columns a program: all, some, or one."""
    yield from dict.fromkeys(math.ceil(blocks / parts) for parts in (1, 2, 4, 8, blocks))


# -- time -------------------------------------------------------------------------------------------------------------
def _seconds(problem: ChainedContraction, tile: Tile, target: Target, moved: int) -> float:
    """Predicted seconds: launch + max(arithmetic, L2, DRAM, latency), as in `convc.targets.cost`."""
    count, first = problem.programs(tile), problem.first
    if target.is_interpreter:
        return count * _interpreted(problem, tile)
    arithmetic = math.ceil(count / target.sms) * _products_seconds(problem, tile, target)
    loaded = asked_elements(problem, tile) * first.compute.itemsize
    memory = max(loaded / target.l2_bytes_per_s, moved / target.dram_bytes_per_s)
    latency = _latency(problem, tile, target) * math.ceil(count / (target.sms * BLOCKS_PER_SM))
    return target.launch_s + max(arithmetic, memory, latency)


def _interpreted(problem: ChainedContraction, tile: Tile) -> float:
    """Seconds of one program in Triton's interpreter."""
    middle, steps = problem.middle_block, steps_of(problem.first).total(tile.depth)
    loop, block = tile.depth * (tile.rows + middle), middle * tile.cols
    flops = 2.0 * tile.rows * tile.depth * middle, 2.0 * tile.rows * middle * tile.cols
    seconds = steps * (INTERPRETER_STEP_S + loop * INTERPRETER_ELEMENT_S + flops[0] * INTERPRETER_FLOP_S)
    block_seconds = INTERPRETER_STEP_S + block * INTERPRETER_ELEMENT_S + flops[1] * INTERPRETER_FLOP_S
    stored = tile.rows * tile.cols * INTERPRETER_ELEMENT_S
    return INTERPRETER_PROGRAM_S + seconds + tile.col_blocks * (block_seconds + stored)


def alone_seconds(problem: ChainedContraction, tile: Tile, target: Target) -> float:
    """Predicted seconds that one block takes for the whole problem, whose data lie in L2."""
    count = problem.programs(tile)
    loaded = asked_elements(problem, tile) * problem.first.compute.itemsize / BLOCK_L2_BYTES_PER_S
    return max(loaded, count * max(_products_seconds(problem, tile, target), _latency(problem, tile, target)))


def _products_seconds(problem: ChainedContraction, tile: Tile, target: Target) -> float:
    """Seconds that one multiprocessor multiplies for one program."""
    first, middle = problem.first, problem.middle_block
    rate = (target.tensor_flops if first.compute.itemsize == 2 else target.fp32_flops) / target.sms
    once = 2.0 * steps_of(first).total(tile.depth) * tile.rows * tile.depth * middle
    again = 2.0 * tile.col_blocks * tile.rows * middle * tile.cols
    once, again = (
        once / issue_efficiency(replace(tile, cols=middle)),
        again / issue_efficiency(replace(tile, depth=middle)),
    )
    return (once + again) / rate


def _latency(problem: ChainedContraction, tile: Tile, target: Target) -> float:
    """Seconds of one program's chain of dependent steps; the second loop begins when the first has ended."""
    steps = steps_of(problem.first).total(tile.depth) + tile.col_blocks
    return (steps / max(tile.num_stages - 1, 1) + 1) * target.step_s
