"""The cost model: predicted time of one kernel under one tile.

On a GPU: ``launch + max(arithmetic, L2, DRAM) + latency``, where arithmetic runs in whole waves of blocks, L2 is asked
for every tile's operands and DRAM for each byte once, and latency is the length of the main loop's dependent chain.
In the interpreter, time is spent per program, per loop step and per element touched. Every constant has a
name here or in `convc.targets.device`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir.plan import IM2COL, POINTERS, Tile
from ..ir.problem import Axis, Contraction, Problem
from .device import Target

INTERPRETER_PROGRAM_S = 1.5e-3
INTERPRETER_STEP_S = 0.25e-3
INTERPRETER_ELEMENT_S = 25e-9
INTERPRETER_FLOP_S = 4e-11
BLOCKS_PER_SM = 2
SPLIT_K_S = 1.0e-6
"""Writing, counting and reading back partial sums, beyond their bytes. An estimate, not measured."""
POOLED_ELEMENTS = 2048
"""Elements of partial results of a global pooling that a program takes at a time."""
STREAMED_WAVE_S = 1.0e-6
"""A block of a kernel without products: its addresses, its loads, its store. An estimate, not measured."""
TICKET_S = 1.0e-6
"""Counting the blocks of a launch, until the last one sees what the others wrote. An estimate, not measured."""
HOST_TURN_S = 25e-6
"""A guess: the host waits for the launches before it, wakes up, and queues the launches behind it."""
HOST_COPY_S = 5e-6
"""A guess: queueing one copy between the GPU's memory and the host's."""
HOST_BYTES_PER_S = 2.0e10
"""A guess: page-locked memory over 16 lanes of PCI Express 4.0, whose raw rate is 32 GB/s."""
BLOCK_L2_BYTES_PER_S = 1.0e11
"""What one multiprocessor takes from L2: 64 bytes a clock."""


def contraction_seconds(
    problem: Contraction, tile: Tile, target: Target, steps: int, dram_bytes: int, issued: int = 0
) -> float:
    """Predicted seconds of a contraction. steps: of its main loop, all of a tile; issued: instructions of its prologue
    for each element of x."""
    count, itemsize = problem.programs(tile), problem.compute.itemsize
    steps = math.ceil(steps / tile.split_k)
    if target.is_interpreter:
        return count * _interpreted(tile, steps)
    flops_per_block = 2.0 * tile.rows * tile.cols * tile.depth * steps
    rate = (target.tensor_flops if itemsize == 2 else target.fp32_flops) / target.sms
    waves = math.ceil(count / target.sms)
    units = 2.0 * issued * tile.rows * tile.depth * steps * target.sms / target.fp32_flops
    arithmetic = waves * (flops_per_block / (rate * issue_efficiency(tile)) + units)
    loaded = count * steps * tile.depth * (tile.rows + tile.cols) * itemsize
    partial = 2 * 4 * tile.rows * tile.cols * count if tile.split_k > 1 else 0
    traffic = max((loaded + partial) / target.l2_bytes_per_s, dram_bytes / target.dram_bytes_per_s)
    resident = blocks_per_sm(tile, itemsize, target)
    latency = steps * target.step_s / max(tile.num_stages - 1, 1) * math.ceil(count / (target.sms * resident))
    extra = SPLIT_K_S if tile.split_k > 1 else 0.0
    return target.launch_s + max(arithmetic, traffic, latency) + extra


def pooling_seconds(problem: Problem, tile: Tile, target: Target) -> float:
    """Predicted seconds of pooling a kernel's result over whole images besides: nothing where an image is one tile;
    else a ticket, the partial results written and read back from L2, and the last program's loop over them."""
    row_tiles = math.ceil(problem.extent(Axis.ROW) / tile.rows)
    if problem.pool is None or row_tiles == 1:
        return 0.0
    strips = problem.extent(Axis.GROUP) * math.ceil(problem.extent(Axis.COL) / tile.cols)
    steps = math.ceil(row_tiles / pooled_parts(row_tiles, tile.cols))
    if target.is_interpreter:
        return strips * steps * INTERPRETER_STEP_S
    partial = 2 * 4 * strips * row_tiles * tile.cols
    return SPLIT_K_S + partial / target.l2_bytes_per_s + steps * target.step_s


