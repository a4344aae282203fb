"""Operators that are a few views, slices, masks or windows of others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from convc import errors
from convc.ir.dims import DimLike, product
from convc.ir.types import DType

from . import symbolic
from .builder import Operand
from .call import Call
from .registry import adapter


def _plain(call: Call, x: Operand) -> tuple[int, ...]:
    """The shape, which must be known."""
    return tuple(symbolic.number("shape", dim) for dim in call.shape(x))


def _image(call: Call) -> tuple[DimLike, ...]:
    shape = call.shape(call.x)
    if len(shape) != 4:
        raise errors.operand_shape("the input", list(map(str, shape)), "rank 4")
    return shape


def _whole(dim: DimLike, block: int, what: str) -> DimLike:
    part = dim // block
    if part * block != dim and isinstance(dim, int):
        raise errors.operand_shape(what, dim, f"a multiple of {block}")
    return part


@adapter("DepthToSpace")
def depth_to_space(call: Call) -> Operand:
    """Channels become blocks of pixels; the place in the block leads the channels (DCR), or trails (CRD)."""
    batch, channels, height, width = _image(call)
    block = call.attr("blocksize")
    depth = _whole(channels, block * block, "the number of channels")
    if call.choice("mode", ("DCR", "CRD")) == "DCR":
        split: tuple[DimLike, ...] = (batch, block, block, depth, height, width)
        perm = (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (batch, depth, block, block, height, width), (0, 1, 4, 2, 5, 3)
    moved = call.emit("Transpose", call.reshape(call.x, split), perm=perm)
    return call.reshape(moved, (batch, depth, height * block, width * block))


@adapter("SpaceToDepth")
def space_to_depth(call: Call) -> Operand:
    """Blocks of pixels become channels; the place in the block leads them (DCR), or trails (CRD, from opset 28)."""
    batch, channels, height, width = _image(call)
    block = call.attr("blocksize")
    rows, columns = _whole(height, block, "the height"), _whole(width, block, "the width")
    split = call.reshape(call.x, (batch, channels, rows, block, columns, block))
    perm = (0, 3, 5, 1, 2, 4) if call.choice("mode", ("DCR", "CRD")) == "DCR" else (0, 1, 3, 5, 2, 4)
    return call.reshape(call.emit("Transpose", split, perm=perm), (batch, channels * block * block, rows, columns))


@adapter("CenterCropPad")
def center_crop_pad(call: Call) -> Operand:
    """Axes cut, or padded with zeros, to sizes, as much at both ends (one less at the begin where it is odd)."""
    shape = _plain(call, call.x)
    sizes = call.integers(1, "shape") or ()
    axes = call.axes(call.attr("axes") or range(len(shape)), len(shape))
    wanted = dict(zip(axes, sizes, strict=True))
    starts, kept, begins, ends = [], [], [], []
    for axis, dim in enumerate(shape):
        size = wanted.get(axis, dim)
        cut, room = max(dim - size, 0), max(size - dim, 0)
        starts.append(cut // 2)
        kept.append(dim - cut)
        begins.append(room // 2)
        ends.append(room - room // 2)
    x = call.emit("Slice", call.x, starts=tuple(starts), sizes=tuple(kept), steps=(1,) * len(shape))
    return call.emit("Pad", x, pads=(*begins, *ends)) if any((*begins, *ends)) else x


@adapter("Trilu")
def triangle(call: Call) -> Operand:
    """The upper or lower triangle of matrices; the rest is 0."""
    [diagonal] = call.integers(1, "k") or (0,)
    x = call.x
    rows, columns = _plain(call, x)[-2:]
    call.affordable(rows, columns, dtype=DType.BOOL)
    upper = call.flag("upper")
    mask = np.tri(rows, columns, diagonal - 1 if upper else diagonal, dtype=bool)
    return call.emit("Where", ~mask if upper else mask, x, call.scalar(0, x))


@adapter("EyeLike")
def eye_like(call: Call) -> Operand:
    dtype = call.dtype("dtype", call.type(call.x).dtype)
    rows, columns = _plain(call, call.x)
    call.affordable(rows, columns)
    return np.eye(rows, columns, call.attr("k", 0)).astype(dtype.numpy)


@adapter("Col2Im")
def columns_to_image(call: Call) -> Operand:
    """Windows added up where they overlap: a transposed convolution whose filters pick one tap each."""
    image, block = call.integers(1, "image shape") or (), call.integers(2, "block shape") or ()
    rank, taps = len(block), math.prod(block)
    strides, dilations = (tuple(call.attr(name) or (1,) * rank) for name in ("strides", "dilations"))
    pads = tuple(call.attr("pads") or (0,) * (2 * rank))
    spans = [(block[i] - 1) * dilations[i] + 1 for i in range(rank)]
    room = [image[i] + pads[i] + pads[rank + i] - spans[i] for i in range(rank)]
    counts = [n // stride + 1 for n, stride in zip(room, strides, strict=True)]
    batch, channels, _ = _plain(call, call.x)
    call.affordable(max(channels, taps), taps)
    filters = np.tile(np.eye(taps), (channels // taps, 1)).reshape(channels, 1, *block)
    return call.emit(
        "ConvTranspose",
        call.reshape(call.x, (batch, channels, *counts)),
        filters.astype(call.type(call.x).dtype.numpy),
        strides=strides,
        pads=pads,
        dilations=dilations,
        output_padding=tuple(n % stride for n, stride in zip(room, strides, strict=True)),
        groups=channels // taps,
    )


@adapter("Einsum")
def einsum(call: Call) -> Operand:
    """A matrix product where two operands are multiplied as one; its own operator otherwise."""
    equation = call.attr("equation")
    if len(call.inputs) == 2 and "->" in equation and "." not in equation:
        left, right, result = equation.replace(" ", "").replace("->", ",").split(",")
        labels = (left, right, result)
        plain = all(len(set(part)) == len(part) for part in labels) and set(result) <= set(left + right)
        summed = set(left + right) - set(result)
        if plain and summed <= set(left) & set(right) and _one_size(call, left, right):
            return _as_matmul(call, left, right, result)
    return call.emit("Einsum", *call.operands, equation=equation)


def _one_size(call: Call, left: str, right: str) -> bool:
    """Whether shared labels have one size, with nothing to broadcast."""
    a, b = (call.shape(operand) for operand in call.operands)
    if len(a) != len(left) or len(b) != len(right):
        return False
    return all(a[left.index(label)] == b[right.index(label)] for label in set(left) & set(right))


def _as_matmul(call: Call, left: str, right: str, result: str) -> Operand:
    a, b = call.operands
    batch = [label for label in result if label in left and label in right]
    summed = [label for label in left if label not in result]
    rows = [label for label in left if label not in right]
    columns = [label for label in right if label not in left]
    sizes = {**dict(zip(left, call.shape(a), strict=True)), **dict(zip(right, call.shape(b), strict=True))}

    def arranged(x: Operand, labels: str, *groups: Sequence[str]) -> Operand:
        order = [label for group in groups for label in group]
        moved = call.emit("Transpose", x, perm=tuple(labels.index(label) for label in order))
        return call.reshape(moved, tuple(product([sizes[label] for label in group]) for group in groups))

    multiplied = call.emit("MatMul", arranged(a, left, batch, rows, summed), arranged(b, right, batch, summed, columns))
    order = [*batch, *rows, *columns]
    full = call.reshape(multiplied, tuple(sizes[label] for label in order))
    return call.emit("Transpose", full, perm=tuple(order.index(label) for label in result))


@adapter("Det")
def determinant(call: Call) -> Operand:
    return call.emit("Det", call.x)


@adapter("BitCast")
def bit_cast(call: Call) -> Operand:
    """The same bits as another type of the same size."""
    return call.emit("BitCast", call.x, dtype=call.dtype("to"))
