"""Memory: one arena whose blocks are reused, and results written over operands that die, where that is legal.

The lower bound is the largest sum of blocks that are live at once; no arrangement of the same blocks is smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from ..ir import Value
from ..ir.plan import HostStep, Layouts, Placement
from ..ir.problem import Operand, Problem

ALIGNMENT = 256
"""Bytes that every block in the arena starts at a multiple of."""


@dataclass(frozen=True)
class Interval:
    """A block of the arena: bytes, and the first and last launch that touch it, both included."""

    block: int
    nbytes: int
    first: int
    last: int

    def overlaps(self, other: Interval) -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass
class Arena:
    """Byte offsets of blocks, the arena's size, and the least size that any arrangement needs."""

    offsets: dict[int, int] = field(default_factory=dict)
    nbytes: int = 0
    lower_bound: int = 0


Launch = Union[Sequence[Problem], HostStep]
"""The problems that one launch solves, at the same time or one after the other; or what the host does between two."""


@dataclass(frozen=True)
class Repeated:
    """Launches, from ``first`` to ``last``, that run once for each of ``parts`` parts of the batch; the blocks ``kept``
    hold one part at a time."""

    first: int
    last: int
    parts: int
    kept: frozenset[int]


def plan_arena(
    launches: Sequence[Launch],
    layouts: Layouts,
    workspaces: Sequence[int],
    in_place: bool,
    repeated: Sequence[Repeated] = (),
) -> Arena:
    """Arranges every block that the launches, in this order, read or write; repeated ones stand there once.

    workspaces: bytes of scratch that each launch needs for itself; its block has the number −1−launch.
    """
    parts = {block: stage.parts for stage in repeated for block in stage.kept}
    stages = {index: stage for stage in repeated for index in range(stage.first, stage.last + 1)}
    shared = _in_place_unions(launches, layouts, parts) if in_place else {}
    spans: dict[int, tuple[int, int]] = {}
    for index, launch in enumerate(launches):
        for touched in _touched(launch, layouts):
            block = _find(shared, touched)
            if layouts.blocks[block].buffer == "arena":
                stage = stages.get(index)
                outside = stage is not None and touched not in stage.kept
                begin, end = (stage.first, stage.last) if stage and outside else (index, index)
                first, last = spans.get(block, (begin, end))
                spans[block] = (min(first, begin), max(last, end))
    sizes = {block: layouts.blocks[block].part_bytes(parts.get(block, 1)) for block in spans}
    intervals = [Interval(b, _aligned(sizes[b]), first, last) for b, (first, last) in spans.items()]
    intervals += [Interval(-1 - i, _aligned(size), i, i) for i, size in enumerate(workspaces) if size]
    arena = _arrange(intervals)
    for block in layouts.blocks:
        root = _find(shared, block)
        if root in arena.offsets:
            arena.offsets[block] = arena.offsets[root]
    return arena


def _block_of(layouts: Layouts, operand: Operand) -> int:
    assert isinstance(operand.source, Value)
    return layouts.placements[operand.source].block


def _problems(launch: Launch) -> Sequence[Problem]:
    return () if isinstance(launch, HostStep) else launch


def _touched(launch: Launch, layouts: Layouts) -> list[int]:
    """The blocks that a launch reads or writes, as often as its problems name them."""
    if isinstance(launch, HostStep):
        return [layouts.placements[value].block for value in (*launch.reads, *launch.stores)]
    operands = [operand for problem in launch for operand in (*problem.reads, *problem.stores)]
    return [_block_of(layouts, operand) for operand in operands if isinstance(operand.source, Value)]


