"""The form of a kernel's step in a few words: what decides what its machine code looks like."""

from __future__ import annotations

from ..ir.chained import ChainedContraction
from ..ir.pooled import PooledContraction
from ..ir.problem import Axis, AxisReduction, Contraction, Problem, WindowReduction, steps_of
from ..ir.separable import SeparableContraction

WINDOWS = {"conv": "depthwise convolution", "sum_of_squares": "local response"}


def form(problem: Problem) -> str:
    """Such as ``convolution``, ``convolution, strided, prologue`` or ``pooling``."""
    if isinstance(problem, ChainedContraction):
        return "back to back"
    if isinstance(problem, SeparableContraction):
        return "separable, expanded" if problem.expansion else "separable"
    if isinstance(problem, Contraction):
        return ", ".join([_product(problem), *_further(problem)])
    if isinstance(problem, WindowReduction):
        return WINDOWS.get(problem.mode, "pooling")
    if isinstance(problem, AxisReduction):
        return "softmax" if problem.family == "softmax" else "reduction"
    return problem.family


def contracted(problem: Problem) -> Contraction | None:
    """The contraction whose loop is the longest of a problem's, if it has any."""
    if isinstance(problem, ChainedContraction):
        return problem.first
    return problem if isinstance(problem, Contraction) else None


def multiplied(problem: Contraction) -> str:
    """The type that tensor cores multiply: fp16, bf16 or tf32; empty where ordinary units do."""
    if problem.compute.itemsize == 2:
        return problem.compute.value
    return problem.precision if problem.precision == "tf32" else ""


def _product(problem: Contraction) -> str:
    return "convolution" if problem.taps else "matrix product"


def _further(problem: Contraction) -> list[str]:
    """What makes a contraction other than a plain one."""
    return [
        name
        for name, holds in (
            ("strided", _skips(problem) or any(tap.step > 1 for tap in problem.taps)),
            ("few channels", steps_of(problem).flat),
            ("groups", problem.extent(Axis.GROUP) > 1),
            ("prologue", bool(problem.prologue)),
            ("pooled", isinstance(problem, PooledContraction)),
            (problem.normalise, bool(problem.normalise)),
        )
        if holds
    ]


def _skips(problem: Contraction) -> bool:
    """Whether a product without windows leaves out pixels of x: lines are then much further apart than their pixels
    are long, which borders around x do not make them."""
    rows = problem.positions(Axis.ROW)[-2:]
    if problem.taps or len(rows) < 2:
        return False
    line, pixel = (problem.x.strides[index] for index in rows)
    return 2 * line >= 3 * problem.dims[rows[1]].extent * pixel > 0
