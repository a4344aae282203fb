"""Batch normalisation (inference), local response normalisation and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, InferTypes, Kind, Operator, define
from ..types import TensorType
from . import checks
from .arrays import narrow, widen


def _infer_batch_normalization(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """x[N, C, ...], scale[C], bias[C], mean[C], variance[C] → x's type; the four may be wider than x."""
    op = "BatchNormalization"
    checks.arity(op, inputs, 5)
    checks.number(op, "epsilon", attributes["epsilon"])
    x = inputs[0]
    if x.rank < 2:
        raise errors.wrong_rank(op, "an input (N, C, ...)", "2 or more", x)
    for what, type in zip(("input", "scale", "bias", "mean", "variance"), inputs, strict=True):
        checks.floating(op, f"a {what}", type.dtype)
    for what, type in zip(("scale", "bias", "mean", "variance"), inputs[1:], strict=True):
        if type.rank != 1:
            raise errors.wrong_rank(op, f"a {what}", "1", type)
        checks.same_dimension(op, f"the length of its {what} (one per channel)", x.shape[1], type.shape[0])
    return [x]


def _batch_normalization(attributes: Attributes, x: np.ndarray, *parameters: np.ndarray) -> np.ndarray:
    """(x - mean) · scale / sqrt(variance + epsilon) + bias, the factor in fp64 (Ioffe and Szegedy 2015)."""
    wide = widen(x)
    scale, bias, mean, variance = (array.astype(np.float64) for array in parameters)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + attributes["epsilon"])
        factor, bias, mean = (
            array.astype(wide.dtype).reshape(-1, *(1,) * (x.ndim - 2)) for array in (factor, bias, mean)
        )
        return narrow((wide - mean) * factor + bias, x.dtype)


def _infer_lrn(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """x[N, C, ...] → x's type."""
    checks.arity("LRN", inputs, 1)
    checks.floating("LRN", "an input", inputs[0].dtype)
    if inputs[0].rank < 2:
        raise errors.wrong_rank("LRN", "an input (N, C, ...)", "2 or more", inputs[0])
    checks.count("LRN", "size", attributes["size"], 1)
    for name, above in (("alpha", 0.0), ("beta", 0.0), ("bias", None)):
        checks.finite("LRN", name, attributes[name], above)
    return [inputs[0]]


def _lrn(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """x / (bias + alpha/size · Σ x²)^beta, the sum over ``size`` neighbouring channels (Krizhevsky et al. 2012)."""
    wide, size = widen(x), attributes["size"]
    channels = x.shape[1]
    before, behind = min((size - 1) // 2, channels), min(size // 2, channels)
    with np.errstate(all="ignore"):
        squares = np.zeros((len(x), before + channels + behind, *x.shape[2:]), wide.dtype)
        np.square(wide, out=squares[:, before : before + channels])
        total = np.zeros_like(wide)
        for shift in range(before + behind + 1):
            total += squares[:, shift : shift + channels]
        return narrow(wide / (attributes["bias"] + attributes["alpha"] / size * total) ** attributes["beta"], x.dtype)


def _infer_softmax(op: str) -> InferTypes:
    def infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
        checks.arity(op, inputs, 1)
        checks.floating(op, "an input", inputs[0].dtype)
        checks.axis(op, "axis", attributes["axis"], inputs[0].rank)
        return [inputs[0]]

    return infer


def _shifted(x: np.ndarray, axis: int) -> np.ndarray:
    return x - x.max(axis=axis, keepdims=True, initial=-np.inf)


def _softmax(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    axis = attributes["axis"]
    with np.errstate(all="ignore"):
        powers = np.exp(_shifted(widen(x), axis))
        return narrow(powers / powers.sum(axis=axis, keepdims=True), x.dtype)


def _log_softmax(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    axis = attributes["axis"]
    with np.errstate(all="ignore"):
        shifted = _shifted(widen(x), axis)
        return narrow(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)), x.dtype)


define(
    Operator(
        "BatchNormalization",
        Kind.ELEMENTWISE,
        _infer_batch_normalization,
        _batch_normalization,
        {"epsilon": 1e-5},
        triton="({0} - {3}) * ({1} / tl.sqrt({4} + {epsilon})) + {2}",
    )
)
define(Operator("LRN", Kind.REDUCTION, _infer_lrn, _lrn, {"size": REQUIRED, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}))
define(Operator("Softmax", Kind.REDUCTION, _infer_softmax("Softmax"), _softmax, {"axis": REQUIRED}))
define(Operator("LogSoftmax", Kind.REDUCTION, _infer_softmax("LogSoftmax"), _log_softmax, {"axis": REQUIRED}))
