"""Elementwise operators as Triton expressions in fp32 over operands ``{0}``, ``{1}``, … and attributes by name.

They use `triton.language` only, so that they run on every GPU and in Triton's interpreter alike, and keep NaN as IEEE
arithmetic does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ..operator import Attributes, Operator
from ..types import DType

_ALL = "propagate_nan=tl.PropagateNan.ALL"
_DTYPES = {
    DType.FP64: "tl.float64",
    DType.FP32: "tl.float32",
    DType.FP16: "tl.float16",
    DType.BF16: "tl.bfloat16",
    DType.BOOL: "tl.int1",
}
MAX_MULTIPLIED_POWER = 16
"""Integer exponents up to this one become products; beyond, exp2(log2) is both shorter and exact enough."""


def maximum(a: str, b: str) -> str:
    return f"tl.maximum({a}, {b}, {_ALL})"


def minimum(a: str, b: str) -> str:
    return f"tl.minimum({a}, {b}, {_ALL})"


_WHOLE = "((tl.abs({0}) + 8388608.0) - 8388608.0)"
ROUND = f"tl.where(tl.abs({{0}}) < 8388608.0, tl.where({{0}} < 0, -{_WHOLE}, {_WHOLE}), {{0}})"
"""To the nearest whole number, halves to the even one: from 2^23 on an fp32 number has no fraction left. Without the
absolute value a product in front of the sum would be contracted with it, and rounded once where it has to be twice."""
EXACT_QUOTIENT = "tl.div_rn({0}, {1})"
"""A quotient as IEEE rounds it, for what is rounded to whole numbers: `/` may be two units in the last place off."""


def expm1(x: str) -> str:
    """exp(x) - 1: Taylor's series to the seventh power near 0 (remainder below 2^-25), where the difference cancels."""
    series = f"1.0 + {x} / 7.0"
    for divisor in range(6, 1, -1):
        series = f"1.0 + {x} / {divisor}.0 * ({series})"
    return f"tl.where(tl.abs({x}) < 0.35, {x} * ({series}), tl.exp({x}) - 1.0)"


def tanh(x: str) -> str:
    """By exp, and near 0 by the polynomial of Moshier's tanhf (Cephes, single precision), where 1 - 1 would cancel."""
    square = f"{x} * {x}"
    series = "-5.70498872745e-3"
    for coefficient in ("2.06390887954e-2", "-5.37397155531e-2", "1.33314422036e-1", "-3.33332819422e-1"):
        series = f"({series}) * {square} + {coefficient}"
    series = f"{x} + {x} * {square} * ({series})"
    return f"tl.where(tl.abs({x}) < 0.625, {series}, 1.0 - 2.0 / (tl.exp(2.0 * {x}) + 1.0))"


def log1p(x: str) -> str:
    """log(1 + x), x >= 0: the rounding of 1 + x cancels in the quotient (Goldberg 1991, theorem 4)."""
    return f"tl.where(1.0 + {x} == 1.0, {x}, {x} * tl.log(1.0 + {x}) / ((1.0 + {x}) - 1.0))"


def softplus(x: str) -> str:
    return f"{maximum(x, '0.0')} + {log1p(f'tl.exp(-tl.abs({x}))')}"


def mish(x: str) -> str:
    """x·tanh(softplus(x)), the two functions reduced to one quotient in e = exp(-|x|)."""
    e = f"tl.exp(-tl.abs({x}))"
    positive = f"(1.0 + 2.0 * {e}) / (1.0 + 2.0 * {e} + 2.0 * {e} * {e})"
    negative = f"{e} * ({e} + 2.0) / ({e} * ({e} + 2.0) + 2.0)"
    return f"{x} * tl.where({x} >= 0, {positive}, {negative})"


def gelu_text(approximate: str) -> str:
    """The tanh form is written as x·sigmoid(2u), which is the same function and does not cancel."""
    if approximate == "tanh":
        return "{0} / (1.0 + tl.exp(-1.5957691216057308 * ({0} + 0.044715 * {0} * {0} * {0})))"
    return "0.5 * {0} * (1.0 + tl.erf({0} * 0.7071067811865476))"


