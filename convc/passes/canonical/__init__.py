"""Canonicalisation: the rewrites that need no knowledge of kernels."""

from __future__ import annotations

from ...ir import Graph
from ..extensions import Rewrite, extensions
from ..pipeline import Pass
from .affine import expand_batch_norm, fold_batch_norm, fold_scale, fold_shift
from .concat import nest_concat
from .constants import fold_constants
from .doubles import narrow_doubles
from .groups import merge_groups
from .padding import fold_pad
from .resize import expand_resize
from .scaling import merge_affine
from .transposed import expand_transposed
from .views import flatten_into_weights, isolate_outputs, simplify_views

PASSES = (
    Pass("simplify-views", simplify_views),
    Pass("fold-constants", fold_constants),
    Pass("narrow-doubles", narrow_doubles),
    Pass("expand-transposed", expand_transposed),
    Pass("expand-resize", expand_resize),
    Pass("fold-batch-norm", fold_batch_norm, rule="fold-batch-norm"),
    Pass("fold-scale", fold_scale, rule="fold-scale"),
    Pass("fold-shift", fold_shift, rule="fold-shift"),
    Pass("expand-batch-norm", expand_batch_norm, rule="expand-batch-norm"),
    Pass("merge-affine", merge_affine, rule="merge-affine"),
    Pass("fold-pad", fold_pad, rule="fold-pad"),
    Pass("merge-groups", merge_groups, rule="merge-groups"),
    Pass("nest-concat", nest_concat, rule="nest-concat"),
    Pass("isolate-outputs", isolate_outputs, ensures="canonical"),
    Pass("flatten-into-weights", flatten_into_weights, rule="flatten-into-weights", ensures="channels-last"),
)

FROM_OUTSIDE = 2
"""Rewrites from outside run behind so many: they see folded constants, and what they make is folded."""


def passes() -> tuple[Pass, ...]:
    """The passes in the order in which they run, those from outside among them."""
    outside = [
        Pass(added.rule.name, _tidied(added.rewrite), rule=added.rule.name, outside=True)
        for added in extensions()
        if added.rewrite is not None
    ]
    return (*PASSES[:FROM_OUTSIDE], *outside, *PASSES[FROM_OUTSIDE:])


def _tidied(rewrite: Rewrite) -> Rewrite:
    """The rewrite, and behind it what the passes in front of it promise."""

    def run(graph: Graph) -> bool:
        changed = bool(rewrite(graph))
        simplify_views(graph)
        fold_constants(graph)
        return changed

    return run


__all__ = ["PASSES", "passes"]
