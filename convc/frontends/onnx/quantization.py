"""Quantised operators, by the arithmetic that they stand for.

Products of 8-bit integers are summed in fp64, which holds every sum exactly that int32 does; conversions to and from
real numbers are in the scale's type, rounded to the nearest, halves to even.
"""

from __future__ import annotations

import numpy as np

from convc import errors
from convc.ir.dims import DimLike
from convc.ir.types import DType

from .builder import Operand
from .call import Call
from .convolution import conv_of
from .registry import UnsupportedForm, adapter
from .tensors import DTYPES, type_name


def _along(call: Call, parameter: Operand, x: Operand, block: int = 0) -> Operand:
    """A scale or zero point so that it broadcasts: one number, one for each index of ``axis``, or one for a block."""
    shape, rank = call.shape(parameter), len(call.shape(x))
    if block:
        return _blocked(call, parameter, x, block)
    if len(shape) == 0 or (len(shape) == 1 and shape[0] == 1 and rank != 1):
        return call.reshape(parameter, ())
    if len(shape) != 1:
        raise errors.operand_shape("the scale", list(map(str, shape)), "one number, or a vector")
    axis = call.axis(call.attr("axis", 1), rank)
    return call.reshape(parameter, (shape[0], *(1,) * (rank - axis - 1)))


def _blocked(call: Call, parameter: Operand, x: Operand, block: int) -> Operand:
    shape, axis = call.shape(x), call.axis(call.attr("axis", 1), len(call.shape(x)))
    parts = call.shape(parameter)
    wide: tuple[DimLike, ...] = (*parts[: axis + 1], block, *parts[axis + 1 :])
    raised = call.expand(call.reshape(parameter, (*parts[: axis + 1], 1, *parts[axis + 1 :])), wide)
    merged = call.reshape(raised, (*parts[:axis], parts[axis] * block, *parts[axis + 1 :]))
    if call.shape(merged) == shape:
        return merged
    sizes = (*call.shape(merged)[:axis], shape[axis], *call.shape(merged)[axis + 1 :])
    return call.emit("Slice", merged, starts=(0,) * len(sizes), sizes=sizes, steps=(1,) * len(sizes))


def _dtype(call: Call, name: str, default: DType) -> DType:
    code = call.attr(name, 0)
    if code and code not in DTYPES:
        raise UnsupportedForm(errors.FORM_DTYPE.format(dtype=type_name(code)))
    return DTYPES[code] if code else default


# -- to and from real numbers -----------------------------------------------------------------------------------------
@adapter("DequantizeLinear")
def dequantize(call: Call) -> Operand:
    """(x - zero point) · scale."""
    x, scale, zero = call.x, call.required(1), call.input(2)
    dtype = call.type(scale).dtype
    block = call.attr("block_size", 0)
    moved = call.cast(x, DType.FP32)
    if zero is not None:
        moved = call.emit("Sub", moved, _along(call, call.cast(zero, DType.FP32), x, block))
    product = call.emit("Mul", moved, _along(call, call.cast(scale, DType.FP32), x, block))
    return call.cast(product, _dtype(call, "output_dtype", dtype))


@adapter("QuantizeLinear")
def quantize(call: Call) -> Operand:
    """round(x / scale) + zero point, held to the bounds of the type."""
    x, scale, zero = call.x, call.required(1), call.input(2)
    block = call.attr("block_size", 0)
    declared = _dtype(call, "output_dtype", DType.UINT8)
    target = call.type(zero).dtype if zero is not None else declared
    precision = _dtype(call, "precision", call.type(x).dtype if call.type(x).dtype.is_float else DType.FP32)
    wide = call.emit("Div", call.cast(x, precision), _along(call, call.cast(scale, precision), x, block))
    offset = None if zero is None else _along(call, zero, x, block)
    return quantized(call, wide, target, offset)


def quantized(call: Call, scaled: Operand, target: DType, zero: Operand | None) -> Operand:
    """Rounds, adds a zero point and keeps within the bounds of an integer type of up to 16 bits."""
    if target.is_float or target.itemsize > 2:
        raise UnsupportedForm(errors.FORM_DTYPE.format(dtype=target))
    whole = call.cast(call.emit("Round", scaled), DType.FP32)
    if zero is not None:
        whole = call.emit("Add", whole, call.cast(zero, DType.FP32))
    bounds = np.iinfo(target.numpy)
    return call.cast(call.emit("Clip", whole, min=float(bounds.min), max=float(bounds.max)), target)


