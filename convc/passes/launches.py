"""Launches: which kernels of a program share one launch, and in which order the launches run.

Two rules put several regions into one launch, each with its own code and its own blocks:

- `sibling-convolutions`: convolutions and matrix products that read the same tensor run side by side. Of n launches
  n − 1 are saved, the tensor comes from memory once, and small grids fill the GPU together.
- `last-block`: a small kernel that needs all results of the one before it is run by the block that finishes last, which
  a counter tells. It saves a launch, and one block does alone what many could share.

Whether they pay is predicted from the tiles, so a launch is a property of a target's program, not of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Union

import networkx as nx

from ..ir import Value
from ..ir.chained import ChainedContraction
from ..ir.plan import Decline, FusedGraph, HostStep, PackedWeight, Tile
from ..ir.problem import Contraction, Problem
from ..targets import TARGETS, Target
from ..targets.cost import BLOCK_L2_BYTES_PER_S, TICKET_S, side_by_side
from .choice import Choice, Policy
from .lowering import Item, Work
from .switches import Switches
from .tiling import Tiles
from .traffic import traffic

SIBLINGS = "sibling-convolutions"
LAST_BLOCK = "last-block"
LONGEST_CHAIN = 4
"""Most kernels that a last block runs, one after the other. A guess, not measured."""
LONGEST_ALONE_S = 20e-6
"""Kernels that are predicted to take one block longer are not considered: it bounds the search."""
WARPS = (4, 8)
REFERENCE = TARGETS["sm_90"]
"""The GPU whose times decide for Triton's interpreter, so that it runs what a GPU would."""


@dataclass(frozen=True)
class Step:
    """One problem of a launch and its tile. alone: run by the last block, after all steps that are not."""

    work: Work
    tile: Tile
    alone: bool = False


@dataclass(frozen=True)
class Launch:
    """Steps that one launch runs, and the rules that brought them together."""

    steps: tuple[Step, ...]
    rules: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(step.work.problem for step in self.steps)


Entry = Union[Launch, HostStep]


def arrange(
    items: Sequence[Item], fused: FusedGraph, target: Target, switches: Switches, policy: Policy
) -> tuple[list[Entry], list[Decline]]:
    """The launches of a program and the steps of the host, in an order in which they can run, and why other launches
    were not brought together."""
    arranger = _Arranger(items, fused, target, policy)
    if switches.on(SIBLINGS):
        arranger.join_siblings()
    if switches.on(LAST_BLOCK):
        arranger.append_followers()
    return arranger.ordered(), arranger.declines


def judge_of(target: Target) -> Target:
    """The GPU whose times decide: the target itself, and for the interpreter one with the same features."""
    if not target.is_interpreter:
        return target
    return replace(REFERENCE, descriptors=target.descriptors, im2col=target.im2col, programmatic=target.programmatic)


