"""Tiles of depthwise convolutions that expand their input themselves, ranked by predicted time.

A step is one tap: ``rows × depth`` of x and ``depth × cols`` of weights make ``rows × cols`` expanded values, which
ordinary units then finish. Its time is that of both, one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from ..ir.expansion import ExpandedWindow
from ..ir.plan import Tile
from ..ir.problem import Axis
from ..targets import Target
from ..targets.cost import (
    BLOCK_L2_BYTES_PER_S,
    BLOCKS_PER_SM,
    INTERPRETER_ELEMENT_S,
    INTERPRETER_FLOP_S,
    INTERPRETER_PROGRAM_S,
    INTERPRETER_STEP_S,
    pooling_seconds,
)
from .choice import TENSOR_EFFICIENCY
from .expansion import STEP_INSTRUCTIONS, VALUES_PER_THREAD, instructions
from .tile_sizes import LARGEST_BLOCK, MIN_DOT, by_time, covering
from .traffic import traffic

SCALAR_VALUES = 8
"""The same where products are made without tensor cores, and operands take registers too."""
STAGES = 3
"""Taps whose pixels are in flight at once."""
LARGEST_WEIGHTS = 4096
"""Most bytes of expansion weights of a block, which stay in registers or shared memory throughout."""


def choose(problem: ExpandedWindow, target: Target) -> Tile:
    """The cheapest tile."""
    best = ranked(problem, target)[0]
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    text = f"{best.rows}x{best.cols}x{best.depth}: {problem.programs(best)} tiles of {rows}x{cols}"
    reason = f"{text} on {target.sms} multiprocessors; predicted {best.predicted_us:.1f} us"
    return replace(best, reason=reason)


def ranked(problem: ExpandedWindow, target: Target) -> list[Tile]:
    """All candidates, the cheapest first, with their predicted times."""
    moved = traffic(problem).total
    candidates = _interpreted(problem) if target.is_interpreter else _compiled(problem)
    return by_time(candidates, lambda tile: _seconds(problem, tile, target, moved))


# -- candidates -------------------------------------------------------------------------------------------------------
def _interpreted(problem: ExpandedWindow) -> Iterator[Tile]:
    depth = problem.expansion.block
    for rows in covering(problem.extent(Axis.ROW), 8192):
        for cols in covering(problem.extent(Axis.COL), 2048):
            if max(rows * cols, max(rows, cols) * depth) <= LARGEST_BLOCK:
                yield Tile(rows, cols, depth, num_warps=1, num_stages=1)


def _compiled(problem: ExpandedWindow) -> Iterator[Tile]:
    depth, size = problem.expansion.block, problem.compute.itemsize
    scalar = size == 4 and problem.precision == "ieee"
    most = SCALAR_VALUES if scalar else VALUES_PER_THREAD
    for rows in covering(problem.extent(Axis.ROW), 128):
        for cols in covering(problem.extent(Axis.COL), 128):
            for warps in (4, 8):
                fits = rows * cols <= most * 32 * warps and rows * depth <= VALUES_PER_THREAD * 32 * warps
                if fits and (depth * cols * size <= LARGEST_WEIGHTS or cols == MIN_DOT):
                    yield Tile(rows, cols, depth, warps, num_stages=STAGES)
                    break


# -- time -------------------------------------------------------------------------------------------------------------
def _seconds(problem: ExpandedWindow, tile: Tile, target: Target, moved: int) -> float:
    """Predicted seconds: launch + max(arithmetic, L2, DRAM, latency), as in `convc.targets.cost`."""
    taps, values, programs = problem.tap_count, tile.rows * tile.cols, problem.programs(tile)
    if target.is_interpreter:
        step = INTERPRETER_STEP_S * (2 + len(problem.expansion.statements))
        step += values * (INTERPRETER_ELEMENT_S * 4 + 2.0 * tile.depth * INTERPRETER_FLOP_S)
        step += tile.rows * tile.depth * INTERPRETER_ELEMENT_S
        return programs * (INTERPRETER_PROGRAM_S + taps * step) + pooling_seconds(problem, tile, target)
    arithmetic = math.ceil(programs / target.sms) * taps * _tap_seconds(problem, tile, target)
    loaded = programs * (_x_elements(problem, tile) + tile.depth * tile.cols) * problem.compute.itemsize
    memory = max(loaded / target.l2_bytes_per_s, moved / target.dram_bytes_per_s)
    latency = taps * target.step_s / (STAGES - 1) * math.ceil(programs / (target.sms * BLOCKS_PER_SM))
    return target.launch_s + max(arithmetic, memory, latency) + pooling_seconds(problem, tile, target)


def alone_seconds(problem: ExpandedWindow, tile: Tile, target: Target) -> float:
    """Predicted seconds that one block takes for the whole problem, whose data lie in L2."""
    tap = max(_tap_seconds(problem, tile, target), target.step_s / (STAGES - 1))
    loaded = (_x_elements(problem, tile) + tile.depth * tile.cols) * problem.compute.itemsize
    return problem.programs(tile) * max(problem.tap_count * tap, loaded / BLOCK_L2_BYTES_PER_S)


def _tap_seconds(problem: ExpandedWindow, tile: Tile, target: Target) -> float:
    """Arithmetic of one tap on one multiprocessor: the product, and what follows it."""
    rate = (target.tensor_flops if problem.compute.itemsize == 2 else target.fp32_flops) / target.sms
    values = tile.rows * tile.cols
    product = 2.0 * values * tile.depth / (rate * TENSOR_EFFICIENCY)
    issued = values * instructions(statement.operator.name for statement in problem.expansion.statements)
    return product + (issued + STEP_INSTRUCTIONS * 32 * tile.num_warps) / (target.fp32_flops / 2 / target.sms)


def _x_elements(problem: ExpandedWindow, tile: Tile) -> int:
    """Elements of x that a block takes from L2: each line of the window; its neighbours along a line are in L1."""
    lines = math.prod(tap.size for tap in problem.taps[:-1])
    return tile.rows * tile.depth * lines * problem.taps[-1].step
