"""Normalisations and softmax."""

from __future__ import annotations

from convc import errors
from convc.ir.dims import product
from convc.ir.ops.windows import check_groups
from convc.ir.types import DType

from .builder import Operand
from .call import Call
from .registry import UnsupportedForm, adapter


@adapter("BatchNormalization")
def batch_normalization(call: Call) -> list[Operand]:
    """With the given statistics; in training mode (as exporters standardise weights) with those of the input."""
    x, scale, bias, mean, variance = call.operands
    if call.opset < 9:
        call.without("spatial", 1)
    if _trains(call):
        return _with_own_statistics(call, x, scale, bias, mean, variance)
    call.only_first_output()
    return [call.emit("BatchNormalization", x, scale, bias, mean, variance, epsilon=call.attr("epsilon"))]


def _trains(call: Call) -> bool:
    """Opset 14 has an attribute; before, a node that trains is one with five outputs, though nothing may read more than
    the first. The attribute of opset 6 is often left at its default, and tells nothing."""
    if call.opset >= 14:
        return call.flag("training_mode")
    if any(call.used[1:]):
        raise UnsupportedForm(errors.FORM_TRAINING)
    return call.opset >= 7 and len(call.used) > 1


def _with_own_statistics(
    call: Call, x: Operand, scale: Operand, bias: Operand, mean: Operand, variance: Operand
) -> list[Operand]:
    axes = tuple(axis for axis in range(call.rank) if axis != 1)
    kept = call.emit("ReduceMean", x, axes=axes, keepdims=True)
    channels = call.shape(x)[1:2]
    own_mean = call.reshape(kept, channels)
    deviation = call.emit("Sub", x, kept)
    own_variance = call.emit("ReduceMean", call.emit("Mul", deviation, deviation), axes=axes, keepdims=False)
    y = call.emit("BatchNormalization", x, scale, bias, own_mean, own_variance, epsilon=call.attr("epsilon"))
    running = [_blended(call, *pair) for pair in ((mean, own_mean), (variance, own_variance)) if any(call.used[1:])]
    return [y, *running]


def _blended(call: Call, before: Operand, own: Operand) -> Operand:
    momentum = call.attr("momentum")
    kept = call.emit("Mul", before, call.scalar(momentum, before))
    added = call.emit("Mul", call.cast(own, call.type(before).dtype), call.scalar(1 - momentum, before))
    return call.emit("Add", kept, added)


@adapter("LRN")
def lrn(call: Call) -> Operand:
    names = ("size", "alpha", "beta", "bias")
    return call.emit("LRN", call.x, **{name: call.attr(name) for name in names})


@adapter("Softmax", "LogSoftmax")
def softmax(call: Call) -> Operand:
    """Before opset 13 it normalises over ``axis`` and all axes behind it at once."""
    shape = call.shape(call.x)
    axis = call.axis(call.attr("axis"), max(len(shape), 1))
    if not shape:
        return call.reshape(call.emit(call.op, call.reshape(call.x, (1,)), axis=0), ())
    if call.opset >= 13 or all(dim == 1 for dim in shape[axis + 1 :]):
        return call.emit(call.op, call.x, axis=axis)
    flat = call.reshape(call.x, (product(shape[:axis]), product(shape[axis:])))
    return call.reshape(call.emit(call.op, flat, axis=1), shape)


@adapter("LayerNormalization")
def layer_normalization(call: Call) -> list[Operand]:
    """(x - mean) / sqrt(variance + epsilon) · scale + bias over ``axis`` and all behind it; also mean and 1/deviation.

    The statistics are computed in fp32 (``stash_type``), the rest in x's type.
    """
    call.without("stash_type", 1)
    x, scale, bias = call.x, call.required(1), call.input(2)
    axes = tuple(range(call.axis(call.attr("axis"), call.rank), call.rank))
    mean, deviation, variance = _statistics(call, _wide(call, x), axes)
    inverse = _steadied(call, variance)
    y = call.emit("Mul", call.cast(call.emit("Mul", deviation, inverse), call.type(x).dtype), scale)
    result = y if bias is None else call.emit("Add", y, bias)
    return [result, *(call.cast(statistic, DType.FP32) for statistic in (mean, inverse))]


