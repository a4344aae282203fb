"""Graph inputs, constants and graph outputs; `Graph` makes these nodes itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..operator import REQUIRED, Attributes, Kind, Operator, define
from ..types import TensorType
from . import checks


def _infer_source(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    raise TypeError("the type of a graph input or a constant is given, not inferred")


def _no_reference(attributes: Attributes, *arrays: np.ndarray) -> Any:
    raise TypeError("graph inputs and constants hold data; there is nothing to compute")


def _infer_output(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    checks.arity("Output", inputs, 1)
    return [inputs[0]]


define(Operator("Input", Kind.STRUCTURAL, _infer_source, _no_reference, {"name": REQUIRED}))
define(Operator("Constant", Kind.STRUCTURAL, _infer_source, _no_reference))
define(Operator("Output", Kind.STRUCTURAL, _infer_output, lambda attributes, x: x, {"name": REQUIRED}))
