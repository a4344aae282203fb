"""Operators whose result has as many rows as the data make it have.

Such a size is a symbol of its own, the attribute ``count``, whose value the run finds out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import DType, TensorType
from . import checks
from .arrays import widen


def _infer_non_zero(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Indices of the elements that are not 0, int64 [rank, count], the last index running fastest."""
    checks.arity("NonZero", inputs, 1)
    checks.dimensions("NonZero", "count", (attributes["count"],), 1)
    return [TensorType(DType.INT64, (max(inputs[0].rank, 1), attributes["count"]))]


def _non_zero(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


def _infer_suppression(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """boxes[N, B, 4], scores[N, classes, B] → int64 [count, 3]: image, class and box of each that is kept."""
    op = "NonMaxSuppression"
    checks.arity(op, inputs, 2)
    boxes, scores = inputs
    checks.floating(op, "inputs", checks.one_dtype(op, inputs))
    for what, type in (("boxes", boxes), ("scores", scores)):
        if type.rank != 3:
            raise errors.wrong_rank(op, what, "3", type)
    checks.same_dimension(op, "the last dimension of its boxes", 4, boxes.shape[2])
    checks.same_dimension(op, "the images of its scores", boxes.shape[0], scores.shape[0])
    checks.same_dimension(op, "the boxes of its scores", boxes.shape[1], scores.shape[2])
    checks.integers(op, "most", (attributes["most"],), 1, 0)
    checks.flag(op, "centered", attributes["centered"])
    for name, low, high in (("overlap", 0.0, 1.0), ("least_score", -np.inf, np.inf)):
        checks.number(op, name, attributes[name])
        if not low <= attributes[name] <= high:
            raise errors.wrong_attribute(op, name, f"in {low:g}..{high:g}", attributes[name])
    checks.dimensions(op, "count", (attributes["count"],), 1)
    return [TensorType(DType.INT64, (attributes["count"], 3))]


def _suppressed(attributes: Attributes, boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Greedy, best score first: a box goes if it overlaps one that stays by more than ``overlap``, within its class."""
    kept = []
    for image in range(len(boxes)):
        corners = _corners(widen(boxes[image]), attributes["centered"])
        for group in range(scores.shape[1]):
            kept += [(image, group, box) for box in _kept(attributes, corners, widen(scores[image, group]))]
    return np.array(kept, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, centered: bool) -> np.ndarray:
    """[B, 4] as two lowest and two highest coordinates."""
    if centered:
        middle, half = boxes[:, :2], boxes[:, 2:] / 2
        return np.concatenate([middle - half, middle + half], axis=1)
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def _kept(attributes: Attributes, corners: np.ndarray, scores: np.ndarray) -> list[int]:
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] > attributes["least_score"]]
    kept: list[int] = []
    while order.size and len(kept) < attributes["most"]:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[_overlap(corners[best], corners[rest]) <= attributes["overlap"]]
    return kept


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others; 0 where one of them is empty."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.prod(np.maximum(sides, 0), axis=1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (box, others)]
    union = areas[0] + areas[1] - common
    ok = (common > 0) & (areas[0] > 0) & (areas[1] > 0) & (union > 0)
    return np.where(ok, common / np.where(ok, union, 1), 0.0)


define(Operator("NonZero", Kind.OPAQUE, _infer_non_zero, _non_zero, {"count": REQUIRED}))
define(
    Operator(
        "NonMaxSuppression",
        Kind.OPAQUE,
        _infer_suppression,
        _suppressed,
        {"count": REQUIRED, "most": REQUIRED, "overlap": 0.0, "least_score": -np.inf, "centered": False},
    )
)