def _aligned(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT


def _find(unions: dict[int, int], block: int) -> int:
    while block in unions:
        block = unions[block]
    return block


def _in_place_unions(launches: Sequence[Launch], layouts: Layouts, parts: Mapping[int, int]) -> dict[int, int]:
    """Blocks of results that take the memory of an operand: result block → operand block."""
    last_use: dict[int, int] = {}
    writes: dict[int, int] = {}
    for index, launch in enumerate(launches):
        last_use |= dict.fromkeys(_touched(launch, layouts), index)
        for operand in (operand for problem in _problems(launch) for operand in problem.stores):
            writes[_block_of(layouts, operand)] = writes.get(_block_of(layouts, operand), 0) + 1
    unions: dict[int, int] = {}
    for index, problem in ((index, problem) for index, launch in enumerate(launches) for problem in _problems(launch)):
        if problem.output not in problem.stores:
            continue
        launch = launches[index]
        target = _block_of(layouts, problem.output)
        if layouts.blocks[target].buffer != "arena" or writes[target] != 1:
            continue
        for operand in problem.operands:
            alone = isinstance(operand.source, Value) and _is_alone(launch, operand, layouts)
            alike = alone and parts.get(target, 1) == parts.get(_block_of(layouts, operand), 1)
            if alike and _replaceable(problem, operand, layouts, last_use, index):
                source = _find(unions, _block_of(layouts, operand))
                unions[target] = source
                last_use[_block_of(layouts, operand)] = last_use[target]
                break
    return unions


def _is_alone(launch: Launch, operand: Operand, layouts: Layouts) -> bool:
    """Whether nothing else in the launch touches an operand's memory: no other problem, nor another operand."""
    return _touched(launch, layouts).count(_block_of(layouts, operand)) == 1


def _replaceable(problem: Problem, operand: Operand, layouts: Layouts, last_use: dict[int, int], index: int) -> bool:
    """Whether the result may overwrite an operand: the same elements in the same places, read by the same program just
    before it writes, and never again by anybody."""
    if not isinstance(operand.source, Value) or operand.unravel or operand.bounds:
        return False
    if operand.picks or problem.output.picks:
        return False
    source, target = layouts.placements[operand.source], layouts.placements[problem.output.source]  # type: ignore[index]
    block = layouts.blocks[source.block]
    return (
        block.buffer == "arena"
        and problem.extents_of(operand) == problem.extents_of(problem.output)
        and last_use[source.block] == index
        and source.border == target.border
        and _covers(source, block.nbytes)
        and _covers(target, layouts.blocks[target.block].nbytes)
        and (operand.strides, operand.splits, operand.offset, operand.dtype)
        == (problem.output.strides, problem.output.splits, problem.output.offset, problem.output.dtype)
    )


def _covers(placed: Placement, nbytes: int) -> bool:
    return placed.border is not None or placed.span * placed.dtype.itemsize == nbytes


def _arrange(intervals: Sequence[Interval]) -> Arena:
    """The best of a few greedy arrangements, each placing blocks in another order at the lowest offset that is free."""
    orders: list[Callable[[Interval], tuple[int, ...]]] = [
        lambda i: (-i.nbytes, i.first, i.block),
        lambda i: (-i.nbytes * (i.last - i.first + 1), i.first, i.block),
        lambda i: (i.first, -i.nbytes, i.block),
        lambda i: (-(i.last - i.first), -i.nbytes, i.block),
    ]
    arenas = [_greedy(sorted(intervals, key=order)) for order in orders]
    best = min(arenas, key=lambda arena: arena.nbytes)
    return replace(best, lower_bound=_lower_bound(intervals))


def _greedy(intervals: Sequence[Interval]) -> Arena:
    arena = Arena()
    placed: list[tuple[int, Interval]] = []
    for interval in intervals:
        offset = 0
        for start, other in sorted(
            ((start, other) for start, other in placed if other.overlaps(interval)), key=lambda pair: pair[0]
        ):
            if offset + interval.nbytes <= start:
                break
            offset = max(offset, start + other.nbytes)
        placed.append((offset, interval))
        arena.offsets[interval.block] = offset
        arena.nbytes = max(arena.nbytes, offset + interval.nbytes)
    return arena


def _lower_bound(intervals: Sequence[Interval]) -> int:
    moments = sorted({interval.first for interval in intervals})
    return max((sum(i.nbytes for i in intervals if i.first <= moment <= i.last) for moment in moments), default=0)
