"""One kernel in float64, with how far a correct kernel may be from that: running error analysis.

Every value is carried with a bound on the error of what a kernel holds for it (J. H. Wilkinson; N. J. Higham, *Accuracy
and Stability of Numerical Algorithms*, §3.3), from the unit roundoffs u₃₂ of the arithmetic and u of the storage:

- what the kernel reads from memory has no error: it is read as it is stored;
- a sum of K addends is off by λ·√K·u₃₂·Σ|addend| (N. J. Higham and T. Mary, *A New Approach to Probabilistic Rounding
  Error Analysis*, SIAM J. Sci. Comput. 41, 2019): each sum breaks this with a probability of 2·exp(−λ²/2);
- operands that are rounded on their way into a tensor core (from fp32, or to TF32) add λ·u·√Σ(x·w)²
  (W. Hoeffding, 1963; the same probability);
- an elementwise function passes on how far its value moves when its operands move by their errors, and adds its own
  units in the last place;
- a conversion to an integer may end on the next one where its operand is that close to it;
- the store rounds once: u·|y|.

The bound of a kernel is the largest over its elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import DType, Graph, Kind, Node
from .bounds import UNITS, reduction_length

LAMBDA = 8.0
"""Standard deviations: 2·exp(−λ²/2) = 2.5e-14 for each sum, one in forty million kernels of a million sums."""
U32 = DType.FP32.epsilon
LARGEST_WHOLE = 2.0**24
"""Whole numbers up to this one are all in fp32: sums and bounds of them are exact."""
_KEEP_WHOLE = frozenset(("Add", "Sub", "Neg", "Abs", "Max", "Min", "Relu", "Clip", "Copy"))
FUNCTION_UNITS = 16.0
"""Unit roundoffs of an elementwise function: up to four functions of the GPU in its text, each within two units in the
last place (CUDA C++ Programming Guide, mathematical functions), each of which is two unit roundoffs."""
PLACE_ROUNDINGS = 9
"""Rounded operations from a coordinate to the element of an image: three to the place, six where it is mirrored."""
CUBIC_WEIGHTS = 1.375
"""The largest sum of the absolute weights of cubic interpolation with a = −0.75, half-way between two elements."""

_ARITHMETIC = ("Add", "Sub", "Mul", "Neg", "Abs", "Max", "Min", "Floor", "Ceil", "Sign", "Where", "Copy")
_ROUNDED_ONCE = frozenset((*_ARITHMETIC, "Relu", "LeakyRelu", "PRelu", "Clip", "Round"))
"""Functions that are at most two correctly rounded operations: they do not amplify the rounding of their operands."""


@dataclass(frozen=True)
class Known:
    """A value in float64 (or its own type, where that is no float) and a bound on the error of what a kernel holds.

    rounds: unit roundoff with which it enters a tensor core; 0 where it is exact there.
    """

    value: np.ndarray
    error: np.ndarray | float = 0.0
    rounds: float = 0.0

    @property
    def exact(self) -> bool:
        return isinstance(self.error, float) and self.error == 0.0

    @property
    def errors(self) -> np.ndarray:
        return np.broadcast_to(np.asarray(self.error, np.float64), self.value.shape)


def widened(array: np.ndarray, dtype: DType) -> np.ndarray:
    """Floats as float64, everything else as it is."""
    return array.astype(np.float64) if dtype.is_float else array


def evaluate(graph: Graph, node: Node, arrays: Sequence[np.ndarray], **changes: object) -> list[np.ndarray]:
    """A node's definition on wide arrays; float results are wide too. changes: attributes that differ."""
    with np.errstate(all="ignore"):
        results = node.operator.evaluate({**node.attributes, **changes}, list(arrays))
    return [widened(result, type.dtype) for result, type in zip(results, node.outputs, strict=True)]


def carried(graph: Graph, node: Node, operands: Sequence[Known], mode: str) -> list[Known]:
    """The outputs of a node inside a kernel, with their error bounds. mode: the numeric mode."""
    values = evaluate(graph, node, [operand.value for operand in operands])
    unit = UNITS[mode]
    if not node.outputs[0].dtype.is_float:
        inexact = node.op == "Cast" and not operands[0].exact
        return [Known(value, _jumps(operands[0]) if inexact else 0.0) for value in values]
    rule = _BY_KIND.get(node.kind, _elementwise)
    with np.errstate(all="ignore"):
        errors = [rule(graph, node, operands, value, unit) for value in values]
    return [
        Known(value, np.nan_to_num(error, nan=0.0, posinf=np.inf)) for value, error in zip(values, errors, strict=True)
    ]


