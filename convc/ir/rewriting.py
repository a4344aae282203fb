"""Problems rewritten: every operand changed, and iteration dimensions merged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from .expansion import Expansion
from .problem import GlobalPool, IterDim, Operand, Problem, Tap

P = TypeVar("P", bound=Problem)


def mapped(problem: P, change: Callable[[Operand], Operand]) -> P:
    """A problem with every operand changed."""
    return replace(problem, **{part.name: _mapped(getattr(problem, part.name), change) for part in fields(problem)})


def _mapped(part: Any, change: Callable[[Operand], Operand]) -> Any:
    if isinstance(part, Operand):
        return change(part)
    if isinstance(part, Problem):
        return mapped(part, change)
    if isinstance(part, GlobalPool):
        return replace(part, output=change(part.output))
    if isinstance(part, Expansion):
        return part.mapped(change)
    if isinstance(part, tuple) and part and isinstance(part[0], Operand):
        return tuple(map(change, part))
    return part


def collapse(problem: P, fixed: Sequence[int] = ()) -> P:
    """Merges neighbouring dimensions of one axis along which every operand steps evenly, and drops extents of 1.

    fixed: dimensions that must stay by themselves (windows slide along them).
    """
    operands = [*problem.reads, problem.output, *problem.stores]
    pinned = {*fixed, *(bound.dim for operand in operands for bound in operand.bounds)}
    pinned |= {split.dim for operand in operands for split in operand.splits}
    if any(operand.unravel for operand in operands):
        return problem
    kept: list[list[int]] = []
    for index, dim in enumerate(problem.dims):
        if dim.extent == 1 and index not in pinned:
            continue
        if kept and _mergeable(problem, operands, kept[-1], index, pinned):
            kept[-1].append(index)
        else:
            kept.append([index])
    return _rebuilt(problem, kept)


def _mergeable(problem: Problem, operands: Sequence[Operand], group: list[int], index: int, pinned: set[int]) -> bool:
    previous, dim = problem.dims[group[-1]], problem.dims[index]
    if previous.axis is not dim.axis or index in pinned or pinned & set(group):
        return False
    return all(operand.strides[group[-1]] == operand.strides[index] * dim.extent for operand in operands)


def _rebuilt(problem: P, groups: list[list[int]]) -> P:
    renumbered = {old: new for new, group in enumerate(groups) for old in group}

    def operand(old: Operand) -> Operand:
        strides = tuple(old.strides[group[-1]] for group in groups)
        bounds = tuple(replace(bound, dim=renumbered[bound.dim]) for bound in old.bounds)
        splits = tuple(replace(split, dim=renumbered[split.dim]) for split in old.splits)
        return replace(old, strides=strides, bounds=bounds, splits=splits)

    changes: dict[str, Any] = {"dims": tuple(_merged_dim(problem, group) for group in groups)}
    if hasattr(problem, "taps"):
        changes["taps"] = tuple(_renumbered(tap, renumbered) for tap in problem.taps)
    return replace(mapped(problem, operand), **changes)


def _renumbered(tap: Tap, numbers: dict[int, int]) -> Tap:
    return replace(tap, dim=numbers.get(tap.dim, -1))


def _merged_dim(problem: Problem, group: list[int]) -> IterDim:
    dims = [problem.dims[index] for index in group]
    name = "".join(dim.name for dim in dims)
    return IterDim(name, math.prod(dim.extent for dim in dims), dims[0].axis)
