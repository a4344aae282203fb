"""The named rules: what `--disable` and `--only` switch. A rule's equation says what it does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .. import errors


@dataclass(frozen=True)
class Rule:
    """A rewrite or a fusion that can be switched off; ``level`` is the lowest ``--opt`` at which it runs."""

    name: str
    level: str
    equation: str


RULES = {
    rule.name: rule
    for rule in (
        Rule("fold-batch-norm", "fold", "batch_norm(conv(x, w) + b) → conv(x, w·s) + (b·s + t)"),
        Rule("fold-scale", "fold", "conv(x, w)·s → conv(x, w·s)"),
        Rule("fold-shift", "fold", "(conv(x, w) + b) + t → conv(x, w) + (b + t)"),
        Rule("expand-batch-norm", "fold", "batch_norm(x) → x·s + t"),
        Rule("fold-pad", "fold", "conv(pad(x, p, 0), w, pads=q) → conv(x, w, pads=p+q)"),
        Rule("merge-groups", "fold", "conv(x, w, groups=g) → conv(x, block_diagonal(w), groups=g/f)"),
        Rule("flatten-into-weights", "none", "gemm(flatten(x), w) → gemm(flatten(channels_last(x)), permute(w))"),
        Rule("nest-concat", "none", "concat(a, b), concat(a, b, c) → y = concat(a, b), concat(y, c)"),
        Rule("concat-in-place", "fold", "y = concat(f(a), g(b)) → f and g write their slices of y"),
        Rule("update-in-place", "none", "y = f(conv(x), r) → y takes r's memory where r is not read again"),
        Rule("conv-epilogue", "fuse", "y = conv(x, w); z = f(y, …) → z = f(conv(x, w), …)"),
        Rule("conv-pool", "fuse", "y = f(conv(x, w), …); z = pool(y) → z = pool(f(conv(x, w), …))"),
        Rule("conv-prologue", "fuse", "y = f(x, …); z = conv1x1(y, w) → z = conv1x1(f(x, …), w)"),
        Rule(
            "depthwise-pointwise",
            "fuse",
            "y = depthwise(x, wd); z = conv1x1(f(y), wp) → z = conv1x1(f(depthwise(x, wd)), wp)",
        ),
        Rule(
            "expand-depthwise",
            "fuse",
            "y = conv1x1(x, we); z = depthwise(f(y), wd) → z = depthwise(f(conv1x1(x, we)), wd)",
        ),
        Rule("pool-conv", "fuse", "y = pool(x); z = conv1x1(f(y), w) → z = conv1x1(f(pool(x)), w)"),
        Rule("matmul-epilogue", "fuse", "y = a·b; z = f(y, …) → z = f(a·b, …)"),
        Rule("pool-epilogue", "fuse", "y = pool(x); z = f(y, …) → z = f(pool(x), …)"),
        Rule("reduction-epilogue", "fuse", "y = reduce(x); z = f(y, …) → z = f(reduce(x), …)"),
        Rule("sibling-convolutions", "fuse", "y = f(conv(x, v)), z = g(conv(x, w)) → y, z from one launch"),
        Rule("last-block", "fuse", "y = f(x); z = g(y) → one launch, whose last block computes g(y)"),
        Rule("elementwise-chain", "fuse", "y = f(x, …); z = g(y, …) → z = g(f(x, …), …)"),
    )
}
LEVELS = ("none", "fold", "fuse")


@dataclass(frozen=True)
class Switches:
    """Which rules run: the level of ``--opt`` less the disabled ones, or just the ``only`` ones.

    Raises:
        UsageError: an unknown level or rule name.
    """

    opt: str = "fuse"
    disable: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.opt not in LEVELS:
            raise errors.one_of(self.opt, LEVELS, "optimisation level")
        for name in (*self.disable, *(self.only or ())):
            if name not in RULES:
                raise errors.one_of(name, RULES, "rule")

    def on(self, name: str) -> bool:
        """Whether the rule runs."""
        if name in self.disable or (self.only is not None and name not in self.only):
            return False
        return LEVELS.index(RULES[name].level) <= LEVELS.index(self.opt)

    @staticmethod
    def parse(opt: str, disable: Iterable[str] | str = (), only: Iterable[str] | str | None = None) -> Switches:
        """From command-line text or sequences: names separated by commas."""
        return Switches(opt, _names(disable), None if only is None else _names(only))


def _names(given: Iterable[str] | str) -> tuple[str, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    return tuple(sorted({part.strip() for part in parts if part.strip()}))
