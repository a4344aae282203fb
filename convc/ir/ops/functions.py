"""NumPy functions of the elementwise table that are more than one expression. Floats come as fp32 or fp64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Rational approximations of erf and erfc by intervals: W. J. Cody, "Rational Chebyshev approximations for the error
# function", Mathematics of Computation 23 (1969), 631-637; as in his routine CALERF, highest power first.
_NEAR = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (
        1.0,
        2.36012909523441209e1,
        2.44024637934444173e2,
        1.28261652607737228e3,
        2.84423683343917062e3,
    ),
)
_MIDDLE = (
    (
        2.15311535474403846e-8,
        5.64188496988670089e-1,
        8.88314979438837594e0,
        6.61191906371416295e1,
        2.98635138197400131e2,
        8.81952221241769090e2,
        1.71204761263407058e3,
        2.05107837782607147e3,
        1.23033935479799725e3,
    ),
    (
        1.0,
        1.57449261107098347e1,
        1.17693950891312499e2,
        5.37181101862009858e2,
        1.62138957456669019e3,
        3.29079923573345963e3,
        4.36261909014324716e3,
        3.43936767414372164e3,
        1.23033935480374942e3,
    ),
)
_FAR = (
    (
        1.63153871373020978e-2,
        3.05326634961232344e-1,
        3.60344899949804439e-1,
        1.25781726111229246e-1,
        1.60837851487422766e-2,
        6.58749161529837803e-4,
    ),
    (
        1.0,
        2.56852019228982242e0,
        1.87295284992346725e0,
        5.27905102951428412e-1,
        6.05183413124413191e-2,
        2.33520497626869185e-3,
    ),
)
_NEAR_LIMIT, _FAR_LIMIT, _SATURATED = 0.46875, 4.0, 6.0


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, computed in fp64 to a few units in the last place."""
    wide = np.asarray(x, np.float64).reshape(-1)
    size = np.abs(wide)
    result = np.copysign(1.0, wide)
    near = size <= _NEAR_LIMIT
    result[near] = wide[near] * _ratio(_NEAR, wide[near] ** 2)
    middle = (size > _NEAR_LIMIT) & (size <= _FAR_LIMIT)
    result[middle] *= 1 - np.exp(-(size[middle] ** 2)) * _ratio(_MIDDLE, size[middle])
    far = (size > _FAR_LIMIT) & (size < _SATURATED)
    result[far] *= 1 - _erfc_far(size[far])
    result[np.isnan(wide)] = np.nan
    return result.reshape(x.shape).astype(x.dtype, copy=False)


def _ratio(coefficients: tuple[Sequence[float], Sequence[float]], x: np.ndarray) -> np.ndarray:
    return np.polyval(coefficients[0], x) / np.polyval(coefficients[1], x)


def _erfc_far(size: np.ndarray) -> np.ndarray:
    inverse = 1 / size**2
    return np.exp(-(size**2)) / size * (1 / np.sqrt(np.pi) - inverse * _ratio(_FAR, inverse))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(x))


def selu(x: np.ndarray, alpha: float, gamma: float) -> np.ndarray:
    return gamma * elu(x, alpha)


def celu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(x / alpha))


def hard_sigmoid(x: np.ndarray, alpha: float = 1 / 6, beta: float = 0.5) -> np.ndarray:
    return np.clip(alpha * x + beta, 0, 1)


def gelu(x: np.ndarray, approximate: str) -> np.ndarray:
    """x·Φ(x), or its approximation by tanh (Hendrycks and Gimpel 2016)."""
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi).astype(x.dtype) * (x + 0.044715 * x * x * x)))
    return 0.5 * x * (1 + erf(x * np.sqrt(0.5).astype(x.dtype)))


def clip(x: np.ndarray, min: float, max: float) -> np.ndarray:
    """``max`` wins where the bounds cross; NaN stays."""
    if x.dtype.kind in "iu":
        low, high = integer_bounds(min, max, x.dtype)
        return np.minimum(np.maximum(x, low), high)
    return np.minimum(np.maximum(x, min), max)


def integer_bounds(min: float, max: float, dtype: np.dtype) -> tuple[int, int]:
    """The least and the largest integer of a type between two bounds."""
    limits = np.iinfo(dtype)
    return _within(np.ceil(min), limits), _within(np.floor(max), limits)


def _within(bound: float, limits: np.iinfo) -> int:
    """A bound as an integer of the type, exactly: the largest 64-bit integers are no floats."""
    if bound <= limits.min or bound >= limits.max:
        return limits.min if bound <= limits.min else limits.max
    return int(bound)


def divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IEEE division of floats; integers truncate towards zero."""
    if a.dtype.kind == "f":
        return a / b
    quotient = np.floor_divide(a, b)
    inexact = (np.remainder(a, b) != 0) & ((a < 0) != (b < 0))
    return quotient + inexact.astype(quotient.dtype)


def power(base: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """An integer base with a fractional or negative exponent goes through fp64; floats as IEEE 754's pow."""
    if base.dtype.kind in "iu" and (exponent.dtype.kind == "f" or (exponent < 0).any()):
        return np.power(base.astype(np.float64), exponent)
    if base.dtype.kind == "f" and exponent.size == 1 and exponent.flat[0] == 0.5:
        # NumPy takes the square root here, which differs from pow at -inf and -0
        return np.where((base < 0) & (base > -np.inf), np.nan, np.sqrt(np.abs(base))).astype(base.dtype)
    return np.power(base, exponent)


def prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x * slope, x)


def modulo(a: np.ndarray, b: np.ndarray, fmod: bool) -> np.ndarray:
    """The rest of a division, with the sign of the divisor, or of the dividend (``fmod``, as C has it)."""
    return np.fmod(a, b) if fmod else np.mod(a, b)


def shift(x: np.ndarray, by: np.ndarray, direction: str) -> np.ndarray:
    return np.left_shift(x, by) if direction == "LEFT" else np.right_shift(x, by)


def infinite(x: np.ndarray, negative: bool, positive: bool) -> np.ndarray:
    """Where ``x`` is an infinity of these signs."""
    return np.isinf(x) & ((positive & (x > 0)) | (negative & (x < 0)))