class _Arranger:
    """Merges launches in a graph whose nodes are launches and steps of the host (by the index of their first item) and
    whose edges are dependencies."""

    def __init__(self, items: Sequence[Item], fused: FusedGraph, target: Target, policy: Policy) -> None:
        self.fused, self.target, self.policy = fused, target, policy
        self.judge = judge_of(target)
        self.tiles = Tiles(target)
        self.judged = Tiles(self.judge) if target.is_interpreter else self.tiles
        works = {index: item for index, item in enumerate(items) if isinstance(item, Work)}
        self.host = {index: item for index, item in enumerate(items) if isinstance(item, HostStep)}
        self.launches = {i: Launch((Step(work, self.tiles.best(work.problem)),)) for i, work in works.items()}
        self.graph = _dependencies(items, fused)
        self.declines: list[Decline] = []

    # -- siblings -----------------------------------------------------------------------------------------------------
    def join_siblings(self) -> None:
        """Brings together contractions that read the same tensor."""
        readers: dict[Value, list[int]] = {}
        for index, launch in self.launches.items():
            (problem,) = launch.problems
            source = _contracted(problem)
            if isinstance(source, Value):
                readers.setdefault(source, []).append(index)
        for value, found in readers.items():
            while len(found) > 1:
                first, *others = found
                found = [other for other in others if not self._join(value, first, other)]

    def _join(self, value: Value, first: int, other: int) -> bool:
        """Whether ``other`` became part of the launch ``first``."""
        steps = (*self.launches[first].steps, *self.launches[other].steps)
        problems = [step.work.problem for step in steps]
        tiles = self._tiles_together(problems)
        reason = self._unordered(first, other) or self._apart(steps, tiles)
        if reason is not None:
            self._decline(SIBLINGS, value.node, steps[-1], reason)
            return False
        if not self.target.is_interpreter:
            steps = tuple(replace(step, tile=tile) for step, tile in zip(steps, tiles, strict=True))
        self._merge(first, other, Launch(steps, (SIBLINGS,)))
        return True

    def _unordered(self, first: int, other: int) -> str | None:
        if nx.has_path(self.graph, first, other) or nx.has_path(self.graph, other, first):
            return "it also reads, through other kernels, what a sibling computes"
        return None

    def _apart(self, steps: Sequence[Step], tiles: Sequence[Tile]) -> str | None:
        """Why siblings that could share a launch do not."""
        return self._refused(self._siblings(steps, tiles)) if tiles else "no number of warps suits all of them"

    def _siblings(self, steps: Sequence[Step], tiles: Sequence[Tile]) -> Choice:
        problems = [step.work.problem for step in steps]
        before, added = problems[:-1], problems[-1:]
        apart = self._seconds(before, self._tiles_together(before)) + self._seconds(added, self._tiles_together(added))
        together = self._seconds(problems, tiles)
        return self._choice(SIBLINGS, steps, apart - together, "one number of warps for all of them")

    def _tiles_together(self, problems: Sequence[Problem]) -> list[Tile]:
        """The cheapest tiles of one number of warps for all problems; none where no number suits them all."""
        options = [[self.judged.with_warps(problem, warps) for problem in problems] for warps in (*WARPS, None)]
        whole = [[tile for tile in tiles if tile is not None] for tiles in options if None not in tiles]
        uniform = [tiles for tiles in whole if len({tile.num_warps for tile in tiles}) == 1]
        return min(uniform, key=lambda tiles: self._seconds(problems, tiles), default=[])

    def _seconds(self, problems: Sequence[Problem], tiles: Sequence[Tile]) -> float:
        """Predicted seconds of one launch of these problems."""
        parts = [(tile.predicted_us, p.programs(tile)) for p, tile in zip(problems, tiles, strict=True)]
        return side_by_side(parts, self.judge)

    # -- the last block -----------------------------------------------------------------------------------------------
    def append_followers(self) -> None:
        """Lets the last block of a launch run the small kernels that come next."""
        for index in sorted(self.launches):
            if index in self.launches:
                self._append(index)

    def _append(self, index: int) -> None:
        """Appends the chain of followers that gains most, if the policy agrees."""
        chain: list[tuple[int, Step]] = []
        gains: list[float] = []
        for follower in self._followers(index):
            step, gained = self._alone(follower, self._warps(index))
            chain.append((follower, step))
            gains.append((gains[-1] if gains else -TICKET_S) + gained)
        if not chain:
            return
        taken = chain[: 1 + gains.index(max(gains))]
        steps = (*self.launches[index].steps, *(step for _, step in taken))
        reason = self._refused(self._choice(LAST_BLOCK, steps, max(gains), "what one block does alone"))
        if reason is not None:
            source = self.launches[index].steps[-1].work.region.output.node
            self._decline(LAST_BLOCK, source, taken[0][1], reason)
            return
        rules = (*self.launches[index].rules, LAST_BLOCK)
        for follower, _ in taken:
            self._merge(index, follower, Launch(steps, rules))

    def _followers(self, index: int) -> Iterator[int]:
        """Launches of one small step that read what the launch, or one of those before, computes, in order."""
        inside = {index}
        while len(inside) <= LONGEST_CHAIN:
            next_ones = sorted({s for i in inside for s in self.graph.successors(i)} - inside)
            fitting = [s for s in next_ones if self._fits(s, inside)]
            if not fitting:
                return
            inside.add(fitting[0])
            yield fitting[0]

    def _fits(self, follower: int, inside: set[int]) -> bool:
        """Whether a launch is one small step that waits for nothing that itself waits for the launches inside."""
        launch = self.launches.get(follower)
        if launch is None or len(launch.steps) > 1 or self._alone_s(launch.problems[0]) > LONGEST_ALONE_S:
            return False
        others = {s for i in inside for s in self.graph.successors(i)} - inside - {follower}
        return not any(nx.has_path(self.graph, other, follower) for other in others)

    def _alone(self, follower: int, warps: int) -> tuple[Step, float]:
        """A launch as a step of the last block, and the seconds that this saves, the counter not included."""
        (step,) = self.launches[follower].steps
        problem = step.work.problem
        apart = self._seconds([problem], self._tiles_together([problem]))
        judged = self.judged.alone(problem, warps)
        tile = self.tiles.alone(problem, 1) if self.target.is_interpreter else judged
        assert judged is not None and tile is not None, "a launch without such tiles fits nowhere"
        return Step(step.work, tile, alone=True), apart - judged.predicted_us * 1e-6

    def _alone_s(self, problem: Problem) -> float:
        least = traffic(problem).total / BLOCK_L2_BYTES_PER_S
        if least > LONGEST_ALONE_S or self.tiles.alone(problem, 1) is None:
            return math.inf
        tile = self.judged.alone(problem, WARPS[0])
        return math.inf if tile is None else tile.predicted_us * 1e-6

    def _warps(self, index: int) -> int:
        """Warps of a launch on the GPU that decides."""
        steps = self.launches[index].steps
        if not self.target.is_interpreter:
            return steps[0].tile.num_warps
        problems = [step.work.problem for step in steps if not step.alone]
        return self._tiles_together(problems)[0].num_warps

    # -- both ---------------------------------------------------------------------------------------------------------
    def _choice(self, rule: str, steps: Sequence[Step], gain: float, why: str) -> Choice:
        nodes = tuple(dict.fromkeys(id for step in steps for id in step.work.region.nodes))
        return Choice(rule, nodes, steps[-1].work.region.head, open=False, gain_s=gain, why=why)

    def _refused(self, choice: Choice) -> str | None:
        return self.policy.refusal(choice, self.fused.graph)

    def _decline(self, rule: str, source: int, step: Step, reason: str) -> None:
        self.declines.append(Decline(rule, source, step.work.region.head, reason))

    def _merge(self, first: int, other: int, launch: Launch) -> None:
        self.launches[first] = launch
        del self.launches[other]
        nx.contracted_nodes(self.graph, first, other, self_loops=False, copy=False, store_contraction_as=None)

    def ordered(self) -> list[Entry]:
        """All launches and steps of the host, each as early as its turn comes and its operands exist."""
        order = nx.lexicographical_topological_sort(self.graph)
        return [self.launches[index] if index in self.launches else self.host[index] for index in order]


