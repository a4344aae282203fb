"""Resampling to other sizes, axis by axis: nearest element, linear and cubic interpolation.

Where an output index lies in the input is the coordinate transformation; which elements around that place count, and
how much, is the mode. Both are tables of one line each. Formulas: ONNX's operator Resize; the cubic kernel is that of
R. G. Keys, "Cubic convolution interpolation for digital image processing" (1981).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import errors
from ..dims import Dim
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import TensorType
from . import checks
from .arrays import narrow, widen

OP = "Resize"
MODES = ("nearest", "linear", "cubic")


@dataclass(frozen=True)
class _Axis:
    """One axis: ``size`` elements become ``count``; ``scale`` is what the model says, ``crop`` the part shown."""

    size: int
    count: int
    scale: float
    crop: tuple[float, float]

    @property
    def length(self) -> float:
        """The output's length before it was rounded to whole elements."""
        return self.scale * self.size


def _aligned(i: np.ndarray, axis: _Axis) -> np.ndarray:
    return i * 0.0 if axis.length == 1 else i * (axis.size - 1) / (axis.length - 1)


def _half_pixel(i: np.ndarray, axis: _Axis) -> np.ndarray:
    return (i + 0.5) / axis.scale - 0.5


def _symmetric(i: np.ndarray, axis: _Axis) -> np.ndarray:
    """The middle stays the middle where the length had to be rounded."""
    scale, size = np.float32(axis.scale), np.float32(axis.size)
    return size / 2 * (1 - np.float32(axis.count) / (scale * size)) + (i + 0.5) / scale - 0.5


def _pytorch(i: np.ndarray, axis: _Axis) -> np.ndarray:
    return i * 0 if axis.count == 1 else _half_pixel(i, axis)


def _cropped(i: np.ndarray, axis: _Axis) -> np.ndarray:
    start, end = axis.crop
    if axis.length == 1:
        return i * 0.0 + (start + end) * (axis.size - 1) / 2
    return (start + i * (end - start) / (axis.length - 1)) * (axis.size - 1)