def clip_text(min: float, max: float) -> str:
    """Only the bounds that can bind."""
    text = "{0}" if min == -math.inf else maximum("{0}", "{min}")
    return text if max == math.inf else minimum(text, "{max}")


def infinite_text(negative: bool, positive: bool) -> str:
    """Whether it is an infinity of these signs."""
    if negative and positive:
        return 'tl.abs({0}) == float("inf")'
    if not (negative or positive):
        return "({0} == {0}) & ({0} != {0})"
    return '{0} == float("inf")' if positive else '{0} == float("-inf")'


def cast_text(dtype: DType) -> str:
    """To an integer truncates, as Triton's conversion does; to bool compares."""
    return "{0} != 0" if dtype is DType.BOOL else f"{{0}}.to({_DTYPES.get(dtype, f'tl.{dtype}')})"


def pow_text(exponent: float) -> str:
    """``{0}`` to a constant power, with the special values of IEEE 754's pow; "" for an infinite or NaN exponent.

    Small integers multiply, halves take the square root, everything else is exp2(log2(|x|) · exponent): its relative
    error grows as |log2(x) · exponent| times the unit roundoff.
    """
    if not math.isfinite(exponent):
        return ""
    if exponent == int(exponent):
        return _integer_power(int(exponent))
    size = f"tl.exp2(tl.log2(tl.abs({{0}})) * {literal(exponent)})"
    if abs(exponent) == 0.5:
        size = "tl.sqrt(tl.abs({0}))" if exponent > 0 else "1.0 / tl.sqrt(tl.abs({0}))"
    return f'tl.where(({{0}} < 0) & ({{0}} > float("-inf")), float("nan"), {size})'


def _integer_power(exponent: int) -> str:
    if exponent == 0:
        return "tl.where({0} == {0}, 1.0, 1.0)"
    if abs(exponent) <= MAX_MULTIPLIED_POWER:
        text = _product(abs(exponent))
        return text if exponent > 0 else f"1.0 / ({text})"
    if exponent % 2 == 0:
        return f"tl.exp2(tl.log2(tl.abs({{0}})) * {literal(float(exponent))})"
    odd = f"{{0}} * tl.exp2(tl.log2(tl.abs({{0}})) * {float(abs(exponent) - 1)})"
    return odd if exponent > 0 else f"1.0 / ({odd})"


def _product(exponent: int) -> str:
    """By repeated squaring; the compiler shares the equal factors."""
    if exponent <= 3:
        return " * ".join(["{0}"] * exponent)
    half = f"({_product(exponent // 2)})"
    return f"{half} * {half}" + (" * {0}" if exponent % 2 else "")


def literal(value: object) -> str:
    """A Python expression for an attribute that Triton also reads; negative numbers in parentheses."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, (bool, int, float)):
        return repr(value) if value >= 0 else f"({value!r})"
    return str(value)


_SPECIAL: dict[str, Callable[..., str]] = {
    "Gelu": gelu_text,
    "Clip": clip_text,
    "Cast": cast_text,
    "IsInf": infinite_text,
}


def has_text(operator: Operator) -> bool:
    """Whether kernels can compute an elementwise operator, of some attributes and operands at least."""
    return bool(operator.triton) or operator.name in _SPECIAL or operator.name == "Pow"


def triton_text(operator: Operator, attributes: Attributes, operands: Sequence[str]) -> str:
    """The Triton expression of an elementwise operator applied to ``operands`` (fp32 blocks; bool for logic).

    Operands appear more than once: they should be names. Anything else is put in parentheses. "" where the operator
    has no text (Pow; see `pow_text`).
    """
    template = _SPECIAL[operator.name](**attributes) if operator.name in _SPECIAL else operator.triton
    return fill(template, operands, attributes)


def fill(template: str, operands: Sequence[str], attributes: Attributes | None = None) -> str:
    """A text with its operands and attributes put in."""
    shown = [text if text.isidentifier() else f"({text})" for text in operands]
    return template.format(*shown, **{name: literal(value) for name, value in (attributes or {}).items()})
