"""Bytes that a kernel asks of memory, each distinct byte once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import Value
from ..ir.plan import PackedWeight
from ..ir.problem import Operand, Problem, Tap


@dataclass(frozen=True)
class Traffic:
    """Distinct bytes read and written: activations (graph inputs and outputs included), weights, split-K workspace."""

    activations: int
    weights: int
    workspace: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.weights + self.workspace


def traffic(problems: Problem | Sequence[Problem], workspace: int = 0) -> Traffic:
    """What the operands and outputs of a launch's problems amount to. A tensor read twice by a launch counts once."""
    problems = [problems] if isinstance(problems, Problem) else problems
    distinct: dict[Value | PackedWeight, int] = {}
    written = 0
    for problem in problems:
        for operand in problem.reads:
            size = touched(problem.owner_of(operand), operand) * operand.dtype.itemsize
            distinct[operand.source] = max(distinct.get(operand.source, 0), size)
        written += sum(touched(problem, operand) * operand.dtype.itemsize for operand in problem.stores)
    activations = sum(size for source, size in distinct.items() if isinstance(source, Value))
    weights = sum(size for source, size in distinct.items() if isinstance(source, PackedWeight))
    return Traffic(activations + written, weights, workspace)


def touched(problem: Problem, operand: Operand) -> int:
    """Distinct elements of an operand that the whole kernel touches.

    Dimensions with a stride contribute their extent; along a window, the input positions under it; reductions and
    padding their extents.
    """
    if operand.unravel:
        return math.prod(extent for extent, _ in operand.unravel)
    if isinstance(operand.source, PackedWeight):
        return math.prod(operand.source.view)
    windows = getattr(problem, "taps", ()) if operand.name == "x" else ()
    taps = {tap.dim: tap for tap in windows if tap.dim >= 0}
    padded = {bound.dim: bound.extent for bound in operand.bounds}
    split = {split.dim: [extent for extent, stride in split.parts if stride] for split in operand.splits}
    count = 1
    for index, extent in enumerate(problem.extents_of(operand)):
        if index in taps:
            count *= taps[index].covered(extent)
        elif index in split:
            count *= math.prod(split[index])
        elif operand.strides[index]:
            count *= min(extent, padded.get(index, extent))
    if operand.picks:
        there = count * math.prod(pick.extent for pick in operand.picks)
        count = min(there, math.prod(problem.extents_of(problem.output)))
    if operand.depth:
        count *= getattr(problem, "depth", 1)
    if operand.name == "x":
        expansion = getattr(problem, "expansion", None)
        count *= expansion.inputs if expansion else getattr(problem, "depth", 1)
        count *= math.prod(extent for extent, _ in getattr(problem, "reduced", ()))
        count *= math.prod(tap.size for tap in windows if tap.dim < 0)
    return count + _beyond(problem, operand, windows)


def _beyond(problem: Problem, operand: Operand, windows: Sequence[Tap]) -> int:
    """Zeros around images that are touched beside what dimensions tell: all where they are written, where they are read
    the margin in front of the first image."""
    border = operand.border
    if border is None:
        return 0
    if operand is problem.output:
        return border.zeros * border.channels
    return border.margin * border.channels if any(tap.period and tap.pad for tap in windows) else 0
