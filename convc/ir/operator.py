"""What an operator is: one definition holds its attributes, shapes, reference semantics, cost and fusion kind."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .dims import DimLike
from .types import TensorType

Attributes = Mapping[str, Any]
InferTypes = Callable[[Attributes, Sequence[TensorType]], Sequence[TensorType]]
Reference = Callable[..., Any]


class Kind(enum.Enum):
    """How an operator behaves in fusion; rules speak of kinds, not of operators.

    STRUCTURAL  graph inputs, constants and outputs
    ELEMENTWISE each output element depends on the same element of each (broadcast) input
    VIEW        the same elements under another shape or order; free where the physical layout allows
    MOVEMENT    copies elements (concatenation, padding)
    REDUCTION   reduces or normalises along axes
    WINDOW      reduces over sliding windows
    CONTRACTION multiply-accumulate: convolution and matrix product
    OPAQUE      anything else: resampling, sorting, picking by computed indices; nothing fuses with it
    """

    STRUCTURAL = "structural"
    ELEMENTWISE = "elementwise"
    VIEW = "view"
    MOVEMENT = "movement"
    REDUCTION = "reduction"
    WINDOW = "window"
    CONTRACTION = "contraction"
    OPAQUE = "opaque"


REQUIRED: Any = object()
"""Default of an attribute that must be given."""


def _no_macs(attributes: Attributes, inputs: Sequence[TensorType], outputs: Sequence[TensorType]) -> DimLike:
    return 0


@dataclass(frozen=True)
class Operator:
    """One operator, defined in one place.

    name: the ONNX name where there is one.
    attributes: attribute name → default value (`REQUIRED` where there is none). Values are hashable.
    infer: (attributes, input types) → output types; raises `ShapeError` (by `convc.errors`) on a misfit.
    reference: (attributes, *arrays) → array or list of arrays, the semantics in NumPy. Computes in the
        dtype of its inputs, except that fp16 and bf16 accumulate in fp32.
    kind: how it fuses.
    macs: (attributes, input types, output types) → multiply-accumulates.
    triton: an expression in Triton over operands ``{0}``, ``{1}``, … in fp32, elementwise operators only; attributes
        by name, ``{alpha}``.
    """

    name: str
    kind: Kind
    infer: InferTypes
    reference: Reference
    attributes: Attributes = field(default_factory=dict)
    macs: Callable[[Attributes, Sequence[TensorType], Sequence[TensorType]], DimLike] = _no_macs
    triton: str = ""

    def complete(self, given: Attributes) -> dict[str, Any]:
        """``given`` with defaults filled in.

        Raises:
            KeyError: an unknown attribute, or a required one that is missing (the name is the argument).
        """
        unknown = set(given) - set(self.attributes)
        if unknown:
            raise KeyError(min(unknown))
        full = {**self.attributes, **given}
        missing = [name for name, value in full.items() if value is REQUIRED]
        if missing:
            raise KeyError(missing[0])
        return full

    def evaluate(self, attributes: Attributes, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The reference applied; always a list with one array per output."""
        result = self.reference(attributes, *arrays)
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def __str__(self) -> str:
        return self.name


_REGISTRY: dict[str, Operator] = {}


def define(operator: Operator) -> Operator:
    """Registers ``operator`` under its name; a name can be taken once."""
    if operator.name in _REGISTRY:
        raise ValueError(f"operator {operator.name} is defined twice")
    _REGISTRY[operator.name] = operator
    return operator


def operator(name: str) -> Operator:
    """The operator of that name. Raises ``KeyError`` where there is none."""
    return _REGISTRY[name]


def operators() -> dict[str, Operator]:
    """Every operator by name."""
    return dict(_REGISTRY)
