"""The named rules: what `--disable` and `--only` switch. A rule's equation says what it does.

Rules from outside join the table when they are registered (`convc.passes.extensions`).
"""

from __future__ import annotations

from dataclasses import dataclass


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
        Rule("merge-affine", "fold", "(x·s + t)·u + v → x·(s·u) + (t·u + v)"),
        Rule("fold-pad", "fold", "conv(pad(x, p, 0), w, pads=q) → conv(x, w, pads=p+q)"),
        Rule("merge-groups", "fold", "conv(x, w, groups=g) → conv(x, block_diagonal(w), groups=g/f)"),
        Rule("flatten-into-weights", "none", "gemm(flatten(x), w) → gemm(flatten(channels_last(x)), permute(w))"),
        Rule("nest-concat", "none", "concat(a, b), concat(a, b, c) → y = concat(a, b), concat(y, c)"),
        Rule("concat-in-place", "fold", "y = concat(f(a), g(b)) → f and g write their slices of y"),
        Rule("shuffle-in-writer", "fold", "y = f(x); z = reshape(transpose(reshape(y))) → f writes z"),
        Rule("shuffle-in-reader", "fold", "y = reshape(expand(reshape(x))); z = g(y, …) → g reads x"),
        Rule("update-in-place", "none", "y = f(conv(x), r) → y takes r's memory where r is not read again"),
        Rule("conv-epilogue", "fuse", "y = conv(x, w); z = f(y, …) → z = f(conv(x, w), …)"),
        Rule("conv-pool", "fuse", "y = f(conv(x, w), …); z = pool(y) → z = pool(f(conv(x, w), …))"),
        Rule("conv-prologue", "fuse", "y = f(x, …); z = conv(y, w) → z = conv(f(x, …), w)"),
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
        Rule("back-to-back", "fuse", "y = f(conv(x, w)); z = conv1x1(y, v) → z = conv1x1(f(conv(x, w)), v)"),
        Rule("matmul-epilogue", "fuse", "y = a·b; z = f(y, …) → z = f(a·b, …)"),
        Rule("pool-epilogue", "fuse", "y = pool(x); z = f(y, …) → z = f(pool(x), …)"),
        Rule("pad-epilogue", "fuse", "y = pad(x); z = f(y, …) → z = f(pad(x), …)"),
        Rule("reduction-epilogue", "fuse", "y = reduce(x); z = f(y, …) → z = f(reduce(x), …)"),
        Rule(
            "global-pool-epilogue",
            "fuse",
            "y = f(conv(x, w), …); m = mean(y) → y, m = f(conv(x, w), …), mean(f(conv(x, w), …))",
        ),
        Rule("softmax-epilogue", "fuse", "y = f(a·b, …); z = softmax(y) → z = softmax(f(a·b, …))"),
        Rule("sibling-convolutions", "fuse", "y = f(conv(x, v)), z = g(conv(x, w)) → y, z from one launch"),
        Rule("last-block", "fuse", "y = f(x); z = g(y) → one launch, whose last block computes g(y)"),
        Rule("l2-slices", "fuse", "y = f(x); z = g(y) → for each part of the batch: z[part] = g(f(x[part]))"),
        Rule("elementwise-chain", "fuse", "y = f(x, …); z = g(y, …) → z = g(f(x, …), …)"),
    )
}
LEVELS = ("none", "fold", "fuse")