@adapter("DynamicQuantizeLinear")
def dynamic_quantize(call: Call) -> list[Operand]:
    """uint8 with scale and zero point from the extremes of x and 0."""
    x, axes = call.x, tuple(range(call.rank))
    nothing = call.scalar(0, x)
    high = call.emit("Max", call.emit("ReduceMax", x, axes=axes, keepdims=False), nothing)
    low = call.emit("Min", call.emit("ReduceMin", x, axes=axes, keepdims=False), nothing)
    extent = call.emit("Sub", high, low)
    empty = call.emit("Equal", extent, nothing)
    step = call.emit("Div", call.emit("Where", empty, call.scalar(1, x), extent), call.scalar(255, x))
    zero = quantized(call, call.emit("Div", call.emit("Neg", low), step), DType.UINT8, None)
    return [quantized(call, call.emit("Div", x, step), DType.UINT8, zero), step, zero]


# -- products of integers ---------------------------------------------------------------------------------------------
def exact(call: Call, x: Operand, zero: Operand | None, trailing: int = 0) -> Operand:
    """x - zero point in fp64; a zero point that is a vector stands ``trailing`` axes from the end."""
    wide = call.cast(x, DType.FP64)
    if zero is None:
        return wide
    shape = call.shape(zero)
    if len(shape) <= 1:
        single = not shape or shape[0] == 1
        zero = call.reshape(zero, () if single else (shape[0], *(1,) * trailing))
    return call.emit("Sub", wide, call.cast(zero, DType.FP64))


@adapter("MatMulInteger")
def matmul_integer(call: Call) -> Operand:
    a = exact(call, call.x, call.input(2), trailing=1)
    b = exact(call, call.required(1), call.input(3))
    return call.cast(call.emit("MatMul", a, b), DType.INT32)


@adapter("ConvInteger")
def conv_integer(call: Call) -> Operand:
    w = call.required(1)
    x = exact(call, call.x, call.input(2))
    return call.cast(conv_of(call, x, exact(call, w, call.input(3), len(call.shape(w)) - 1)), DType.INT32)


def _requantized(call: Call, total: Operand, factor: Operand, position: int) -> Operand:
    """A sum of products · factor, as the quantised result whose zero point is the input at ``position``."""
    zero = call.required(position)
    scaled = call.emit("Mul", call.cast(call.cast(total, DType.INT32), DType.FP32), factor)
    return quantized(call, scaled, call.type(zero).dtype, call.reshape(zero, ()) if call.type(zero).size == 1 else zero)


def _factor(call: Call, a: int, b: int, y: int) -> Operand:
    """scale(a) · scale(b) / scale(y) in fp32."""
    scales = [call.cast(call.required(position), DType.FP32) for position in (a, b, y)]
    single = [call.reshape(s, ()) if call.type(s).size == 1 else s for s in scales]
    return call.emit("Div", call.emit("Mul", single[0], single[1]), single[2])


@adapter("QLinearMatMul")
def qlinear_matmul(call: Call) -> Operand:
    a = exact(call, call.x, call.required(2), trailing=1)
    b = exact(call, call.required(3), call.required(5))
    return _requantized(call, call.emit("MatMul", a, b), _factor(call, 1, 4, 6), 7)


@adapter("QLinearConv")
def qlinear_conv(call: Call) -> Operand:
    w = call.required(3)
    behind = len(call.shape(w)) - 1
    x = exact(call, call.x, call.required(2))
    bias = call.input(8)
    wide = None if bias is None else call.cast(bias, DType.FP64)
    total = conv_of(call, x, exact(call, w, call.required(5), behind), wide)
    factor = _factor(call, 1, 4, 6)
    if call.shape(factor):
        factor = call.reshape(factor, (call.shape(factor)[0], *(1,) * (behind - 1)))
    return _requantized(call, total, factor, 7)