def _statistics(call: Call, x: Operand, axes: tuple[int, ...]) -> tuple[Operand, Operand, Operand]:
    """The mean of x over ``axes``, x less it, and the mean of that one's square."""
    mean = call.emit("ReduceMean", x, axes=axes, keepdims=True)
    deviation = call.emit("Sub", x, mean)
    squares = call.emit("Mul", deviation, deviation)
    return mean, deviation, call.emit("ReduceMean", squares, axes=axes, keepdims=True)


def _steadied(call: Call, variance: Operand) -> Operand:
    """1 / sqrt(variance + epsilon)."""
    return call.emit(
        "Reciprocal", call.emit("Sqrt", call.emit("Add", variance, call.scalar(call.attr("epsilon"), variance)))
    )


def _wide(call: Call, x: Operand) -> Operand:
    """Halves as fp32, in which statistics are computed."""
    return call.cast(x, DType.FP32) if call.type(x).dtype in (DType.FP16, DType.BF16) else x


def _per_channel(call: Call, parameter: Operand, rank: int) -> Operand:
    return call.reshape(parameter, (call.shape(parameter)[0], *(1,) * (rank - 2)))


@adapter("InstanceNormalization")
def instance_normalization(call: Call) -> Operand:
    """Statistics of each channel of each image."""
    x, scale, bias = call.operands
    _, deviation, variance = _statistics(call, _wide(call, x), tuple(range(2, call.rank)))
    unit = call.cast(call.emit("Mul", deviation, _steadied(call, variance)), call.type(x).dtype)
    scaled = call.emit("Mul", unit, _per_channel(call, scale, call.rank))
    return call.emit("Add", scaled, _per_channel(call, bias, call.rank))


@adapter("GroupNormalization")
def group_normalization(call: Call) -> Operand:
    """Statistics of groups of channels; scale and bias are one for a group before opset 21, one for a channel since."""
    x, scale, bias = call.operands
    shape, groups = call.shape(x), call.attr("num_groups")
    if len(shape) < 2:
        raise errors.wrong_rank(call.op, "an input (N, C, ...)", "2 or more", call.type(x))
    check_groups(call.op, groups, {"channels": shape[1]}, "num_groups")
    split = (shape[0], groups, product(shape[1:]) // groups)
    _, deviation, variance = _statistics(call, call.reshape(_wide(call, x), split), (2,))
    unit = call.cast(call.emit("Mul", deviation, _steadied(call, variance)), call.type(x).dtype)
    if call.opset >= 21:
        scaled = call.emit("Mul", call.reshape(unit, shape), _per_channel(call, scale, call.rank))
        return call.emit("Add", scaled, _per_channel(call, bias, call.rank))
    scaled = call.emit("Mul", unit, call.reshape(scale, (groups, 1)))
    return call.reshape(call.emit("Add", scaled, call.reshape(bias, (groups, 1))), shape)


@adapter("RMSNormalization")
def rms_normalization(call: Call) -> Operand:
    """x / sqrt(mean(x²) + epsilon) · scale over ``axis`` and all behind it."""
    call.without("stash_type", 1)
    x = call.x
    wide = _wide(call, x)
    axes = tuple(range(call.axis(call.attr("axis"), call.rank), call.rank))
    mean = call.emit("ReduceMean", call.emit("Mul", wide, wide), axes=axes, keepdims=True)
    unit = call.cast(call.emit("Mul", wide, _steadied(call, mean)), call.type(x).dtype)
    return call.emit("Mul", unit, call.required(1))


@adapter("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Operand:
    """(x - mean) / (deviation + 1e-9), as ONNX defines it."""
    axes = tuple(sorted(call.axes(call.attr("axes"), call.rank)))
    _, deviation, variance = _statistics(call, call.x, axes)
    spread = call.emit("Add", call.emit("Sqrt", variance), call.scalar(1e-9, variance))
    return call.emit("Div", deviation, spread)


@adapter("LpNormalization")
def lp_normalization(call: Call) -> Operand:
    """x over its 1- or 2-norm along an axis; 0 where that is 0."""
    x, power = call.x, call.attr("p")
    if power not in (1, 2):
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="p", value=power))
    norm = call.emit(f"ReduceL{power}", x, axes=(call.axis(call.attr("axis"), call.rank),), keepdims=True)
    zero = call.scalar(0, x)
    return call.emit("Where", call.emit("Equal", norm, zero), zero, call.emit("Div", x, norm))
