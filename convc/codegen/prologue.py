"""Prologues: what a contraction does to each block of x between its load and the product.

The operators work in fp32. Lanes that hold nothing (padding, channels past the last, taps past the end of a line) are
zero behind them, whatever they make of zero.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir import DType
from ..ir.problem import Contraction
from .expressions import Body, widened
from .indexing import offsets, scaled

Load = Callable[[str, list[str], str], str]
"""Address, how far the step moves it, mask → the text of a load."""


def addresses(problem: Contraction, channel: str) -> list[str]:
    """Where the operands begin for this tile. channel: the variable that numbers the channels of a step."""
    lines = []
    for operand in problem.prologue_operands:
        along = f"({scaled(channel, operand.depth)})[None, :]" if operand.depth else ""
        place = offsets(problem, operand).joined()
        terms = [term for term in (place, along) if term and term != "0"]
        lines.append(f"{operand.name}_at = {' + '.join([operand.name, *terms])}")
    return lines


def step(problem: Contraction, load: Load, moves: bool, depth_mask: str, x_mask: str) -> tuple[list[str], str]:
    """The lines behind the load of ``a``, and the name of what the product takes.

    moves: whether the channels move from step to step. depth_mask: which channels of a step exist; x_mask: which
    elements of x do; empty where all.
    """
    if not problem.prologue:
        return [], "a"
    body = Body(problem, prefix="f")
    if problem.x.dtype is not DType.FP32:
        body.lines.append("a = a.to(tl.float32)")
    for operand in problem.prologue_operands:
        shifts = [scaled("c", operand.depth)] if moves and operand.depth else []
        mask = f"{depth_mask}[None, :]" if depth_mask and operand.depth else ""
        body.lines.append(f"{operand.name}_tile = {load(f'{operand.name}_at', shifts, mask)}{widened(operand.dtype)}")
    result = body.apply(problem.prologue, problem.prologue_operands, "a")
    if not x_mask:
        return body.lines, result
    return [*body.lines, f"a = tl.where({x_mask}, {result}, 0.0)"], "a"
