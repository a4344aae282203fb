"""An array against a reference: how far it is, and whether that is within a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class OutputCheck:
    """One output against the reference.

    max_abs: largest absolute error. rel_l2: Euclidean norm of the error over that of the reference. bound: what a
    correct implementation stays within (`convc.analysis.bounds`). smallest_tolerance: the least t with
    |error| ≤ t + t·|reference| everywhere. ok: within the bound, and NaN and infinities where the reference has them.
    """

    name: str
    max_abs: float
    rel_l2: float
    bound: float
    smallest_tolerance: float
    ok: bool


def compare(name: str, found: np.ndarray, expected: np.ndarray, bound: float) -> OutputCheck:
    """One output's figures. Raises nothing: another shape or dtype is just not ok."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return OutputCheck(name, np.inf, np.inf, bound, np.inf, False)
    wide, reference = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(reference)
    same_specials = np.array_equal(wide[~finite], reference[~finite], equal_nan=True)
    error = np.abs(wide[finite] - reference[finite])
    if not np.isfinite(error).all():
        return OutputCheck(name, np.inf, np.inf, bound, np.inf, False)
    norm = float(np.linalg.norm(reference[finite]))
    largest = float(error.max(initial=0.0))
    tolerance = float((error / (1.0 + np.abs(reference[finite]))).max(initial=0.0))
    relative = float(np.linalg.norm(error)) / norm if norm else largest
    return OutputCheck(name, largest, relative, bound, tolerance, same_specials and largest <= bound)
