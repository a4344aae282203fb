"""Elementwise operators as Triton expressions over integers and booleans, each in the type of its operands.

Sums, differences and products wrap around, as NumPy's do. Quotients are cut off towards zero; a division by zero is
nobody's business: NumPy warns, a GPU gives anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..operator import Attributes, Operator
from ..types import DType
from .functions import integer_bounds
from .triton_text import fill

_SAME = (
    *("Copy", "Add", "Sub", "Mul", "Neg", "Abs", "PRelu", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"),
    *("And", "Or", "Xor", "Where"),
)
"""Operators whose text over fp32 is right for integers as well."""
_OWN = {
    "Relu": "tl.maximum({0}, 0)",
    "Sign": "({0} > 0).to({type}) - ({0} < 0).to({type})",
    "Max": "tl.maximum({0}, {1})",
    "Min": "tl.minimum({0}, {1})",
    "Div": "{0} // {1}",
    "Mod": "tl.where(({0} % {1} != 0) & (({0} < 0) != ({1} < 0)), {0} % {1} + {1}, {0} % {1})",
    "BitwiseAnd": "{0} & {1}",
    "BitwiseOr": "{0} | {1}",
    "BitwiseXor": "{0} ^ {1}",
    "BitwiseNot": "~{0}",
    "Not": "{0} == 0",
    "Clip": "tl.minimum(tl.maximum({0}, {low}), {high})",
}
_SHIFT = "tl.where(%s, {0} %s ({1} & {last}), 0)"
"""By its whole length or more, nothing is left."""
_WITHIN, _SIGNED_WITHIN = "{1} < {bits}", "({1} >= 0) & ({1} < {bits})"
"""Whether it is less; a negative number is not."""


def has_integer_text(operator: Operator) -> bool:
    """Whether kernels compute an elementwise operator on integers or booleans."""
    return operator.name in _SAME or operator.name in _OWN or operator.name in ("BitShift", "Cast")


def integer_text(operator: Operator, attributes: Attributes, operands: Sequence[str], dtype: DType) -> str:
    """The Triton expression of an elementwise operator over operands of one integer type, or of truth values."""
    values: dict[str, object] = {"type": f"tl.{dtype}"}
    template = operator.triton if operator.name in _SAME else _OWN.get(operator.name, "")
    if operator.name == "Mod" and (attributes["fmod"] or not _signed(dtype)):
        template = "{0} % {1}"
    if operator.name == "BitShift":
        template = _shift(attributes["direction"], dtype)
        values |= {"bits": 8 * dtype.itemsize, "last": 8 * dtype.itemsize - 1}
    if operator.name == "Clip":
        low, high = integer_bounds(attributes["min"], attributes["max"], dtype.numpy)
        values |= {"low": low, "high": high}
    return fill(template, operands, values)


def _signed(dtype: DType) -> bool:
    return dtype.numpy.kind == "i"


def _shift(direction: str, dtype: DType) -> str:
    """To the right, the sign of an integer stays."""
    if direction == "RIGHT" and _signed(dtype):
        return f"{{0}} >> tl.where({_SIGNED_WITHIN}, {{1}}, {{last}})"
    return _SHIFT % (_SIGNED_WITHIN if _signed(dtype) else _WITHIN, "<<" if direction == "LEFT" else ">>")
