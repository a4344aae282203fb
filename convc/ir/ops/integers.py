"""Convolution and matrix product of integers: sums are exact, and wrap around where they leave int32.

Operands are bytes, or differences of two bytes (a value less its zero point) in 16 bits: no larger than `LARGEST`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import DType, Shape, TensorType
from . import checks
from .contraction import product_macs, product_shape
from .convolution import convolved, macs_of, output_shape

LARGEST = 255
"""Largest size of an operand."""
OPERANDS = (DType.INT8, DType.UINT8, DType.INT16)
NAMES = ("ConvInteger", "MatMulInteger")


def _result(op: str, inputs: Sequence[TensorType], shape: Shape) -> list[TensorType]:
    for type in inputs[:2]:
        if type.dtype not in OPERANDS:
            raise errors.wrong_dtype(op, "inputs", "int8, uint8 or int16", type.dtype)
    return [TensorType(DType.INT32, shape)]


def _infer_conv(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """As Conv, of integers: an optional bias of int32 has one element per filter."""
    checks.arity("ConvInteger", inputs, 2, 3)
    return _result("ConvInteger", inputs, output_shape("ConvInteger", attributes, inputs, whole=True))


def _infer_matmul(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """As MatMul, of integers."""
    checks.arity("MatMulInteger", inputs, 2)
    return _result("MatMulInteger", inputs, product_shape("MatMulInteger", *inputs))


def _wrapped(sums: np.ndarray) -> np.ndarray:
    """fp64 holds the sums of up to 10^11 products exactly."""
    return sums.astype(np.int64).astype(np.int32)


def _conv(attributes: Attributes, x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    return _wrapped(convolved(attributes, x.astype(np.float64), w.astype(np.float64), b))


def _matmul(attributes: Attributes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _wrapped(np.matmul(a.astype(np.float64), b.astype(np.float64)))


_WINDOW = {"strides": REQUIRED, "pads": REQUIRED, "dilations": REQUIRED, "groups": 1}
define(Operator("ConvInteger", Kind.CONTRACTION, _infer_conv, _conv, _WINDOW, macs_of))
define(Operator("MatMulInteger", Kind.CONTRACTION, _infer_matmul, _matmul, macs=product_macs))
