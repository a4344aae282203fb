"""Sums of products over named axes, and determinants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import errors
from ..dims import DimLike, product
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import Shape, TensorType
from . import checks
from .arrays import narrow, widen

BROADCAST = "..."


def terms(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The labels of every operand and of the result, an ellipsis as labels ``…0``, ``…1``, … from the right.

    Raises:
        ShapeError: an equation that does not fit the operands' ranks.
    """
    if not isinstance(equation, str):
        raise errors.wrong_attribute("Einsum", "equation", "text", equation)
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise errors.wrong_attribute("Einsum", "equation", f"with {len(ranks)} operands", equation)
    operands = [_labels(part, rank, equation) for part, rank in zip(parts, ranks, strict=True)]
    dots = max((sum(label[0] == "…" for label in labels) for labels in operands), default=0)
    shared = [f"…{number}" for number in range(dots - 1, -1, -1)]
    if arrow:
        before, dotted, behind = right.partition(BROADCAST)
        if dots and not dotted:
            raise errors.wrong_attribute("Einsum", "equation", "with the operands' ellipsis in the result", equation)
        result = [*before, *(shared if dotted else []), *behind]
    else:
        every = [label for labels in operands for label in labels if label[0] != "…"]
        result = [*shared, *sorted(label for label in set(every) if every.count(label) == 1)]
    known = {label for labels in operands for label in labels}
    if len(set(result)) != len(result) or not set(result) <= known:
        raise errors.wrong_attribute(
            "Einsum", "equation", "whose result has labels of the operands, each once", equation
        )
    return operands, result


def _labels(part: str, rank: int, equation: str) -> list[str]:
    before, dotted, behind = part.partition(BROADCAST)
    free = rank - len(before) - len(behind)
    if free < 0 or (free and not dotted) or (not (before + behind).isalpha() and before + behind):
        raise errors.wrong_attribute("Einsum", "equation", f"with {rank} axes for an operand of rank {rank}", equation)
    return [*before, *(f"…{number}" for number in range(free - 1, -1, -1)), *behind]


def _sizes(attributes: Attributes, inputs: Sequence[TensorType]) -> tuple[dict[str, DimLike], list[str]]:
    operands, result = terms(attributes["equation"], [type.rank for type in inputs])
    sizes: dict[str, DimLike] = {}
    for labels, type in zip(operands, inputs, strict=True):
        for label, dim in zip(labels, type.shape, strict=True):
            have = sizes.setdefault(label, dim)
            if have == 1:
                sizes[label] = dim
            elif dim != 1:
                checks.same_dimension("Einsum", f"axis {label}", have, dim)
                sizes[label] = checks.known(have, dim)
    return sizes, result


def _infer_einsum(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Σ of the product of all operands over the axes that the result does not name (Einstein's convention)."""
    if not inputs:
        raise errors.wrong_input_count("Einsum", "1 or more", 0)
    dtype = checks.one_dtype("Einsum", inputs)
    if not dtype.is_number:
        raise errors.wrong_dtype("Einsum", "inputs", "a number", dtype)
    sizes, result = _sizes(attributes, inputs)
    shape: Shape = tuple(sizes[label] for label in result)
    return [TensorType(dtype, shape)]


def _einsum_macs(attributes: Attributes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> DimLike:
    return product(list(_sizes(attributes, inputs)[0].values()))


def _einsum(attributes: Attributes, *arrays: np.ndarray) -> np.ndarray:
    wide = [widen(array) for array in arrays]
    with np.errstate(all="ignore"):
        return narrow(np.einsum(attributes["equation"].replace(" ", ""), *wide, dtype=wide[0].dtype), arrays[0].dtype)


def _infer_det(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """Square matrices [..., M, M] → their determinants [...]."""
    checks.arity("Det", inputs, 1)
    x = inputs[0]
    checks.floating("Det", "an input", x.dtype)
    if x.rank < 2:
        raise errors.wrong_rank("Det", "an input", "2 or more", x)
    checks.same_dimension("Det", "the last dimension", x.shape[-2], x.shape[-1])
    return [TensorType(x.dtype, x.shape[:-2])]


define(Operator("Einsum", Kind.OPAQUE, _infer_einsum, _einsum, {"equation": REQUIRED}, _einsum_macs))
define(
    Operator(
        "Det",
        Kind.OPAQUE,
        _infer_det,
        lambda attributes, x: narrow(np.asarray(np.linalg.det(widen(x))), x.dtype),
    )
)
