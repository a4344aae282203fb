"""Other tiles for kernels that turned out not to suit their target once they were compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..ir.plan import Tile
from ..targets import Target
from .launches import Launch, Step
from .slices import Entry, Stage
from .tiling import can_be_alone, ranked


def with_smaller_tiles(schedule: Sequence[Entry], regions: set[int], target: Target) -> list[Entry]:
    """The schedule with smaller tiles for launches whose first region is one of ``regions``; entries that stay as they
    are, for want of smaller tiles too, are the same objects."""
    return [_entry(entry, regions, target) for entry in schedule]


def _entry(entry: Entry, regions: set[int], target: Target) -> Entry:
    if isinstance(entry, Stage):
        launches = tuple(_launch(launch, regions, target) for launch in entry.launches)
        changed = any(new is not old for new, old in zip(launches, entry.launches, strict=True))
        return replace(entry, launches=launches) if changed else entry
    return _launch(entry, regions, target)


def _launch(launch: Launch, regions: set[int], target: Target) -> Launch:
    steps = _smaller(launch.steps, target) if launch.steps[0].work.region.id in regions else launch.steps
    return launch if steps is launch.steps else replace(launch, steps=steps)


def _smaller(steps: tuple[Step, ...], target: Target) -> tuple[Step, ...]:
    """Steps with a smaller tile for the one that keeps most in registers; the same where there is none."""
    by_size = sorted(range(len(steps)), key=lambda index: -_held(steps[index].tile))
    for index in by_size:
        step = steps[index]
        fitting = [t for t in ranked(step.work.problem, target) if _held(t) < _held(step.tile)]
        if len(steps) > 1:
            fitting = [t for t in fitting if t.num_warps == step.tile.num_warps and (can_be_alone(t) or not step.alone)]
        if fitting:
            return (*steps[:index], replace(step, tile=fitting[0]), *steps[index + 1 :])
    return steps


def _held(tile: Tile) -> int:
    """What a warp keeps of a tile in registers, roughly: accumulators, and what pointers need for a step of x."""
    addressed = tile.depth if tile.access == "pointers" else 0
    return tile.rows * (tile.cols + addressed) // tile.num_warps
