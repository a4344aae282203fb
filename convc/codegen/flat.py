"""What is special about rows that are the pixels of a convolution's input: which of them are places of its window."""

from __future__ import annotations

from dataclasses import replace

from ..ir.flat import PIXEL, FlatContraction
from ..ir.problem import Operand
from .expressions import Body


def index_lines(problem: FlatContraction) -> list[str]:
    """From a pixel to the place of the window there, kept among those that exist where something is read there."""
    border, named = problem.border, _named(problem)
    found = [f"{PIXEL} = row"] if PIXEL in named else []
    found += [f"n = row // {border.image}"] if "n" in named else []
    found += [f"p = row // {border.line} % {border.lines_apart}" if border.images > 1 else f"p = row // {border.line}"]
    found += [f"q = row % {border.line}"]
    inside = f"(p < {problem.places[0]}) & (q < {problem.places[1]})"
    found += [f"exists = ({inside})[:, None]  # pixels that are places of the window"]
    return found + [
        f"{name} = tl.minimum({name}, {n - 1})" for name, n in zip("pq", problem.places, strict=True) if name in named
    ]


def _named(problem: FlatContraction) -> set[str]:
    """Dimensions along which something steps that threads read or store."""
    read = {ref.index for s in problem.statements for ref in s.arguments if ref.kind == "operand"}
    operands: list[Operand] = [problem.output, *(problem.operands[index] for index in read)]
    return {dim.name for index, dim in enumerate(problem.dims) if any(operand.strides[index] for operand in operands)}


def ending(problem: FlatContraction, row_mask: str, col_mask: str) -> list[str]:
    """From the sums to the store: whole rows with zeros where there is no place, or the places alone."""
    masks = [row_mask] if row_mask else []
    masks += [] if problem.whole else ["exists"]
    body = Body(problem, " & ".join(masks), col_mask)
    result = body.values("acc")
    if problem.whole:
        body.lines.append(f"value = tl.where(exists, {result}, 0.0)")
        result = "value"
    return [*body.lines, body.store(result)]


def with_margin_alone(problem: FlatContraction) -> FlatContraction:
    """The problem with those of its zeros that whole rows leave: the margin in front of the first image."""
    border = problem.output.border
    if not problem.whole or border is None:
        return problem
    return replace(problem, output=replace(problem.output, border=replace(border, images=0)))