def pooled_parts(row_tiles: int, cols: int) -> int:
    """Partial results that the last program of an image takes at a time: a power of two."""
    return min(1 << (row_tiles - 1).bit_length(), max(1, POOLED_ELEMENTS // cols))


def issue_efficiency(tile: Tile) -> float:
    """Fraction of the tensor-core rate that the main loop of this tile can issue.

    One step issues `_beside_products` instructions on each of the block's warps, and the products of the step take
    rows·cols·depth / 8192 clocks of the multiprocessor; four schedulers share the instructions.
    """
    clocks = tile.rows * tile.cols * tile.depth / 8192.0
    issued = _beside_products(tile) * tile.num_warps / 4.0
    return min(1.0, clocks / (clocks * 0.25 + issued))


def _beside_products(tile: Tile) -> float:
    """Instructions of a step beside the matrix products, on each warp, as counted in compiled loops.

    With pointers about 70 + rows·cols/256 (sm_90: 102 at 128×64, 132 at 128×128). With descriptors 70 and 2.4 for each
    matrix instruction of a warp, which takes 64 rows of 4 warps 16 deep (sm_90, all instructions: 97 at 128×128×64 on
    4 warps, 85 on 8, 84 at 64×64×64, 128 at 128×128×128; sm_100: 85 at 128×128×64; sm_120: 79 beside the products).
    Along windows 45 and 1 for each where a producer fetches (53 at 128×128×64 on 8 warps, 67 at 256×128×64), otherwise
    60 and 5.4 (85 and 111 at 128×128×64 on 8 and 4).
    """
    if tile.access == POINTERS:
        return 70.0 + tile.rows * tile.cols / 256.0
    products = max(1.0, tile.rows / (16.0 * tile.num_warps)) * tile.depth / 16.0
    if tile.access == IM2COL:
        return 45.0 + products if tile.producers else 60.0 + 5.4 * products
    return 70.0 + 2.4 * products


def blocks_per_sm(tile: Tile, itemsize: int, target: Target) -> int:
    """Blocks of this tile that a multiprocessor holds at once, two at most."""
    nbytes = tile.num_stages * tile.depth * (tile.rows + tile.cols) * itemsize
    return max(1, min(BLOCKS_PER_SM, target.shared_bytes // max(1, nbytes)))


def _interpreted(tile: Tile, steps: int) -> float:
    """Seconds of one program in Triton's interpreter."""
    loaded = (tile.rows + tile.cols) * tile.depth
    per_step = INTERPRETER_STEP_S + loaded * INTERPRETER_ELEMENT_S
    per_step += 2.0 * tile.rows * tile.cols * tile.depth * INTERPRETER_FLOP_S
    return INTERPRETER_PROGRAM_S + steps * per_step + tile.rows * tile.cols * INTERPRETER_ELEMENT_S


def streaming_seconds(problem: Problem, programs: int, elements: int, target: Target, dram_bytes: int) -> float:
    """Predicted seconds of a kernel that is bound by memory: ``elements`` loads and stores in ``programs`` blocks."""
    if target.is_interpreter:
        return programs * INTERPRETER_PROGRAM_S + elements * INTERPRETER_ELEMENT_S
    waves = math.ceil(programs / (target.sms * BLOCKS_PER_SM * 2))
    return target.launch_s + max(dram_bytes / target.dram_bytes_per_s, waves * STREAMED_WAVE_S)


def side_by_side(parts: Sequence[tuple[float, int]], target: Target) -> float:
    """Predicted seconds of a launch of several kernels, each given by its microseconds alone and its blocks.

    ``launch + max(longest, Σ time · share)``, where a kernel's share of the GPU is its blocks over the multiprocessors,
    at most 1: small grids run beside each other, large ones one after the other.
    """
    busy = [(us * 1e-6 - target.launch_s, min(1.0, count / target.sms)) for us, count in parts]
    return target.launch_s + max(max(time for time, _ in busy), sum(time * share for time, share in busy))


def lone_seconds(problem: Problem, tile: Tile, steps: int, dram_bytes: int, target: Target) -> float:
    """Predicted seconds that one block takes for a whole problem, whose data lie in L2.

    steps: of its main loop per tile. For contractions ``max(bytes, latency of all steps, products)``; a kernel without
    products takes a wave for each tile or its bytes.
    """
    if not isinstance(problem, Contraction):
        return max(problem.programs(tile) * STREAMED_WAVE_S, dram_bytes / BLOCK_L2_BYTES_PER_S)
    rows, cols, tiles = problem.extent(Axis.ROW), problem.extent(Axis.COL), problem.programs(tile)
    loaded = tiles * steps * tile.depth * (min(tile.rows, rows) + min(tile.cols, cols)) * problem.compute.itemsize
    latency = tiles * steps * target.step_s / max(tile.num_stages - 1, 1)
    rate = (target.tensor_flops if problem.compute.itemsize == 2 else target.fp32_flops) / target.sms
    products = 2.0 * tiles * steps * tile.rows * tile.cols * tile.depth / (rate * issue_efficiency(tile))
    return max(loaded / BLOCK_L2_BYTES_PER_S, latency, products)


def host_step_seconds(copied: Sequence[int]) -> float:
    """Predicted seconds of a turn of the host, for the bytes of each copy. What it computes there is not included."""
    return HOST_TURN_S + len(copied) * HOST_COPY_S + sum(copied) / HOST_BYTES_PER_S
