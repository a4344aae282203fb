"""What the NumPy references share: the precision they compute in."""

from __future__ import annotations

import numpy as np

from ..types import DType

HALVES = (DType.FP16.numpy, DType.BF16.numpy)


def widen(array: np.ndarray) -> np.ndarray:
    """fp16 and bf16 as fp32; every other array as it is."""
    return array.astype(np.float32) if array.dtype in HALVES else array


def narrow(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``array`` rounded to ``dtype``; overflow gives infinities silently, as hardware does."""
    with np.errstate(all="ignore"):
        return np.asarray(array).astype(dtype, copy=False)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a @ b`` of arrays of one dtype. Sums of fp32 are kept in fp64 and rounded once: libraries add in orders that
    depend on the machine, its threads and the column, and equal columns would differ."""
    if a.dtype != np.float32:
        return np.matmul(a, b)
    return narrow(np.matmul(a.astype(np.float64), b.astype(np.float64)), a.dtype)


def lowest(dtype: np.dtype) -> float | int:
    """The neutral element of the maximum."""
    return False if dtype.kind == "b" else int(np.iinfo(dtype).min) if dtype.kind in "iu" else -np.inf


def highest(dtype: np.dtype) -> float | int:
    """The neutral element of the minimum."""
    return True if dtype.kind == "b" else int(np.iinfo(dtype).max) if dtype.kind in "iu" else np.inf
