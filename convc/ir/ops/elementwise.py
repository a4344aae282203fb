"""Elementwise operators: a table with one row each. Adding an activation is adding a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ... import errors
from ..operator import REQUIRED, Attributes, InferTypes, Kind, Operator, Reference, define
from ..types import DType, TensorType
from . import checks, functions
from . import triton_text as text
from .arrays import narrow, widen
from .triton_text import pow_text, triton_text

__all__ = ["Row", "pow_text", "rows", "triton_text"]

_ACCEPTS: dict[str, tuple[str, Callable[[DType], bool]]] = {
    "float": ("fp64, fp32, fp16 or bf16", lambda dtype: dtype.is_float),
    "number": ("a number", lambda dtype: dtype.is_number),
    "bool": ("bool", lambda dtype: dtype is DType.BOOL),
    "integer": ("an integer", lambda dtype: dtype.is_integer),
    "any": ("any", lambda dtype: True),
}


@dataclass(frozen=True)
class Row:
    """One elementwise operator.

    function: (*arrays, **attributes) → array in NumPy; halves arrive as fp32. triton: the same in Triton over
    fp32 operands. accepts: a key of the table of element types. result: its element type; None: the operands'.
    """

    name: str
    arity: int
    function: Callable[..., np.ndarray]
    triton: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    accepts: str = "float"
    result: DType | None = None


_X, _BOOL = "{0}", DType.BOOL
_SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}

_TABLE: tuple[Row, ...] = (
    # activations
    Row("Relu", 1, lambda x: np.maximum(x, x.dtype.type(0)), text.maximum(_X, "0.0"), accepts="number"),
    Row(
        "LeakyRelu",
        1,
        lambda x, alpha: np.where(x < 0, alpha * x, x),
        "tl.where({0} < 0, {alpha} * {0}, {0})",
        {"alpha": 0.01},
    ),
    Row("Elu", 1, functions.elu, f"tl.where({{0}} > 0, {{0}}, {{alpha}} * {text.expm1(_X)})", {"alpha": 1.0}),
    Row(
        "Selu",
        1,
        functions.selu,
        f"{{gamma}} * tl.where({{0}} > 0, {{0}}, {{alpha}} * {text.expm1(_X)})",
        _SELU,
    ),
    Row(
        "Celu",
        1,
        functions.celu,
        f"tl.where({{0}} > 0, {{0}}, {{alpha}} * {text.expm1('({0} / {alpha})')})",
        {"alpha": 1.0},
    ),
    Row("Sigmoid", 1, functions.sigmoid, "1.0 / (1.0 + tl.exp(-{0}))"),
    Row(
        "HardSigmoid",
        1,
        functions.hard_sigmoid,
        text.minimum(text.maximum("{alpha} * {0} + {beta}", "0.0"), "1.0"),
        {"alpha": 0.2, "beta": 0.5},
    ),
    Row(
        "HardSwish",
        1,
        lambda x: x * functions.hard_sigmoid(x),
        "{0} * " + text.minimum(text.maximum("{0} / 6.0 + 0.5", "0.0"), "1.0"),
    ),
    Row("Tanh", 1, np.tanh, text.tanh(_X)),
    Row("Softplus", 1, functions.softplus, text.softplus(_X)),
    Row("Softsign", 1, lambda x: x / (1 + np.abs(x)), "{0} / (1.0 + tl.abs({0}))"),
    Row("Mish", 1, lambda x: x * np.tanh(functions.softplus(x)), text.mish(_X)),
    Row("Silu", 1, lambda x: x * functions.sigmoid(x), "{0} / (1.0 + tl.exp(-{0}))"),
    Row("Gelu", 1, functions.gelu, text.gelu_text("none"), {"approximate": "none"}),
    Row("Clip", 1, functions.clip, "", {"min": -np.inf, "max": np.inf}, "number"),
    Row("PRelu", 2, functions.prelu, "tl.where({0} < 0, {0} * {1}, {0})", accepts="number"),
    # functions
    Row("Erf", 1, functions.erf, "tl.erf({0})"),
    Row("Exp", 1, np.exp, "tl.exp({0})"),
    Row("Log", 1, np.log, "tl.log({0})"),
    Row("Sqrt", 1, np.sqrt, "tl.sqrt({0})"),
    Row("Abs", 1, np.abs, "tl.abs({0})", accepts="number"),
    Row("Neg", 1, np.negative, "-{0}", accepts="number"),
    Row("Reciprocal", 1, lambda x: 1 / x, "1.0 / {0}"),
    Row("Floor", 1, np.floor, "tl.floor({0})"),
    Row("Ceil", 1, np.ceil, "tl.ceil({0})"),
    Row("Sign", 1, np.sign, "tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, {0}))", accepts="number"),
    Row("Round", 1, np.rint, text.ROUND),
    Row("Sin", 1, np.sin, "tl.sin({0})"),
    Row("Cos", 1, np.cos, "tl.cos({0})"),
    Row("Tan", 1, np.tan, ""),
    Row("Asin", 1, np.arcsin, ""),
    Row("Acos", 1, np.arccos, ""),
    Row("Atan", 1, np.arctan, ""),
    Row("Sinh", 1, np.sinh, ""),
    Row("Cosh", 1, np.cosh, ""),
    Row("Asinh", 1, np.arcsinh, ""),
    Row("Acosh", 1, np.arccosh, ""),
    Row("Atanh", 1, np.arctanh, ""),
    # arithmetic
    Row("Copy", 1, np.copy, "{0}", accepts="any"),
    Row("Add", 2, np.add, "{0} + {1}", accepts="number"),
    Row("Sub", 2, np.subtract, "{0} - {1}", accepts="number"),
    Row("Mul", 2, np.multiply, "{0} * {1}", accepts="number"),
    Row("Div", 2, functions.divide, "{0} / {1}", accepts="number"),
    Row("Max", 2, np.maximum, text.maximum("{0}", "{1}"), accepts="number"),
    Row("Min", 2, np.minimum, text.minimum("{0}", "{1}"), accepts="number"),
    Row("Mod", 2, functions.modulo, "", {"fmod": False}, "number"),
    Row("BitwiseAnd", 2, np.bitwise_and, "", accepts="integer"),
    Row("BitwiseOr", 2, np.bitwise_or, "", accepts="integer"),
    Row("BitwiseXor", 2, np.bitwise_xor, "", accepts="integer"),
    Row("BitwiseNot", 1, np.bitwise_not, "", accepts="integer"),
    Row("BitShift", 2, functions.shift, "", {"direction": REQUIRED}, "integer"),
    # comparison and logic
    Row("Equal", 2, np.equal, "{0} == {1}", accepts="any", result=_BOOL),
    Row("Less", 2, np.less, "{0} < {1}", accepts="number", result=_BOOL),
    Row("LessOrEqual", 2, np.less_equal, "{0} <= {1}", accepts="number", result=_BOOL),
    Row("Greater", 2, np.greater, "{0} > {1}", accepts="number", result=_BOOL),
    Row("GreaterOrEqual", 2, np.greater_equal, "{0} >= {1}", accepts="number", result=_BOOL),
    Row("And", 2, np.logical_and, "{0} & {1}", accepts="bool", result=_BOOL),
    Row("Or", 2, np.logical_or, "{0} | {1}", accepts="bool", result=_BOOL),
    Row("Xor", 2, np.logical_xor, "{0} ^ {1}", accepts="bool", result=_BOOL),
    Row("IsNaN", 1, np.isnan, "{0} != {0}", result=_BOOL),
    Row("IsInf", 1, functions.infinite, "", {"negative": True, "positive": True}, result=_BOOL),
    Row("Not", 1, np.logical_not, "~{0}", accepts="bool", result=_BOOL),
)


TRUTH = frozenset(row.name for row in _TABLE if row.result is _BOOL)
"""Operators whose results are truth values."""


def rows() -> dict[str, Row]:
    """The table by operator name."""
    return {row.name: row for row in _TABLE}


def _infer(row: Row) -> InferTypes:
    expected, accepted = _ACCEPTS[row.accepts]

    def infer(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
        """One element type, shapes that broadcast."""
        checks.arity(row.name, inputs, row.arity)
        dtype = checks.one_dtype(row.name, inputs)
        if not accepted(dtype):
            raise errors.wrong_dtype(row.name, "inputs", expected, dtype)
        _check_attributes(row.name, attributes)
        return [TensorType(row.result or dtype, checks.broadcast(row.name, [type.shape for type in inputs]))]

    return infer


_CHOICES = {"approximate": ("none", "tanh"), "direction": ("LEFT", "RIGHT")}
_FLAGS = ("fmod", "negative", "positive")


def _check_attributes(op: str, attributes: Attributes) -> None:
    for name, value in attributes.items():
        if name in _CHOICES:
            checks.choice(op, name, value, _CHOICES[name])
        elif name in _FLAGS:
            checks.flag(op, name, value)
        else:
            checks.number(op, name, value)
    if op == "Celu" and attributes["alpha"] == 0:
        raise errors.wrong_attribute(op, "alpha", "other than 0", 0.0)


def _reference(row: Row) -> Reference:
    def reference(attributes: Attributes, *arrays: np.ndarray) -> np.ndarray:
        """Halves compute in fp32 and round once."""
        with np.errstate(all="ignore"):
            result = np.asarray(row.function(*map(widen, arrays), **attributes))
        return narrow(result, row.result.numpy if row.result else arrays[0].dtype)

    return reference


def _infer_pow(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """base, exponent of any two numeric types → the base's type."""
    checks.arity("Pow", inputs, 2)
    for type in inputs:
        if not type.dtype.is_number:
            raise errors.wrong_dtype("Pow", "inputs", "a number", type.dtype)
    return [TensorType(inputs[0].dtype, checks.broadcast("Pow", [type.shape for type in inputs]))]


