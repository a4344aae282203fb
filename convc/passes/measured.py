"""Measured tiles in place of the cost model's.

What shares a launch, and which stages run in parts, has been decided then, by predicted times alone: times that were
measured for some tiles and predicted for others could not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..ir.digest import problem_digest
from ..ir.plan import HostStep
from ..targets import Target
from ..targets.tuned import Measured
from .im2col_tiles import candidates
from .launches import Launch, Step
from .slices import Entry, Stage
from .tiling import ranked


def with_measured_tiles(schedule: Sequence[Entry], target: Target, measured: Measured) -> list[Entry]:
    """The schedule with the fastest tile of every problem that was measured. Where several problems share a launch, a
    tile must have the launch's warps; what the last block does alone keeps its tile."""
    return [_entry(entry, target, measured) for entry in schedule]


def _entry(entry: Entry, target: Target, measured: Measured) -> Entry:
    if isinstance(entry, Stage):
        return replace(entry, launches=tuple(_launch(launch, target, measured) for launch in entry.launches))
    return entry if isinstance(entry, HostStep) else _launch(entry, target, measured)


def _launch(launch: Launch, target: Target, measured: Measured) -> Launch:
    together = len(launch.steps) > 1
    return replace(launch, steps=tuple(_step(step, together, target, measured) for step in launch.steps))


def _step(step: Step, together: bool, target: Target, measured: Measured) -> Step:
    if step.alone:
        return step
    problem = step.work.problem
    digest = problem_digest(problem)
    tiles = ranked if together else candidates
    tile = measured.best(digest, tiles(problem, target)) if digest in measured.entries else None
    if tile is None or (together and tile.num_warps != step.tile.num_warps):
        return step
    return replace(step, tile=tile)
