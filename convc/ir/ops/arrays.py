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


def lowest(dtype: np.dtype) -> float | int:
    """The neutral element of the maximum."""
    return False if dtype.kind == "b" else int(np.iinfo(dtype).min) if dtype.kind in "iu" else -np.inf


def highest(dtype: np.dtype) -> float | int:
    """The neutral element of the minimum."""
    return True if dtype.kind == "b" else int(np.iinfo(dtype).max) if dtype.kind in "iu" else np.inf