def _infer_cast(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    checks.arity("Cast", inputs, 1)
    if not isinstance(attributes["dtype"], DType):
        raise errors.wrong_attribute("Cast", "dtype", "an element type", attributes["dtype"])
    return [TensorType(attributes["dtype"], inputs[0].shape)]


def _cast(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    """Floats to integers truncate, anything but zero is true."""
    with np.errstate(all="ignore"):
        return x.astype(attributes["dtype"].numpy)


def _infer_bit_cast(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    [result] = _infer_cast(attributes, inputs)
    if result.dtype.itemsize != inputs[0].dtype.itemsize:
        raise errors.wrong_dtype("BitCast", "a result", f"of {inputs[0].dtype.itemsize} bytes", result.dtype)
    return [result]


def _bit_cast(attributes: Attributes, x: np.ndarray) -> np.ndarray:
    return x.view(attributes["dtype"].numpy)


def _infer_where(attributes: Attributes, inputs: Sequence[TensorType]) -> list[TensorType]:
    """condition (bool), a, b of one type → that type."""
    checks.arity("Where", inputs, 3)
    if inputs[0].dtype is not DType.BOOL:
        raise errors.wrong_dtype("Where", "a condition", "bool", inputs[0].dtype)
    dtype = checks.one_dtype("Where", inputs[1:])
    return [TensorType(dtype, checks.broadcast("Where", [type.shape for type in inputs]))]


def _where(attributes: Attributes, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(condition.astype(bool), a, b))


for _row in _TABLE:
    define(
        Operator(_row.name, Kind.ELEMENTWISE, _infer(_row), _reference(_row), dict(_row.attributes), triton=_row.triton)
    )
_POWER = Row("Pow", 2, functions.power, "")
define(Operator("Pow", Kind.ELEMENTWISE, _infer_pow, _reference(_POWER)))
define(Operator("Cast", Kind.ELEMENTWISE, _infer_cast, _cast, {"dtype": REQUIRED}))
define(Operator("BitCast", Kind.ELEMENTWISE, _infer_bit_cast, _bit_cast, {"dtype": REQUIRED}))
define(Operator("Where", Kind.ELEMENTWISE, _infer_where, _where, triton="tl.where({0}, {1}, {2})"))
