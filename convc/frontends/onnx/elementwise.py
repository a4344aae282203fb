"""Elementwise operators: most are the canonical operator of the same name with the same attributes."""

from __future__ import annotations

import functools

import numpy as np

from convc import errors
from convc.ir.operator import operator
from convc.ir.types import TINY, TINY_INTEGERS, DType

from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter


@adapter(
    "Abs", "Ceil", "Celu", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Tanh",
    "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cos", "Cosh", "IsNaN", "Round", "Sin", "Sinh",
    "Tan",
)  # fmt: skip
def unary(call: Call) -> Operand:
    return call.emit(call.op, call.x, **{name: call.attr(name) for name in operator(call.op).attributes})


@adapter(
    "Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor",
    "BitwiseAnd", "BitwiseOr", "BitwiseXor",
)  # fmt: skip
def binary(call: Call) -> Operand:
    a, b = call.operands
    return call.emit(call.op, a, _aligned(call, a, b) if call.opset < 7 else b)


def _aligned(call: Call, a: Operand, b: Operand) -> Operand:
    """Before opset 7 the second operand broadcast only on demand, and from any axis."""
    from_shape, shape = call.shape(a), call.shape(b)
    if not call.attr("broadcast"):
        if from_shape != shape:
            raise errors.operand_shape("the second input", list(map(str, shape)), "the first one's (no broadcast=1)")
        return b
    if not call.has("axis"):
        return b
    axis = call.axis(call.attr("axis"), len(from_shape))
    trailing = len(from_shape) - axis - len(shape)
    if trailing < 0:
        raise errors.axis_out_of_range(axis, len(from_shape))
    return call.reshape(b, (*shape, *(1,) * trailing))


@adapter("Where")
def where(call: Call) -> Operand:
    return call.emit("Where", *call.operands)


@adapter("Sum", "Max", "Min", "Mean")
def variadic(call: Call) -> Operand:
    """A chain of the binary operator; a mean is divided by the count at the end."""
    op = {"Sum": "Add", "Mean": "Add"}.get(call.op, call.op)
    total = functools.reduce(lambda a, b: call.emit(op, a, b), call.operands)
    if call.op != "Mean" or len(call.inputs) == 1:
        return total
    return call.emit("Div", total, call.scalar(len(call.inputs), total))


@adapter("PRelu")
def prelu(call: Call) -> Operand:
    """Before opset 7 a slope per channel is a vector along axis 1."""
    x, slope = call.operands
    shape = call.shape(slope)
    if call.opset < 7 and len(shape) == 1 and shape[0] != 1 and call.rank > 2:
        slope = call.reshape(slope, (shape[0], *(1,) * (call.rank - 2)))
    return call.emit("PRelu", x, slope)


@adapter("Clip")
def clip(call: Call) -> Operand:
    """Bounds are attributes before opset 11, then inputs; a bound that is computed becomes Max or Min."""
    if call.opset < 11:
        return call.emit("Clip", call.x, min=call.attr("min"), max=call.attr("max"))
    bounds = [call.input(1), call.input(2)]
    for bound in bounds:
        if bound is not None and call.type(bound).size != 1:
            raise errors.operand_shape("a bound", list(map(str, call.shape(bound))), "one number")
    low, high = (None if bound is None else call.reshape(bound, ()) for bound in bounds)
    plain = all(bound is None or isinstance(bound, np.ndarray) for bound in (low, high))
    if plain and call.type(call.x).dtype.is_float:
        given = {"min": low, "max": high}
        for bound in (low, high):
            if bound is not None and call.type(bound).dtype is not call.type(call.x).dtype:
                raise errors.dtypes_differ("Clip", [call.type(call.x).dtype, call.type(bound).dtype])
        return call.emit("Clip", call.x, **{name: float(b) for name, b in given.items() if b is not None})  # type: ignore[arg-type]
    raised = call.x if low is None else call.emit("Max", call.x, low)
    return raised if high is None else call.emit("Min", raised, high)


@adapter("Swish")
def swish(call: Call) -> Operand:
    alpha = call.attr("alpha")
    if alpha == 1:
        return call.emit("Silu", call.x)
    scaled = call.emit("Mul", call.x, call.scalar(alpha, call.x))
    return call.emit("Mul", call.x, call.emit("Sigmoid", scaled))


@adapter("ThresholdedRelu")
def thresholded_relu(call: Call) -> Operand:
    above = call.emit("Greater", call.x, call.scalar(call.attr("alpha"), call.x))
    return call.emit("Where", above, call.x, call.scalar(0, call.x))


@adapter("Mod")
def modulo(call: Call) -> Operand:
    a, b = call.operands
    return call.emit("Mod", a, b, fmod=call.flag("fmod"))


@adapter("BitShift")
def bit_shift(call: Call) -> Operand:
    a, b = call.operands
    return call.emit("BitShift", a, b, direction=call.attr("direction"))


@adapter("IsInf")
def is_infinite(call: Call) -> Operand:
    negative, positive = (call.flag(name) for name in ("detect_negative", "detect_positive"))
    return call.emit("IsInf", call.x, negative=negative, positive=positive)


@adapter("Shrink")
def shrink(call: Call) -> Operand:
    """Towards 0 by the bias, and 0 within ±lambd."""
    x, dtype = call.x, call.type(call.x).dtype
    wide = x if dtype.is_float else call.cast(x, DType.FP64)
    bias, limit = (call.scalar(call.attr(name), wide) for name in ("bias", "lambd"))
    below = call.emit("Less", wide, call.emit("Neg", limit))
    lowered = call.emit("Where", call.emit("Greater", wide, limit), call.emit("Sub", wide, bias), call.scalar(0, wide))
    return call.cast(call.emit("Where", below, call.emit("Add", wide, bias), lowered), dtype)


@adapter("SwiGLU")
def swiglu(call: Call) -> Operand:
    """a · sigmoid(alpha · a) · b."""
    a, b = call.operands
    gate = call.emit("Sigmoid", call.emit("Mul", a, call.scalar(call.attr("alpha"), a)))
    return call.emit("Mul", call.emit("Mul", a, gate), b)


@adapter("Identity")
def identity(call: Call) -> Operand:
    return call.x


@adapter("Dropout")
def dropout(call: Call) -> list[Operand]:
    """Nothing at inference; the mask keeps everything (of x's type before opset 10)."""
    training = call.known(2, "training mode") if call.opset >= 12 else None
    if training is not None and training.any():
        ratio = call.known(1, "ratio")
        if ratio is None or ratio.any():
            raise UnsupportedForm(errors.FORM_TRAINING)
    if not any(call.used[1:]):
        return [call.x]
    kept = np.asarray(True) if call.opset >= 10 else call.scalar(1, call.x)
    return [call.x, call.emit("Expand", kept, shape=call.shape(call.x))]


@adapter("Cast")
def cast(call: Call) -> Operand:
    return _converted(call, call.dtype("to"))


@adapter("CastLike")
def cast_like(call: Call) -> Operand:
    return _converted(call, call.type(call.required(1)).dtype)


def _converted(call: Call, target: DType) -> Operand:
    """To a float of 8 bits or less: held to its bounds, unless the node says that infinity may come of it."""
    x = call.x
    if call.type(x).dtype.is_tiny or (target.is_tiny and not call.type(x).dtype.is_float):
        x = call.cast(x, DType.FP32)
    if target.is_tiny and target not in TINY_INTEGERS and call.flag("saturate", 1):
        low, high = TINY[target]
        x = call.emit("Clip", x, min=low, max=high)
    return call.cast(x, target)