def predicted_us(steps: Sequence[Step], target: Target) -> float:
    """Predicted microseconds of a launch: its steps side by side, the counter, and what the last block does."""
    beside = [step for step in steps if not step.alone]
    alone = [step for step in steps if step.alone]
    if target.is_interpreter or len(steps) == 1:
        return sum(step.tile.predicted_us for step in steps)
    parts = [(step.tile.predicted_us, step.work.problem.programs(step.tile)) for step in beside]
    ticket = TICKET_S if alone else 0.0
    return round((side_by_side(parts, target) + ticket) * 1e6 + sum(step.tile.predicted_us for step in alone), 3)


def _contracted(problem: Problem) -> Value | PackedWeight | None:
    """What a convolution or a product reads; None for other kernels."""
    first = problem.first if isinstance(problem, ChainedContraction) else problem
    return first.x.source if isinstance(first, Contraction) else None


def _dependencies(items: Sequence[Item], fused: FusedGraph) -> nx.DiGraph:
    """Which items need which others: regions by their edges, through regions that launch nothing."""
    graph = nx.DiGraph()
    graph.add_nodes_from(region.id for region in fused.regions)
    for source, target in fused.graph.networkx.edges():
        a, b = fused.graph.node(source).region, fused.graph.node(target).region
        if a is not None and b is not None and a != b:
            graph.add_edge(a, b)
    needed = nx.DiGraph()
    needed.add_nodes_from(range(len(items)))
    works: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        works.setdefault(item.region.id, []).append(index)
    for index, item in enumerate(items):
        needed.add_edges_from((before, index) for before in _makers(graph, works, item.region.id))
        if isinstance(item, Work) and item.problem.output.picks:  # into what works in front of it have stored
            needed.add_edges_from((before, index) for before in works[item.region.id] if before < index)
    return needed


def _makers(regions: nx.DiGraph, works: Mapping[int, Sequence[int]], region: int) -> Iterator[int]:
    """The works whose results a region reads."""
    for before in regions.predecessors(region):
        if before in works:
            yield from works[before]
        else:
            yield from _makers(regions, works, before)
