"""Element types by the names that the manifest uses, as NumPy dtypes."""

from __future__ import annotations

import numpy as np

_NAMES = {
    "fp64": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of an element type of the manifest (``fp16``, ``bf16``, ``int64`` …). Raises ``KeyError``."""
    if name == "bf16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(_NAMES[name])


ITEMSIZE = {"bf16": 2} | {name: np.dtype(dtype).itemsize for name, dtype in _NAMES.items()}
