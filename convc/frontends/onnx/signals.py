"""Fourier transforms, written as what they are: products with cosines and sines, of windows of a signal a convolution.

The last dimension of a signal holds its real part alone, or its real and its imaginary part.
"""

from __future__ import annotations

import numpy as np

from convc import errors
from convc.ir.types import DType

from . import symbolic
from .builder import Operand
from .call import Call
from .movement import along
from .registry import adapter


def _waves(call: Call, size: int, length: int, count: int, parts: int, inverse: bool = False) -> np.ndarray:
    """[size, parts, count, 2]: what each part of each element adds to both parts of the first ``count`` frequencies of
    a transform of ``length``.

    Raises:
        LimitError: that is too large an array.
    """
    call.affordable(size, parts, count, 2, dtype=DType.FP64)
    turns = np.outer(np.arange(size), np.arange(count)) % length / length
    angles = 2 * np.pi * (turns if inverse else -turns)
    real, imaginary = np.cos(angles), np.sin(angles)
    of_real, of_imaginary = np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)
    return np.stack([of_real, of_imaginary][:parts], 1) / (length if inverse else 1)


def _parts(call: Call, one_sided: bool) -> int:
    """How many parts the elements of a signal have. Raises `ShapeError`."""
    shape = call.shape(call.x)
    parts = symbolic.number("parts", shape[-1])
    if len(shape) < 2 or parts not in ((1,) if one_sided else (1, 2)):
        raise errors.operand_shape("the signal", list(shape), f"[..., 1{'' if one_sided else ' or 2'}]")
    return parts


@adapter("DFT")
def dft(call: Call) -> Operand:
    """A product with a constant matrix. The inverse of one side gives real parts alone."""
    one_sided, inverse = call.flag("onesided"), call.flag("inverse")
    shape, parts = call.shape(call.x), _parts(call, one_sided and not inverse)
    [axis] = (call.integers(2, "axis") or (-2,)) if call.opset >= 20 else (call.attr("axis"),)
    place = call.axis(axis, len(shape))
    if place == len(shape) - 1:
        raise errors.axis_out_of_range(axis, place)
    size = symbolic.number("length", shape[place])
    [length] = call.integers(1, "length") or (2 * (size - 1) if one_sided and inverse else size,)
    if length < 1:
        raise errors.attribute_below("length", length, 1)
    side = length // 2 + 1
    size = min(size, side if one_sided and inverse else length)
    waves = _waves(call, size, length, side if one_sided and not inverse else length, parts, inverse)
    if one_sided and inverse:  # what is not there is the conjugate of what is
        frequencies = np.arange(size)
        twice = np.where((frequencies == 0) | (2 * frequencies == length), 1, 2)
        waves = waves[..., :1] * twice[:, None, None, None]
    others = [a for a in range(len(shape) - 1) if a != place]
    kept = [shape[a] for a in others]
    perm = (*others, place, len(shape) - 1)
    lines = call.reshape(call.emit("Transpose", along(call, call.x, place, 0, size), perm=perm), (*kept, size * parts))
    matrix = waves.reshape(size * parts, -1).astype(call.type(call.x).dtype.numpy)
    found = call.reshape(call.emit("MatMul", lines, matrix), (*kept, *waves.shape[2:]))
    return call.emit("Transpose", found, perm=tuple(int(a) for a in np.argsort(perm)))


@adapter("STFT")
def stft(call: Call) -> Operand:
    """A convolution with waves under the window, a filter for each part of each frequency."""
    one_sided = call.flag("onesided")
    shape, parts = call.shape(call.x), _parts(call, one_sided)
    if len(shape) != 3:
        raise errors.operand_shape("the signal", list(shape), "[batch, length, parts]")
    [step] = call.integers(1, "step") or (0,)
    if step < 1:
        raise errors.attribute_below("step", step, 1)
    window, given = call.known(2, "window"), call.integers(3, "length")
    length = given[0] if given else 0 if window is None else window.size
    if length < 1:
        raise errors.attribute_below("length", length, 1)
    shown = np.ones(length) if window is None else window.astype(np.float64)
    if shown.shape != (length,):
        raise errors.operand_shape("the window", list(shown.shape), f"[{length}]")
    count = length // 2 + 1 if one_sided else length
    waves = _waves(call, length, length, count, parts) * shown[:, None, None, None]
    filters = waves.transpose(2, 3, 1, 0).reshape(2 * count, parts, length).astype(call.type(call.x).dtype.numpy)
    signal = call.emit("Transpose", call.x, perm=(0, 2, 1))
    found = call.emit("Conv", signal, filters, pads=(0, 0), strides=(step,), dilations=(1,), groups=1)
    batch, _, frames = call.shape(found)
    return call.emit("Transpose", call.reshape(found, (batch, count, 2, frames)), perm=(0, 3, 1, 2))
