"""Several problems in one kernel: each is a function, and a dispatcher calls it for its blocks.

Problems that run side by side divide the blocks of the grid among them. Those of the last block follow when a counter
says that all blocks have arrived: the counter is added to with acquire and release, between barriers of the block, so
that the last block sees what the others wrote.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..ir.plan import Tile
from ..ir.problem import Problem
from . import overlap
from .emit import Aligned, EmittedKernel, Function, module, written
from .kernel import Argument, render

SCRATCH_ALIGNMENT = 256
"""Bytes that the partial sums and the counters of each step start at a multiple of."""


@dataclass(frozen=True)
class Part:
    """One step: its problem, its tile, and whether the last block runs it alone."""

    problem: Problem
    tile: Tile
    alone: bool


@dataclass(frozen=True)
class _Call:
    """A call of a step's function. end: the first block behind the step's own, where it has blocks of its own."""

    text: str
    blocks: int
    end: int


class _Parameters:
    """The kernel's parameters: what several steps read is passed once."""

    def __init__(self) -> None:
        self.names: dict[tuple[object, ...], str] = {}
        self.parameters: list[tuple[str, str, bool]] = []
        self.arguments: list[Argument] = []

    def name(self, parameter: tuple[str, str, bool], argument: Argument) -> str:
        """The name under which an argument is passed; new ones get a number where their name is taken."""
        operand = argument.operand
        where = operand and (operand.source, operand.offset)
        key = (parameter[1:], argument.kind, argument.value, where, argument.reads)
        if key not in self.names:
            taken = {name for name, _, _ in self.parameters}
            choices = (parameter[0], *(f"{parameter[0]}_{number}" for number in range(2, len(taken) + 3)))
            self.names[key] = next(name for name in choices if name not in taken)
            self.parameters.append((self.names[key], *parameter[1:]))
            self.arguments.append(argument)
        return self.names[key]


def emit_group(parts: Sequence[Part], aligned: Aligned, programmatic: bool = False) -> EmittedKernel:
    """One kernel for several problems, those of the last block at the end. programmatic: as in `emit`.

    Raises:
        NoText: an elementwise operator without a Triton expression.
    """
    functions = [written(part.problem, part.tile, aligned, False, programmatic) for part in parts]
    beside = [function for part, function in zip(parts, functions, strict=True) if not part.alone]
    blocks = sum(math.prod(function.parts.grid) for function in beside)
    parameters = _Parameters()
    scratch = _Scratch(SCRATCH_ALIGNMENT if len(beside) < len(parts) else 0)
    calls: list[_Call] = []
    for part, function in zip(parts, functions, strict=True):
        start = calls[-1].end if calls else 0
        calls.append(_call(function, start, parameters, scratch.placed(function), part.alone))
    if len(beside) < len(parts):
        parameters.name(("arrived", "*i32", True), Argument("counters"))
    if programmatic:
        for parameter, argument in overlap.pointers_to_weights(parameters.parameters, parameters.arguments):
            parameters.name(parameter, argument)
    loops = any(overlap.LAUNCH in function.text for function in functions)
    opening = overlap.opening(parameters.parameters, parameters.arguments, "pid", blocks, loops) if programmatic else []
    unnamed = _text("KERNEL", parameters, opening, calls[: len(beside)], calls[len(beside) :], blocks)
    seen = (unnamed, parameters.parameters, [function.text for function in functions], parts[0].tile.num_warps)
    name = f"{_word(beside, parts)}_{hashlib.sha256(repr(seen).encode()).hexdigest()[:8]}"
    text = _text(name, parameters, opening, calls[: len(beside)], calls[len(beside) :], blocks)
    imports, helpers = overlap.preamble(parameters.parameters, parameters.arguments) if programmatic else ([], [])
    sources = dict.fromkeys(function.text for function in functions)
    return EmittedKernel(
        name=name,
        family="group",
        source=module(equation_of(parts), _description(functions), [*helpers, *sources, text], imports),
        parameters=tuple(parameters.parameters),
        arguments=tuple(parameters.arguments),
        grid=(blocks, 1, 1),
        num_warps=parts[0].tile.num_warps,
        num_stages=min(part.tile.num_stages for part in parts),
        workspace_bytes=scratch.workspace,
        counter_bytes=scratch.counters,
        programmatic=programmatic,
    )


def equation_of(parts: Sequence[Part]) -> str:
    """What a group computes: the equations of its steps."""
    return "; then ".join(
        "; ".join(part.problem.equation for part in parts if part.alone == alone)
        for alone in (False, True)
        if any(part.alone == alone for part in parts)
    )


class _Scratch:
    """Bytes of partial sums and counters, given out one step after the other."""

    def __init__(self, counters: int) -> None:
        self.workspace, self.counters = 0, counters

    def placed(self, function: Function) -> list[Argument]:
        """The function's arguments with its scratch behind that of the steps before."""
        starts = {"partial": self.workspace, "counters": self.counters}
        moved = [replace(a, value=a.value + starts[a.kind]) if a.kind in starts else a for a in function.arguments]
        self.workspace += _aligned(function.parts.workspace_bytes)
        self.counters += _aligned(function.parts.counter_bytes)
        return moved


def _aligned(nbytes: int) -> int:
    return -(-nbytes // SCRATCH_ALIGNMENT) * SCRATCH_ALIGNMENT


def _call(function: Function, start: int, parameters: _Parameters, arguments: list[Argument], alone: bool) -> _Call:
    tiles, splits, _ = function.parts.grid
    index = ("tile" if tiles > 1 else "0") if alone else f"pid - {start}" if start else "pid"
    indices = [index]
    if splits > 1:
        whole = f"({index})" if start else index
        indices = [f"{whole} % {tiles}", f"{whole} // {tiles}"]
    names = [parameters.name(p, argument) for p, argument in zip(function.parameters, arguments, strict=True)]
    count = tiles * splits
    return _Call(f"{function.name}({', '.join([*indices, *names])})", count, start if alone else start + count)


def _text(
    name: str, parameters: _Parameters, opening: list[str], beside: list[_Call], alone: list[_Call], blocks: int
) -> str:
    names = [name for name, _, _ in parameters.parameters]
    values = {"opening": opening, "side_by_side": beside, "alone": alone, "blocks": blocks}
    return render("group.py.j2", name=name, parameters=names, **values).rstrip()


def _word(beside: Sequence[Function], parts: Sequence[Part]) -> str:
    words = list(dict.fromkeys(function.parts.word for function in beside))
    name = "_and_".join(words) if len(words) < 3 else f"{words[0]}_and_others"
    tail = sum(part.alone for part in parts)
    return f"{name}_then_{tail}" if tail else name


def _description(functions: Sequence[Function]) -> str:
    return "\n\n".join(f"{f.name}: {f.description}" for f in {f.name: f for f in functions}.values())
