"""Slices of the batch: stages of a program run for a part of the batch at a time, so that what their launches compute
for each other stays in the L2 cache.

At large batches the tensors between two kernels are larger than L2, and every one is written to memory and read back.
A stage of consecutive launches that runs for one part of the batch after the other keeps them small; each part takes
the same memory, so that it is overwritten before it has to leave the cache. Kernels are the same for all parts: only
the addresses of what lies outside the stage move on. With S parts, launches that take tᵢ, and of whose bytes Bᵢ the
part Eᵢ is of tensors outside the stage or of weights:

    before  Σ tᵢ
    after   S · Σ max(tᵢ' , launch + Eᵢ / DRAM bandwidth, launch + Bᵢ / L2 bandwidth)

where tᵢ' is the time of a part if memory took none. Parts cost launches, and grids that fill the GPU less evenly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, Union

from ..ir import Graph, Value
from ..ir.chained import ChainedContraction
from ..ir.plan import Decline, HostStep, Layouts, Tile
from ..ir.problem import Axis, AxisReduction, Operand, Problem
from ..ir.rewriting import mapped
from ..targets import Target
from .choice import Choice, Policy
from .launches import LAST_BLOCK, SIBLINGS, Launch, Step, judge_of, predicted_us
from .tiling import Tiles, choose
from .traffic import touched, traffic

RULE = "l2-slices"
GROUPING = (LAST_BLOCK, RULE, SIBLINGS)
"""Rules that put several problems into a launch, or cut one into several."""
L2_SHARE = 0.5
"""Part of L2 that what a stage keeps may take: the halves of the cache hold copies of each other's lines."""
MARGIN = 0.05
"""Part of a stage's time that slicing must save beyond what is predicted: predictions are no better than that."""
MOST_PARTS = 64
LONGEST_STAGE = 24
"""Launches of a stage, at most; both are guesses, not measured, and bound the search."""


@dataclass(frozen=True)
class Stage:
    """Launches that run for one part of the batch after the other.

    launches: those of the first part. parts: how many. kept: blocks of memory that hold one part at a time. shifts:
    elements that the addresses of the other tensors move on by from part to part. predicted_us: of each launch.
    """

    launches: tuple[Launch, ...]
    parts: int
    kept: frozenset[int]
    shifts: Mapping[Value, int] = field(default_factory=dict)
    predicted_us: tuple[float, ...] = ()

    def part(self, number: int) -> tuple[Launch, ...]:
        """The launches of one part."""
        return tuple(self._moved(launch, number) for launch in self.launches)

    def _moved(self, launch: Launch, number: int) -> Launch:
        if number == 0:
            return launch
        steps = []
        for step in launch.steps:
            problem = mapped(step.work.problem, lambda operand: self._at(operand, number))
            steps.append(replace(step, work=replace(step.work, problem=problem)))
        return replace(launch, steps=tuple(steps))

    def _at(self, operand: Operand, number: int) -> Operand:
        shift = self.shifts.get(operand.source, 0) if isinstance(operand.source, Value) else 0
        return replace(operand, offset=operand.offset + number * shift) if shift else operand


Entry = Union[Launch, HostStep, Stage]
"""What a schedule is made of."""


def slice_stages(
    launches: Sequence[Launch | HostStep], graph: Graph, layouts: Layouts, target: Target, policy: Policy
) -> tuple[list[Entry], list[Decline]]:
    """The launches with stages made of those where that is predicted to pay, and why others were left."""
    slicer = _Slicer(launches, graph, layouts, target, policy)
    return slicer.schedule(), slicer.declines


