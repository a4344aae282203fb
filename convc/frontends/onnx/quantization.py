"""Quantised operators, by the arithmetic that they stand for.

Products of 8-bit integers, or of their differences from zero points, are exact sums in int32. Integers become real
numbers in fp32; real numbers are divided by the scale in the type that ``precision`` names (else that of the scale),
rounded to the nearest, halves to even, and kept within the bounds of the integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc import errors
from convc.ir.dims import DimLike
from convc.ir.types import TINY, TINY_INTEGERS, DType

from .builder import Operand
from .call import Call
from .convolution import conv_attributes
from .registry import UnsupportedForm, adapter


def _along(call: Call, parameter: Operand, x: Operand, block: int = 0) -> Operand:
    """A scale or zero point so that it broadcasts: one number, one for each index of ``axis``, or one for a block."""
    shape, rank = call.shape(parameter), len(call.shape(x))
    if block:
        return _blocked(call, parameter, x, block)
    if shape in ((), (1,)):
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
    return call.cast(product, call.dtype("output_dtype", dtype))


@adapter("QuantizeLinear")
def quantize(call: Call) -> Operand:
    """round(x / scale) + zero point, held to the bounds of the type."""
    x, scale, zero = call.x, call.required(1), call.input(2)
    block = call.attr("block_size", 0)
    declared = call.dtype("output_dtype", DType.UINT8)
    target = call.type(zero).dtype if zero is not None else declared
    own = call.type(scale).dtype
    precision = call.dtype("precision", own if own.is_float else DType.FP32)
    wide = call.emit("Div", call.cast(x, precision), _along(call, call.cast(scale, precision), x, block))
    offset = None if zero is None else _along(call, zero, x, block)
    return quantized(call, wide, target, offset)


def quantized(call: Call, scaled: Operand, target: DType, zero: Operand | None) -> Operand:
    """Rounds, adds a zero point and keeps within the bounds of an integer of up to 16 bits or a float of up to 8."""
    if (target.is_float and not target.is_tiny) or target.itemsize > 2:
        raise UnsupportedForm(errors.FORM_DTYPE.format(dtype=target))
    rounded = not target.is_tiny or target in TINY_INTEGERS
    whole = call.cast(call.emit("Round", scaled) if rounded else scaled, DType.FP32)
    if zero is not None:
        whole = call.emit("Add", whole, call.cast(zero, DType.FP32))
    if rounded or call.flag("saturate", 1):
        low, high = TINY[target] if target.is_tiny else (np.iinfo(target.numpy).min, np.iinfo(target.numpy).max)
        whole = call.emit("Clip", whole, min=float(low), max=float(high))
    return call.cast(whole, target)


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
def _placed(call: Call, parameter: Operand, trailing: int) -> Operand:
    """A scale or zero point so that it broadcasts: one number, or a vector that stands ``trailing`` axes from the end.

    Of a matrix product's left side and result a vector has one number for each row (``trailing`` 1), of its right side
    one for each column (0); of a convolution's weights and result one for each filter. Anything of more axes is as wide
    as the tensor already.
    """
    shape = call.shape(parameter)
    if len(shape) > 1:
        return parameter
    single = not shape or shape[0] == 1
    return call.reshape(parameter, () if single else (shape[0], *(1,) * trailing))


def difference(call: Call, x: Operand, zero: Operand | None, trailing: int = 0) -> Operand:
    """x - zero point, both bytes, in 16 bits, which fp32 computes exactly; x itself where there is no zero point."""
    dtype = call.type(x).dtype
    if dtype not in (DType.INT8, DType.UINT8):
        raise UnsupportedForm(errors.FORM_DTYPE.format(dtype=dtype))
    if zero is None or (isinstance(zero, np.ndarray) and not zero.any()):
        return x
    if call.type(zero).dtype is not dtype:
        raise errors.wrong_dtype(call.op, "a zero point", str(dtype), call.type(zero).dtype)
    moved = call.cast(_placed(call, zero, trailing), DType.FP32)
    return call.cast(call.emit("Sub", call.cast(x, DType.FP32), moved), DType.INT16)


@adapter("MatMulInteger")
def matmul_integer(call: Call) -> Operand:
    a = difference(call, call.x, call.input(2), trailing=1)
    b = difference(call, call.required(1), call.input(3))
    return call.emit("MatMulInteger", a, b)


@adapter("ConvInteger")
def conv_integer(call: Call) -> Operand:
    w = call.required(1)
    x, filters = difference(call, call.x, call.input(2)), difference(call, w, call.input(3), len(call.shape(w)) - 1)
    return call.emit("ConvInteger", x, filters, **conv_attributes(call, x, filters))


def _requantized(call: Call, total: Operand, trailing: Sequence[int]) -> Operand:
    """A sum of products · scale(a) · scale(b) / scale(y) in fp32, as the quantised result.

    The three scales are the inputs 1, 4 and 6, the result's zero point is 7; ``trailing`` places the three (`_placed`).
    """
    scales = (call.cast(call.required(position), DType.FP32) for position in (1, 4, 6))
    a, b, y = (_placed(call, scale, axes) for scale, axes in zip(scales, trailing, strict=True))
    factor = call.emit("Div", call.emit("Mul", a, b), y)
    zero = call.required(7)
    scaled = call.emit("Mul", call.cast(total, DType.FP32), factor)
    return quantized(call, scaled, call.type(zero).dtype, _placed(call, zero, trailing[2]))


@adapter("QLinearMatMul")
def qlinear_matmul(call: Call) -> Operand:
    a = difference(call, call.x, call.required(2), trailing=1)
    b = difference(call, call.required(3), call.required(5))
    return _requantized(call, call.emit("MatMulInteger", a, b), (1, 0, 1))


@adapter("QLinearConv")
def qlinear_conv(call: Call) -> Operand:
    w, bias = call.required(3), call.input(8)
    spatial = len(call.shape(w)) - 2
    x, filters = difference(call, call.x, call.required(2)), difference(call, w, call.required(5), spatial + 1)
    operands = [x, filters] if bias is None else [x, filters, bias]
    return _requantized(
        call, call.emit("ConvInteger", *operands, **conv_attributes(call, x, filters)), (0, spatial, spatial)
    )
