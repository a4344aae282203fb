"""Tiles of fused separable convolutions, ranked by predicted time.

A step of the main loop makes ``rows × depth`` depthwise sums and multiplies them with ``depth × cols`` weights. Its
time is that of both, one after the other: the sums are not made by tensor cores and nothing overlaps them but other
blocks. Narrow columns give more blocks and compute the depthwise part more often; splitting the channels gives more
blocks without that; its partial sums are charged as memory traffic, although L2 may hold them, so that a split does not
move more than the fusion saves for little time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..ir.expansion import UNROLLED_EXPANSIONS
from ..ir.plan import Tile
from ..ir.problem import Axis
from ..ir.separable import SeparableContraction
from ..targets import Target
from ..targets.cost import (
    BLOCK_L2_BYTES_PER_S,
    BLOCKS_PER_SM,
    INTERPRETER_ELEMENT_S,
    INTERPRETER_FLOP_S,
    INTERPRETER_PROGRAM_S,
    INTERPRETER_STEP_S,
    SPLIT_K_S,
    issue_efficiency,
    pooling_seconds,
)
from .choice import ISSUED_PER_MAC, TENSOR_EFFICIENCY
from .expansion import STEP_INSTRUCTIONS, instructions
from .expansion import SUMS_PER_THREAD as EXPANDED_PER_THREAD
from .separable import COLUMNS
from .tile_sizes import LARGEST_BLOCK, by_time, covering
from .traffic import traffic

SUMS_PER_THREAD = 16
"""Most depthwise sums that a thread keeps; each takes an accumulator, an address and a value in registers."""
LARGEST_STEP = 8192
"""Most bytes of weights of a step, which become operands in registers: more of them spilled."""
WIDE_REGISTERS = 48
"""Most registers per thread for accumulators, sums and addresses where fp32 operands take the others (sm_80)."""
MOST_STAGED = 100 * 1024
"""Most shared memory that one block takes for loading a step ahead: two blocks share a multiprocessor."""
MOST_SPLITS = 16


def ranked(problem: SeparableContraction, target: Target) -> list[Tile]:
    """All candidates, the cheapest first, with their predicted times."""
    moved = traffic(problem).total
    candidates = _interpreted(problem) if target.is_interpreter else _compiled(problem, target)
    return by_time(candidates, lambda tile: _seconds(problem, tile, target, moved))


# -- candidates -------------------------------------------------------------------------------------------------------
def _interpreted(problem: SeparableContraction) -> Iterator[Tile]:
    for rows in covering(problem.extent(Axis.ROW), 8192):
        for cols in covering(problem.extent(Axis.COL), 2048):
            for depth in covering(problem.depth, 1024):
                if max(rows * cols, max(rows, cols) * depth) <= LARGEST_BLOCK:
                    yield Tile(rows, cols, depth, num_warps=1, num_stages=1)


def _compiled(problem: SeparableContraction, target: Target) -> Iterator[Tile]:
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    widest_row = 128 if rows > 64 else 64
    for block_rows in covering(min(rows, widest_row), widest_row):
        if target.instruction != "mma" and 16 < block_rows < 64 < rows:
            continue
        for block_cols in covering(cols, COLUMNS):
            for depth in covering(problem.depth, 64 if problem.compute.itemsize == 2 else 32):
                yield from _fitting(problem, target, block_rows, block_cols, depth)


def _fitting(problem: SeparableContraction, target: Target, rows: int, cols: int, depth: int) -> Iterator[Tile]:
    """Tiles of this block size whose sums and accumulators fit into registers; staged where shared memory is enough."""
    warps = 8 if rows * cols >= 128 * 128 or rows * depth > SUMS_PER_THREAD * 128 else 4
    accumulators = 128 * 128 if problem.compute.itemsize == 2 else 64 * 64
    weights = depth * cols * problem.compute.itemsize
    if rows * cols > accumulators or weights > LARGEST_STEP or rows * depth > SUMS_PER_THREAD * 32 * warps:
        return
    if problem.expansion and rows * depth > EXPANDED_PER_THREAD * 32 * warps:
        return
    scalar = problem.compute.itemsize == 4 and problem.precision == "ieee" and target.instruction == "mma"
    if scalar and rows * (cols + 2 * depth) > WIDE_REGISTERS * 32 * warps:
        return
    stages = 2 if _staged_bytes(problem, rows, cols, depth) <= min(target.shared_bytes, MOST_STAGED) else 1
    steps = math.ceil(problem.depth / depth)
    for split in range(1, min(steps, MOST_SPLITS) + 1):
        if steps % split == 0 and (split == 1 or problem.expansion or steps // split >= 2):
            yield Tile(rows, cols, depth, warps, stages, split)


def _staged_bytes(problem: SeparableContraction, rows: int, cols: int, depth: int) -> int:
    """Shared memory of a step that is loaded ahead: every tap's x, the weights, and the sums on their way to the
    tensor cores."""
    window = problem.tap_count * rows * depth
    if problem.expansion:
        window = problem.expansion.block * (2 * rows + depth)
    elements = window + rows * depth + depth * cols
    return elements * problem.compute.itemsize + 4096


# -- time -------------------------------------------------------------------------------------------------------------
def _seconds(problem: SeparableContraction, tile: Tile, target: Target, moved: int) -> float:
    """Predicted seconds: launch + max(arithmetic, L2, DRAM, latency) + split-K, as in `convc.targets.cost`."""
    steps = math.ceil(math.ceil(problem.depth / tile.depth) / tile.split_k)
    programs = problem.programs(tile)
    sums, taps = tile.rows * tile.depth, problem.tap_count
    if target.is_interpreter:
        step = INTERPRETER_STEP_S * (1 + taps) + sums * taps * 3 * INTERPRETER_ELEMENT_S
        step += tile.depth * tile.cols * (INTERPRETER_ELEMENT_S + 2.0 * tile.rows * INTERPRETER_FLOP_S)
        one = INTERPRETER_PROGRAM_S + steps * step + tile.rows * tile.cols * INTERPRETER_ELEMENT_S
        return programs * one + pooling_seconds(problem, tile, target)
    arithmetic = math.ceil(programs / target.sms) * steps * _step_seconds(problem, tile, target)
    partial = 2 * 4 * tile.rows * tile.cols * programs
    split = SPLIT_K_S + partial / target.dram_bytes_per_s if tile.split_k > 1 else 0.0
    loaded = programs * steps * (_x_elements(problem, tile) + tile.depth * tile.cols) * problem.compute.itemsize
    memory = max(loaded / target.l2_bytes_per_s, moved / target.dram_bytes_per_s)
    latency = _latency(problem, tile, target) * math.ceil(programs / (target.sms * BLOCKS_PER_SM))
    busy = max(arithmetic, memory, latency) + split
    return target.launch_s + busy + pooling_seconds(problem, tile, target)


def alone_seconds(problem: SeparableContraction, tile: Tile, target: Target) -> float:
    """Predicted seconds that one block takes for the whole problem, whose data lie in L2."""
    steps = math.ceil(problem.depth / tile.depth)
    arithmetic = steps * _step_seconds(problem, tile, target)
    loaded = steps * (_x_elements(problem, tile) + tile.depth * tile.cols) * problem.compute.itemsize
    latency = _latency(problem, tile, target)
    return problem.programs(tile) * max(arithmetic, loaded / BLOCK_L2_BYTES_PER_S, latency)


def _latency(problem: SeparableContraction, tile: Tile, target: Target) -> float:
    """Seconds of the chain of steps of one program."""
    steps = math.ceil(math.ceil(problem.depth / tile.depth) / tile.split_k)
    waiting = target.step_s * (1 if tile.num_stages > 1 else 2)
    if problem.expansion:
        waiting *= problem.tap_count if problem.tap_count > UNROLLED_EXPANSIONS else 1
    return (steps + bool(problem.expansion)) * waiting


def _step_seconds(problem: SeparableContraction, tile: Tile, target: Target) -> float:
    """Arithmetic of one step on one multiprocessor: the product, the windows, and what they read."""
    rate = (target.tensor_flops if problem.compute.itemsize == 2 else target.fp32_flops) / target.sms
    sums, taps = tile.rows * tile.depth, problem.tap_count
    product = 2.0 * sums * tile.cols / (rate * issue_efficiency(tile))
    window = 2.0 * sums * taps * ISSUED_PER_MAC / (target.fp32_flops / target.sms)
    return product + window + taps * _expansion_seconds(problem, tile, target)


def _expansion_seconds(problem: SeparableContraction, tile: Tile, target: Target) -> float:
    """Time of one multiprocessor to expand what one tap of a step reads."""
    if problem.expansion is None:
        return 0.0
    rate = (target.tensor_flops if problem.compute.itemsize == 2 else target.fp32_flops) / target.sms
    values = tile.rows * tile.depth
    product = 2.0 * values * problem.expansion.block / (rate * TENSOR_EFFICIENCY)
    issued = values * instructions(statement.operator.name for statement in problem.expansion.statements)
    return product + (issued + STEP_INSTRUCTIONS * 32 * tile.num_warps) / (target.fp32_flops / 2 / target.sms)


def _x_elements(problem: SeparableContraction, tile: Tile) -> int:
    """Elements of x that a step takes from L2: each line of the window; its neighbours along a line are in L1."""
    lines = math.prod(tap.size for tap in problem.taps[:-1])
    depth = problem.expansion.inputs if problem.expansion else tile.depth
    return tile.rows * depth * lines * problem.taps[-1].step
