"""Other tiles for kernels that turned out not to suit their target once they were compiled."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.chained import ChainedContraction
from ..ir.plan import POINTERS, HostStep, Tile
from ..ir.problem import Contraction, Problem
from ..targets import Target
from .launches import Launch, Step
from .slices import Entry, Stage
from .tiling import can_be_alone, ranked, reason, with_fewer_stages


class Shortage(enum.Enum):
    """What a compiled kernel needs more of than there is."""

    REGISTERS = "registers"
    SHARED_MEMORY = "shared memory"


def with_smaller_tiles(schedule: Sequence[Entry], short: Mapping[int, Shortage], target: Target) -> list[Entry]:
    """The schedule with other tiles, which need less of it, for launches that are ``short`` of something, by their
    first region; entries that stay as they are, for want of such tiles too, are the same objects."""
    return [_entry(entry, short, target) for entry in schedule]


def _entry(entry: Entry, short: Mapping[int, Shortage], target: Target) -> Entry:
    if isinstance(entry, Stage):
        launches = tuple(_launch(launch, short, target) for launch in entry.launches)
        changed = any(new is not old for new, old in zip(launches, entry.launches, strict=True))
        return replace(entry, launches=launches) if changed else entry
    return entry if isinstance(entry, HostStep) else _launch(entry, short, target)


def _launch(launch: Launch, short: Mapping[int, Shortage], target: Target) -> Launch:
    shortage = short.get(launch.steps[0].work.region.id)
    steps = launch.steps if shortage is None else _smaller(launch.steps, shortage, target)
    return launch if steps is launch.steps else replace(launch, steps=steps)


def _smaller(steps: tuple[Step, ...], shortage: Shortage, target: Target) -> tuple[Step, ...]:
    """Steps with the cheapest tile that needs less for the one that needs most; the same where there is none."""
    need = _staged if shortage is Shortage.SHARED_MEMORY else _held
    by_size = sorted(range(len(steps)), key=lambda index: -need(steps[index].tile))
    for index in by_size:
        step = steps[index]
        fitting = [t for t in _candidates(step, target) if need(t) < need(step.tile)]
        if len(steps) > 1:
            fitting = [t for t in fitting if t.num_warps == step.tile.num_warps and (can_be_alone(t) or not step.alone)]
        if fitting:
            tile = _explained(fitting[0], step.work.problem, shortage, target)
            return (*steps[:index], replace(step, tile=tile), *steps[index + 1 :])
    return steps


def _explained(tile: Tile, problem: Problem, shortage: Shortage, target: Target) -> Tile:
    """The tile with what it is chosen for."""
    text = tile.reason
    if isinstance(problem, (Contraction, ChainedContraction)):
        text = reason(problem, tile, target)
    return replace(tile, reason=f"{text}; what was chosen before it needs more {shortage.value} than there is")


def _candidates(step: Step, target: Target) -> list[Tile]:
    """Every tile of a step's problem, and its own with less loaded ahead, the cheapest first."""
    problem = step.work.problem
    found = [*ranked(problem, target), *with_fewer_stages(problem, step.tile, target)]
    return sorted(found, key=lambda tile: tile.predicted_us)


def _held(tile: Tile) -> int:
    """What a warp keeps of a tile in registers, roughly: accumulators, and what pointers need for a step of x."""
    addressed = tile.depth if tile.access == POINTERS else 0
    return tile.rows * (tile.cols + addressed) // tile.num_warps


def _staged(tile: Tile) -> int:
    """Elements that a block keeps in shared memory, roughly: operands loaded ahead, and sums that threads exchange."""
    return tile.num_stages * tile.depth * (tile.rows + tile.cols) + tile.rows * tile.cols
