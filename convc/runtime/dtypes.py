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


_EXTENDED = {
    "bf16": "bfloat16",
    **{f"fp8{form}": f"float8_{form}" for form in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")},
    "fp4e2m1": "float4_e2m1fn",
    **{name: name for name in ("int4", "uint4", "int2", "uint2")},
}
"""Names that NumPy has from `ml_dtypes`."""


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype of an element type of the manifest (``fp16``, ``bf16``, ``int64`` …). Raises ``KeyError``."""
    if name in _EXTENDED:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _EXTENDED[name]))
    return np.dtype(_NAMES[name])


ITEMSIZE = {name: 2 if name == "bf16" else 1 for name in _EXTENDED} | {
    name: np.dtype(dtype).itemsize for name, dtype in _NAMES.items()
}
