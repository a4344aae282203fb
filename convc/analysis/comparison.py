"""An array against a reference: how far it is, and whether that is within a bound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OutputCheck:
    """One output against the reference.

    max_abs: largest absolute error. rel_l2: that of `relative_error`. bound: what a
    correct implementation stays within (`convc.analysis.bounds`). smallest_tolerance: the least t with
    |error| ≤ t + t·|reference| everywhere. ok: within the bound, and NaN and infinities where the reference has them.
    reason: why it is not ok where no figure says so.
    """

    name: str
    max_abs: float
    rel_l2: float
    bound: float
    smallest_tolerance: float
    ok: bool
    reason: str = ""


def relative_error(reference: np.ndarray, found: np.ndarray) -> float:
    """‖found − reference‖/‖reference‖, in float64; infinite where something is NaN or infinite in one of them alone."""
    wide, exact = found.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(exact)
    if not np.array_equal(wide[~finite], exact[~finite], equal_nan=True) or not np.isfinite(wide[finite]).all():
        return math.inf
    norm = float(np.linalg.norm(exact[finite]))
    distance = float(np.linalg.norm(wide[finite] - exact[finite]))
    return distance / norm if norm else distance


NO_BOUND = "rounding errors decide how large it is, so that nothing bounds what is in it"


def compare(name: str, found: np.ndarray, expected: np.ndarray, bound: float) -> OutputCheck:
    """One output's figures. Raises nothing: another shape or dtype is just not ok, and so is one without a bound (NaN)
    unless it is what is expected, to the bit."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        what = f"found {found.dtype}{list(found.shape)}, expected {expected.dtype}{list(expected.shape)}"
        return OutputCheck(name, np.inf, np.inf, bound, np.inf, False, what)
    wide, reference = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(reference)
    same_specials = np.array_equal(wide[~finite], reference[~finite], equal_nan=True)
    error = np.abs(wide[finite] - reference[finite])
    if not np.isfinite(error).all():
        return OutputCheck(name, np.inf, np.inf, bound, np.inf, False)
    largest = float(error.max(initial=0.0))
    tolerance = float((error / (1.0 + np.abs(reference[finite]))).max(initial=0.0))
    without = math.isnan(bound) and largest > 0
    ok = same_specials and (largest == 0 or largest <= bound)
    reason = NO_BOUND if without else ""
    return OutputCheck(name, largest, relative_error(expected, found), bound, tolerance, ok, reason)