def _first(graph: Graph, node: Node, arrays: Sequence[np.ndarray], **changes: object) -> np.ndarray:
    return evaluate(graph, node, arrays, **changes)[0]


# -- contractions -----------------------------------------------------------------------------------------------------
def _contraction(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    positive = {name: abs(node.attributes[name]) for name in ("alpha", "beta") if name in node.attributes}
    sizes = [np.abs(operand.value) + operand.errors for operand in operands]
    addends = reduction_length(graph, node) + len(operands)
    error = LAMBDA * np.sqrt(addends) * U32 * _first(graph, node, sizes, **positive)
    x, w, *rest = operands
    units = np.hypot(x.rounds, w.rounds)
    if units:
        squares = _first(graph, node, [np.square(x.value), np.square(w.value)], **positive)
        error += LAMBDA * units * np.sqrt(squares)
    for position, operand in enumerate((x, w)):
        if not operand.exact:
            moved = [np.abs(x.value), np.abs(w.value)]
            moved[position] = operand.errors
            error = error + _first(graph, node, moved, **positive)
    return error + sum(float(np.max(r.errors, initial=0.0)) * positive.get("beta", 1.0) for r in rest)


# -- windows and reductions -------------------------------------------------------------------------------------------
def _summed(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """Sums and averages: linear in x."""
    (x,) = operands
    units = (LAMBDA * np.sqrt(reduction_length(graph, node)) + 2) * U32
    return units * _first(graph, node, [np.abs(x.value) + x.errors]) + _moved(graph, node, x, unit)


def _norm(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """Sums of magnitudes and squares: every addend is positive, so the error is relative."""
    units = (LAMBDA * np.sqrt(reduction_length(graph, node)) + 4) * U32
    return units * np.abs(value) + _displaced(graph, node, operands, value)


def _log_of_sum(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """log Σx: the logarithm makes the sum's relative error an absolute one, however small its value is."""
    (x,) = operands
    units = (LAMBDA * np.sqrt(reduction_length(graph, node)) + 2) * U32
    magnitude = np.exp(_first(graph, node, [np.abs(x.value) + x.errors]) - value)  # Σ|x| over Σx
    own = FUNCTION_UNITS * U32 * np.maximum(np.abs(value), 1.0)
    return own - np.log1p(-np.minimum(units * magnitude, 1.0)) + _displaced(graph, node, operands, value)


def _selected(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """Maxima, minima, views and copies: no arithmetic; an error moves with its element."""
    if all(operand.exact for operand in operands):
        return np.zeros_like(value)
    if node.kind in (Kind.WINDOW, Kind.REDUCTION):
        return np.full_like(value, max(float(np.max(x.errors, initial=0.0)) for x in operands))
    return _first(graph, node, [x.errors if x.value.dtype.kind == "f" else x.value for x in operands])


def _moved(graph: Graph, node: Node, x: Known, unit: float) -> np.ndarray | float:
    return 0.0 if x.exact else _first(graph, node, [x.errors])


def _lrn(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """x·(k + α/n·Σx²)^−β: the sum's relative error is raised to β."""
    units = (node.attributes["beta"] * (LAMBDA * np.sqrt(node.attributes["size"]) + 3) + FUNCTION_UNITS) * U32
    return units * np.abs(value) + _displaced(graph, node, operands, value)


def _softmax(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """exp(x − m)/Σ: u·|x − m| from the exponent, log K of that from the sum (its entropy), and the sum's own."""
    (x,) = operands
    axis = node.attributes["axis"]
    depth = np.abs(x.value - x.value.max(axis=axis, keepdims=True))
    length = x.value.shape[axis]
    units = depth + np.log(length) + LAMBDA * np.sqrt(length) + FUNCTION_UNITS
    scale = np.abs(value) if node.op == "Softmax" else 1.0
    return U32 * (units * scale + np.abs(value)) + _displaced(graph, node, operands, value)


# -- sampling ---------------------------------------------------------------------------------------------------------
def _sampled(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """GridSample, the one opaque operator with a kernel of its own: weights and the sum over neighbours, with the
    largest of them; and places, which `PLACE_ROUNDINGS` move along each dimension."""
    x, grid = operands
    weights = CUBIC_WEIGHTS ** (x.value.ndim - 2) if node.attributes["mode"] == "cubic" else 1.0
    largest, furthest = (float(np.max(array, initial=0.0)) for array in (np.abs(x.value) + x.errors, x.errors))
    error = np.full_like(value, weights * (FUNCTION_UNITS * U32 * largest + furthest))
    moved = grid.errors + PLACE_ROUNDINGS * U32 * (np.abs(grid.value) + 1)
    for dimension in range(grid.value.shape[-1]):
        along = np.where(np.arange(grid.value.shape[-1]) == dimension, moved, 0.0)
        error += _displaced(graph, node, [Known(x.value), Known(grid.value, along)], value)
    return error


# -- elementwise ------------------------------------------------------------------------------------------------------
def _elementwise(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    once = node.op in _ROUNDED_ONCE
    if node.op == "Cast" and operands[0].value.dtype.kind != "f":
        return operands[0].errors
    if node.op == "Cast":
        return DType(node.attributes["dtype"]).epsilon * np.abs(value) + _displaced(graph, node, operands, value)
    own = 0.0 if once else FUNCTION_UNITS * U32
    scale = np.abs(value) if once else np.maximum(np.abs(value), 1.0)
    rounding = (2.0 if once else FUNCTION_UNITS) * U32 * scale
    if node.op == "Round" or (node.op in _KEEP_WHOLE and all(map(_whole, operands))):
        rounding = np.where(np.abs(value) <= LARGEST_WHOLE, 0.0, rounding)
    return rounding + _displaced(graph, node, operands, value, own)


def _displaced(
    graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, relative: float = 0.0
) -> np.ndarray:
    """How far the value moves when each operand moves by its error, and by ``relative`` of itself."""
    total = np.zeros_like(value)
    arrays = [operand.value for operand in operands]
    for position, operand in enumerate(operands):
        if operand.value.dtype.kind != "f" or (operand.exact and not relative):
            continue
        step = operand.errors + relative * np.abs(operand.value)
        furthest = np.zeros_like(value)
        for sign in (step, -step):
            moved = _first(graph, node, [*arrays[:position], operand.value + sign, *arrays[position + 1 :]])
            difference = np.abs(moved - value)
            furthest = np.fmax(furthest, np.where(np.isfinite(value), difference, 0.0))
        total += furthest
    return total


def _whole(x: Known) -> bool:
    """Whether a value is of whole numbers, whatever its error does."""
    return bool((np.rint(x.value) == x.value).all() and (np.rint(x.errors) == x.errors).all())


def _jumps(x: Known) -> np.ndarray:
    """How many integers further a conversion may end when its operand moves by its error."""
    if x.value.dtype.kind != "f":
        return x.errors
    least, most = np.trunc(x.value - x.errors), np.trunc(x.value + x.errors)
    return np.maximum(most - np.trunc(x.value), np.trunc(x.value) - least)


_Rule = Callable[[Graph, Node, Sequence[Known], np.ndarray, float], np.ndarray]
_OPERATORS: dict[str, _Rule] = {
    "AveragePool": _summed,
    "ReduceMean": _summed,
    "ReduceSum": _summed,
    "ReduceLogSum": _log_of_sum,
    "MaxPool": _selected,
    "ReduceMax": _selected,
    "ReduceMin": _selected,
    "LRN": _lrn,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
}


def _by_operator(graph: Graph, node: Node, operands: Sequence[Known], value: np.ndarray, unit: float) -> np.ndarray:
    """A window or a reduction; inner values may be held as they would be stored."""
    held = [x if x.exact else Known(x.value, x.errors + unit * np.abs(x.value)) for x in operands]
    return _OPERATORS.get(node.op, _norm)(graph, node, held, value, unit)


_BY_KIND: dict[Kind, _Rule] = {
    Kind.CONTRACTION: _contraction,
    Kind.WINDOW: _by_operator,
    Kind.REDUCTION: _by_operator,
    Kind.VIEW: _selected,
    Kind.MOVEMENT: _selected,
    Kind.OPAQUE: _sampled,
}


def stored_bound(known: Known, dtype: DType) -> np.ndarray:
    """What may be in memory for a value: the store's rounding, and half of the smallest number that it can hold (of
    the smallest normal one for the wide exponents, whose subnormals a GPU may flush)."""
    if not dtype.is_float:
        return known.errors
    least = {DType.FP16: 2.0**-25, DType.FP64: 0.0}.get(dtype, 2.0**-126)
    return known.errors + dtype.epsilon * (np.abs(known.value) + known.errors) + least