TRANSFORMATIONS: dict[str, Callable[[np.ndarray, _Axis], np.ndarray]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": _pytorch,
    "align_corners": _aligned,
    "asymmetric": lambda i, axis: i / axis.scale,
    "tf_crop_and_resize": _cropped,
}
"""(output indices, axis) → places in the input."""

ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _linear(distance: np.ndarray) -> np.ndarray:
    return np.maximum(1 - distance, 0)


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel of a distance >= 0."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """``sizes`` is the whole shape of the result; ``scales`` has one number an axis, ``crop`` begins, then ends."""
    checks.arity(OP, inputs, 1)
    x = inputs[0]
    if not x.dtype.is_number:
        raise errors.wrong_dtype(OP, "an input", "a number", x.dtype)
    checks.dimensions(OP, "sizes", attributes["sizes"], x.rank)
    checks.choice(OP, "mode", attributes["mode"], MODES)
    checks.choice(OP, "transformation", attributes["transformation"], tuple(TRANSFORMATIONS))
    checks.choice(OP, "rounding", attributes["rounding"], tuple(ROUNDINGS))
    for name, length in (("scales", x.rank), ("crop", 2 * x.rank)):
        values = attributes[name]
        numbers = isinstance(values, tuple) and all(isinstance(value, (int, float)) for value in values)
        if not numbers or len(values) not in (0, length):
            raise errors.wrong_attribute(OP, name, f"{length} numbers or none", values)
    if not all(abs(edge) < np.inf for edge in attributes["crop"]):
        raise errors.wrong_attribute(OP, "crop", "finite numbers", attributes["crop"])
    if not all(0 < scale < np.inf for scale in attributes["scales"]):
        raise errors.wrong_attribute(OP, "scales", "numbers above 0", attributes["scales"])
    for name in ("cubic_coeff_a", "extrapolation_value"):
        checks.number(OP, name, attributes[name])
    for name in ("antialias", "exclude_outside"):
        checks.flag(OP, name, attributes[name])
    for axis, (have, wanted) in enumerate(zip(x.shape, attributes["sizes"], strict=True)):
        if have == 0 and wanted != 0 and not isinstance(wanted, Dim):
            raise errors.wrong_dimension(OP, f"dimension {axis}", ">= 1", have)
        if have != 0 and wanted == 0 and not attributes["scales"]:
            raise errors.wrong_dimension(OP, f"dimension {axis} of sizes", ">= 1", wanted)
    return [TensorType(x.dtype, attributes["sizes"])]


def _reference(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    result = widen(x)
    if attributes["mode"] != "nearest" and result.dtype.kind != "f":
        result = result.astype(np.float64)
    for axis in range(x.ndim):
        result = _resampled(attributes, result, axis, _axis_of(attributes, x.shape, axis))
    if x.dtype.kind in "iu":
        bounds = np.iinfo(x.dtype)
        result = np.clip(np.trunc(result), bounds.min, bounds.max)
    return narrow(result, x.dtype)


def _axis_of(attributes: Attributes, shape: Sequence[int], axis: int) -> _Axis:
    size, count, rank = shape[axis], attributes["sizes"][axis], len(shape)
    scale = attributes["scales"][axis] if attributes["scales"] else count / size if size else 1.0
    crop = (attributes["crop"][axis], attributes["crop"][rank + axis]) if attributes["crop"] else (0.0, 1.0)
    return _Axis(size, count, scale, crop)


def _resampled(attributes: Attributes, x: np.ndarray, number: int, axis: _Axis) -> np.ndarray:
    if axis.count == axis.size and axis.scale == 1 and axis.crop == (0.0, 1.0):
        return x
    if axis.count == 0:
        return np.take(x, np.zeros(0, np.int64), axis=number)
    # in fp32, as ONNX Runtime has it: at ties between two elements the last bit decides
    places = TRANSFORMATIONS[attributes["transformation"]](np.arange(axis.count, dtype=np.float32), axis)
    shape = [1] * x.ndim
    shape[number] = axis.count
    result: Any = 0.0
    with np.errstate(all="ignore"):
        for index, weight in _taps(attributes, places, axis):
            tap = np.take(x, np.clip(index, 0, axis.size - 1), axis=number)
            result = tap if weight is None else result + tap * weight.astype(x.dtype).reshape(shape)
    if attributes["transformation"] == "tf_crop_and_resize":
        outside = ((places < 0) | (places > axis.size - 1)).reshape(shape)
        result = np.where(outside, np.asarray(attributes["extrapolation_value"]).astype(x.dtype), result)
    return np.asarray(result)


Tap = tuple[np.ndarray, "np.ndarray | None"]
"""Input indices, one for each output, and their weights (None: all of it)."""


def _taps(attributes: Attributes, places: np.ndarray, axis: _Axis) -> list[Tap]:
    if attributes["mode"] == "nearest":
        return [(ROUNDINGS[attributes["rounding"]](places).astype(np.int64), None)]
    a = attributes["cubic_coeff_a"]
    kernel = _linear if attributes["mode"] == "linear" else lambda distance: cubic(distance, a)
    stretch = min(axis.scale, 1.0) if attributes["antialias"] else 1.0
    reach = int(np.ceil((1 if attributes["mode"] == "linear" else 2) / stretch))
    base = np.floor(places).astype(np.int64)
    indices = base[:, None] + np.arange(1 - reach, reach + 1)
    weights = kernel(np.abs(places[:, None] - indices) * stretch)
    if attributes["exclude_outside"]:
        weights = np.where((indices < 0) | (indices >= axis.size), 0.0, weights)
    if attributes["exclude_outside"] or attributes["antialias"]:
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / np.where(total == 0, 1.0, total)
    return [(indices[:, tap], weights[:, tap]) for tap in range(indices.shape[1])]


define(
    Operator(
        OP,
        Kind.OPAQUE,
        _infer,
        _reference,
        {
            "sizes": REQUIRED,
            "scales": (),
            "mode": "nearest",
            "transformation": "half_pixel",
            "rounding": "round_prefer_floor",
            "cubic_coeff_a": -0.75,
            "antialias": False,
            "exclude_outside": False,
            "extrapolation_value": 0.0,
            "crop": (),
        },
    )
)
