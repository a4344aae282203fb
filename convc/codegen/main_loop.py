"""The main loop of a contraction: its counters, which carry over from the innermost to the outermost, and its length.

The number of steps is passed at run time, so that no compiler unrolls the loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.plan import Tile
from ..ir.problem import Contraction, Steps, Tap, steps_of
from .kernel import Argument


@dataclass(frozen=True)
class Loop:
    """The main loop: its counters, innermost first, and what their offsets and masks are."""

    problem: Contraction
    tile: Tile

    @property
    def plan(self) -> Steps:
        return steps_of(self.problem)

    @property
    def flat(self) -> Tap | None:
        return self.problem.taps[-1] if self.plan.flat else None

    @property
    def outer(self) -> tuple[Tap, ...]:
        """Taps that the loop walks over."""
        return self.problem.taps[:-1] if self.plan.flat else self.problem.taps

    @property
    def steps(self) -> int:
        return self.plan.total(self.tile.depth)

    @property
    def walks_depth(self) -> bool:
        return not self.plan.flat and self.plan.inner(self.tile.depth) > 1

    @property
    def is_loop(self) -> bool:
        return self.steps // self.tile.split_k > 1 or self.tile.split_k > 1

    def counters(self) -> list[str]:
        """Their names, innermost first."""
        names = ["c"] if self.walks_depth else []
        return names + [tap.name for tap in reversed(self.outer)]

    def start_lines(self) -> list[str]:
        """Counters of a split-K program's first step."""
        lines, inner = [], 1
        if self.walks_depth:
            blocks = self.plan.inner(self.tile.depth)
            lines.append(f"c = first % {blocks} * BLOCK_DEPTH")
            inner = blocks
        for index, tap in enumerate(reversed(self.outer)):
            text = "first" if inner == 1 else f"first // {inner}"
            lines.append(f"{tap.name} = {text}" + (f" % {tap.size}" if index < len(self.outer) - 1 else ""))
            inner *= tap.size
        return lines

    def advance_lines(self) -> list[str]:
        """Moves the counters one step on, carrying over from the innermost to the outermost."""
        names = self.counters()
        limits = {tap.name: str(tap.size) for tap in self.outer}
        limits["c"] = str(self.problem.depth)
        lines = []
        for index, name in enumerate(names):
            amount = "BLOCK_DEPTH" if name == "c" else "1"
            lines.append(f"{name} += {amount}" if index == 0 else f"{name} += carry")
            if index < len(names) - 1:
                lines.append(f"carry = ({name} >= {limits[name]}).to(tl.int32)")
                lines.append(f"{name} = tl.where(carry == 1, 0, {name})")
        return lines

    def parameters(self) -> tuple[tuple[str, str, Argument], ...]:
        """What the kernel is passed beside its operands."""
        extra: list[tuple[str, str, Argument]] = []
        if self.tile.split_k > 1:
            partial = "*fp32" if self.problem.sums.is_float else "*i32"
            extra += [("partial", partial, Argument("partial")), ("counters", "*i32", Argument("counters"))]
        if self.is_loop:
            extra.append(("steps", "i32", Argument("number", value=self.steps // self.tile.split_k)))
        return tuple(extra)
