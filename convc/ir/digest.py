"""A problem by what it computes and how its operands lie, and by nothing of the network that it was found in."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from .graph import Value
from .operator import Operator
from .plan import PackedWeight
from .problem import Problem, Statement


def problem_digest(problem: Problem) -> str:
    """SHA-256 (hexadecimal): equal for problems of different networks whose kernels are the same under every tile.

    Tensors and weights are told apart, and which operands share one; where they come from is left out.
    """
    return hashlib.sha256(repr(_Canonical().of(problem)).encode()).hexdigest()


class _Canonical:
    """Plain values in a fixed order. Tensors are numbered as they are met."""

    def __init__(self) -> None:
        self._numbers: dict[Value | PackedWeight, int] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, (Value, PackedWeight)):
            return self._source(value)
        if isinstance(value, Operator):
            return value.name
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, Statement):
            arguments = self.of(value.arguments)
            return value.operator.name, self.of(value.attributes), arguments
        if is_dataclass(value):
            return type(value).__name__, *((f.name, self.of(getattr(value, f.name))) for f in fields(value))
        if isinstance(value, Mapping):
            return tuple((key, self.of(value[key])) for key in sorted(value))
        if isinstance(value, (tuple, list)):
            return tuple(self.of(item) for item in value)
        return value

    def _source(self, source: Value | PackedWeight) -> Any:
        number = self._numbers.setdefault(source, len(self._numbers))
        if isinstance(source, Value):
            return "tensor", number
        return "weights", number, source.dtype.value, source.view, source.order, source.pitch
