"""Canonicalisation: the rewrites that need no knowledge of kernels."""

from __future__ import annotations

from ..pipeline import Pass
from .affine import expand_batch_norm, fold_batch_norm, fold_scale, fold_shift
from .concat import nest_concat
from .constants import fold_constants
from .groups import merge_groups
from .padding import fold_pad
from .views import flatten_into_weights, isolate_outputs, simplify_views

PASSES = (
    Pass("simplify-views", simplify_views),
    Pass("fold-constants", fold_constants),
    Pass("fold-batch-norm", fold_batch_norm, rule="fold-batch-norm"),
    Pass("fold-scale", fold_scale, rule="fold-scale"),
    Pass("fold-shift", fold_shift, rule="fold-shift"),
    Pass("expand-batch-norm", expand_batch_norm, rule="expand-batch-norm"),
    Pass("fold-pad", fold_pad, rule="fold-pad"),
    Pass("merge-groups", merge_groups, rule="merge-groups"),
    Pass("nest-concat", nest_concat, rule="nest-concat"),
    Pass("isolate-outputs", isolate_outputs, ensures="canonical"),
    Pass("flatten-into-weights", flatten_into_weights, rule="flatten-into-weights", ensures="channels-last"),
)

__all__ = ["PASSES"]