class _Slicer:
    def __init__(
        self, launches: Sequence[Launch | HostStep], graph: Graph, layouts: Layouts, target: Target, policy: Policy
    ) -> None:
        self.entries, self.graph, self.layouts, self.policy = launches, graph, layouts, policy
        self.target = target
        self.judge = judge_of(target)
        self.free = replace(self.judge, dram_bytes_per_s=math.inf)
        self.declines: list[Decline] = []
        self.touches: dict[int, list[int]] = {}
        for number, launch in enumerate(launches):
            for block in _blocks(launch, layouts):
                self.touches.setdefault(block, []).append(number)
        self._parts: dict[tuple[int, int], Launch | None] = {}

    def schedule(self) -> list[Entry]:
        """From the first launch on: the stage that gains most, if the policy takes it, or the launch by itself."""
        entries: list[Entry] = []
        number = 0
        while number < len(self.entries):
            found = max(self._stages(number), key=lambda pair: pair[0], default=None)
            if found is not None and self._taken(*found):
                entries.append(found[1])
                number += len(found[1].launches)
            else:
                entries.append(self.entries[number])
                number += 1
        return entries

    def _taken(self, gain: float, stage: Stage) -> bool:
        nodes = [id for launch in stage.launches for step in launch.steps for id in step.work.region.nodes]
        why = f"running {len(stage.launches)} launches in {stage.parts} parts of the batch"
        choice = Choice(RULE, tuple(dict.fromkeys(nodes)), nodes[-1], open=False, gain_s=gain, why=why)
        reason = self.policy.refusal(choice, self.graph)
        if reason is not None:
            self.declines.append(Decline(RULE, nodes[0], nodes[-1], reason))
        return reason is None

    def _stages(self, first: int) -> Iterator[tuple[float, Stage]]:
        """Stages that begin with a launch, with their gains in seconds."""
        batch = self._batch(self.entries[first])
        if batch < 2:
            return
        for last in range(first + 1, min(first + LONGEST_STAGE, len(self.entries))):
            if self._batch(self.entries[last]) != batch:
                return
            kept = self._kept(first, last, batch)
            parts = self._least_parts(first, last, kept, batch)
            if kept and parts is not None:
                stage = self._stage(first, last, kept, parts)
                if stage is None:
                    return
                yield self._gain(first, stage), stage

    def _launch(self, number: int) -> Launch:
        launch = self.entries[number]
        assert isinstance(launch, Launch), "the host works on whole batches"
        return launch

    def _batch(self, launch: Launch | HostStep) -> int:
        """The first extent that all tensors of a launch share; 0 where there is none, a last block works alone, or it
        is the host's."""
        if isinstance(launch, HostStep):
            return 0
        sources = {o.source for problem in launch.problems for o in _all(problem)}
        first = {self.layouts.placements[s].shape[:1] for s in sources if isinstance(s, Value)}
        extents = {shape[0] for shape in first if shape and shape[0] > 1}
        alone = any(step.alone for step in launch.steps)
        return extents.pop() if len(extents) == 1 and () not in first and not alone else 0

    def _kept(self, first: int, last: int, batch: int) -> frozenset[int]:
        """Blocks of the arena that only these launches touch and that hold the batch outermost."""
        inside = {block for number in range(first, last + 1) for block in _blocks(self.entries[number], self.layouts)}
        return frozenset(
            block
            for block in inside
            if first <= self.touches[block][0] and self.touches[block][-1] <= last and self._outermost(block, batch)
        )

    def _outermost(self, block: int, batch: int) -> bool:
        home = self.layouts.blocks[block]
        placed = [p for p in self.layouts.placements.values() if p.block == block]
        even = all(
            p.shape[:1] == (batch,) and p.strides[0] * batch * home.dtype.itemsize == home.nbytes - home.margin
            for p in placed
        )
        return home.buffer == "arena" and even

    def _least_parts(self, first: int, last: int, kept: frozenset[int], batch: int) -> int | None:
        """The fewest parts, two or more, with which what lives at once fits into its share of L2; None where those
        would be too many, or do not divide the batch."""
        live = 0
        for number in range(first, last + 1):
            alive = [b for b in kept if self.touches[b][0] <= number <= self.touches[b][-1]]
            live = max(live, sum(self.layouts.blocks[b].nbytes for b in alive))
        for parts in (2**power for power in range(1, MOST_PARTS.bit_length())):
            if batch % parts == 0 and live / parts <= L2_SHARE * self.judge.l2_bytes:
                return parts
        return None

    def _stage(self, first: int, last: int, kept: frozenset[int], parts: int) -> Stage | None:
        launches = [self._part(number, parts) for number in range(first, last + 1)]
        found = [launch for launch in launches if launch is not None]
        if len(found) < len(launches):
            return None
        shifts = {}
        for launch in self.entries[first : last + 1]:
            for value in _values(launch):
                placed = self.layouts.placements[value]
                if placed.block not in kept and placed.shape[0] > 1:
                    shifts[value] = placed.strides[0] * (placed.shape[0] // parts)
        seconds = [self._part_seconds(launch, kept) for launch in found]
        return Stage(tuple(found), parts, kept, shifts, tuple(round(s * 1e6, 3) for s in seconds))

    def _part(self, number: int, parts: int) -> Launch | None:
        """A launch for the first part of the batch, with tiles for it; None where it cannot be divided."""
        key = number, parts
        if key not in self._parts:
            whole_batch = self._launch(number)
            steps = [self._step(step, parts, len(whole_batch.steps) > 1) for step in whole_batch.steps]
            whole = [step for step in steps if step is not None]
            launch = replace(whole_batch, steps=tuple(whole))
            self._parts[key] = launch if len(whole) == len(steps) else None
        return self._parts[key]

    def _step(self, step: Step, parts: int, beside: bool) -> Step | None:
        problem = divided(step.work.problem, self.layouts, parts)
        if problem is None:
            return None
        tile: Tile | None
        if self.target.is_interpreter:
            tile = choose(problem, self.target)
        elif beside:
            tile = Tiles(self.free).with_warps(problem, step.tile.num_warps)
        else:
            tile = choose(problem, self.free)
        return Step(replace(step.work, problem=problem), tile) if tile is not None else None

    def _gain(self, first: int, stage: Stage) -> float:
        before = sum(self._seconds(self._launch(first + i)) for i in range(len(stage.launches)))
        return (1 - MARGIN) * before - stage.parts * sum(stage.predicted_us) * 1e-6

    def _seconds(self, launch: Launch) -> float:
        return predicted_us(self._judged(launch, self.judge), self.judge) * 1e-6

    def _judged(self, launch: Launch, judge: Target) -> tuple[Step, ...]:
        """The steps with the tiles of the GPU that decides."""
        if not self.target.is_interpreter:
            return launch.steps
        return tuple(replace(step, tile=choose(step.work.problem, judge)) for step in launch.steps)

    def _part_seconds(self, launch: Launch, kept: frozenset[int]) -> float:
        """Predicted seconds of one part of a launch."""
        moved = traffic(launch.problems).total
        stays = sum(_touched_bytes(launch, value, self.layouts) for value in _values(launch) if self._in(value, kept))
        memory = max((moved - stays) / self.judge.dram_bytes_per_s, moved / self.judge.l2_bytes_per_s)
        free = predicted_us(self._judged(launch, self.free), self.free) * 1e-6
        return max(free, self.judge.launch_s + memory)

    def _in(self, value: Value, blocks: frozenset[int]) -> bool:
        return self.layouts.placements[value].block in blocks


AnyProblem = TypeVar("AnyProblem", bound=Problem)


def divided(problem: Problem, layouts: Layouts, parts: int) -> Problem | None:
    """A problem for the first of ``parts`` parts of the batch, None where the batch is not one of its dimensions, or
    not the outer part of one."""
    if not isinstance(problem, ChainedContraction):
        return _divided(problem, _all(problem), layouts, parts)
    first = _divided(problem.first, problem.first.reads, layouts, parts)
    whole = _divided(problem, (problem.w, *problem.operands, problem.output), layouts, parts)
    return replace(whole, first=first) if first and whole else None


def _divided(problem: AnyProblem, operands: Sequence[Operand], layouts: Layouts, parts: int) -> AnyProblem | None:
    """Where all of these operands step along the batch alike."""
    for index, dim in enumerate(problem.dims):
        if (
            dim.extent % parts == 0
            and not _coupled(problem, index)
            and all(_steps_along(o, index, dim.extent, layouts) for o in operands)
        ):
            smaller = replace(dim, extent=dim.extent // parts)
            part = replace(problem, dims=(*problem.dims[:index], smaller, *problem.dims[index + 1 :]))
            return mapped(part, lambda operand: _with_images_of_part(operand, parts))
    return None


def _coupled(problem: Problem, index: int) -> bool:
    """Whether results at one place of a dimension need those at others: softmax along it, or windows."""
    normalised = isinstance(problem, AxisReduction) or bool(getattr(problem, "normalise", ""))
    slid = any(tap.dim == index for tap in getattr(problem, "taps", ()))
    return slid or (normalised and problem.dims[index].axis is Axis.COL)


def _with_images_of_part(operand: Operand, parts: int) -> Operand:
    border = operand.border
    return operand if border is None else replace(operand, border=replace(border, images=border.images // parts))


def _steps_along(operand: Operand, index: int, extent: int, layouts: Layouts) -> bool:
    """Whether an iteration dimension is the batch of an operand, or holds it outermost; weights have none."""
    if not isinstance(operand.source, Value):
        return operand.strides[index] == 0
    placed = layouts.placements[operand.source]
    uneven = [*(bound.dim for bound in operand.bounds), *(split.dim for split in operand.splits)]
    if operand.unravel or operand.picks or index in uneven:
        return False
    if placed.shape[0] == 1:
        return operand.strides[index] == 0
    return operand.strides[index] * extent == placed.strides[0] * placed.shape[0]


def _all(problem: Problem) -> tuple[Operand, ...]:
    return (*problem.reads, *problem.stores)


def _values(launch: Launch | HostStep) -> list[Value]:
    """The tensors that a launch reads or writes, each once."""
    if isinstance(launch, HostStep):
        return [*dict.fromkeys((*launch.reads, *launch.stores))]
    operands = [operand for problem in launch.problems for operand in _all(problem)]
    return list(dict.fromkeys(o.source for o in operands if isinstance(o.source, Value)))


def _blocks(launch: Launch | HostStep, layouts: Layouts) -> set[int]:
    return {layouts.placements[value].block for value in _values(launch)}


def _touched_bytes(launch: Launch, value: Value, layouts: Layouts) -> int:
    """Bytes of a tensor that a launch moves."""
    return max(
        touched(problem.owner_of(operand), operand) * operand.dtype.itemsize
        for problem in launch.problems
        for operand in _all(problem)
        if operand.source == value
    )
