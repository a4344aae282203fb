"""How each operator is spelt in ONNX: one function for each form, in one table.

A spelling gets the writer, the node and the names of its inputs; it adds nodes through `Writer.step` and ends in
`Writer.finish`. Operators that are not in the table have the same name, inputs and attributes in ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import errors
from ..ir.dims import Dim, DimLike
from ..ir.graph import Node
from ..ir.types import TINY_INTEGERS
from . import integer_spellings
from .host_spellings import HOST_SPELLINGS
from .writer import ELEMENT_TYPES, Spelling, Writer, attributes_of

FIRST, LAST = -(2**63), 2**63 - 1
"""Ends of a slice that runs to the end of its axis, backwards and forwards."""


def plain(writer: Writer, node: Node, inputs: list[str]) -> None:
    """The same name, inputs and attributes."""
    writer.finish(node.op, inputs, **attributes_of(node))


def convolution(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.finish("Conv", inputs, kernel_shape=writer.kernel(), **attributes_of(node))


def max_pool(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.finish("MaxPool", inputs, **_pooling(writer, node))


def max_places(writer: Writer, node: Node, inputs: list[str]) -> None:
    attributes = _pooling(writer, node)
    attributes["storage_order"] = attributes.pop("column_major")
    writer.finish_one_of("MaxPool", inputs, 1, 2, **attributes)


def average_pool(writer: Writer, node: Node, inputs: list[str]) -> None:
    """Dilations came in opset 19."""
    attributes = _pooling(writer, node)
    dilations = attributes["dilations"] if writer.opset >= 19 else attributes.pop("dilations")
    if set(dilations) != {1}:
        writer.needs("average pooling with dilations", 19)
    writer.finish("AveragePool", inputs, **attributes)


def _pooling(writer: Writer, node: Node) -> dict[str, Any]:
    """The attributes, with paddings for which old opsets count the same windows.

    A last window that would start in the padding at the end does not exist, but before opset 22 ONNX's shape inference
    counts it in ceil mode. Without the part of the padding that no other window reaches, it does not come up.
    """
    attributes = attributes_of(node)
    if writer.opset < 22 and attributes["ceil_mode"]:
        rank = len(attributes["strides"])
        attributes["pads"][rank:] = [_reached_padding(writer, node, axis) for axis in range(rank)]
    return attributes


def _reached_padding(writer: Writer, node: Node, axis: int) -> int:
    """Padding at the end of a spatial axis, as far as windows of a pooling in ceil mode need it."""
    rank = len(node.attributes["strides"])
    extent, count = writer.shape()[2 + axis], node.outputs[0].shape[2 + axis]
    begin, end = node.attributes["pads"][axis], node.attributes["pads"][rank + axis]
    names = ("kernel_shape", "strides", "dilations")
    kernel, stride, dilation = (node.attributes[name][axis] for name in names)
    span = dilation * (kernel - 1) + 1
    if isinstance(extent, Dim) or isinstance(count, Dim) or begin + extent + end - span <= (count - 1) * stride:
        return int(end)
    reached = (count - 1) * stride + span - extent - begin
    if reached < 0:
        writer.needs("ceil mode with a stride larger than the window", 22)
    return int(reached)


def reduction(writer: Writer, node: Node, inputs: list[str]) -> None:
    """Axes became an input in opset 13 for sums and in opset 18 for the others; none of them are all in ONNX."""
    axes, keepdims = list(node.attributes["axes"]), int(node.attributes["keepdims"])
    if not axes and writer.shape():
        if node.op not in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"):
            raise errors.no_onnx_form(node.label, f"{node.op} along no axes")
        return identity(writer, node, inputs)
    if writer.opset >= 18 or node.op == "ReduceSum":
        writer.finish(node.op, [*inputs, writer.integers(axes, "axes")], keepdims=keepdims)
    else:
        writer.finish(node.op, inputs, axes=axes, keepdims=keepdims)


def identity(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.finish("Identity", inputs)


# -- elementwise ------------------------------------------------------------------------------------------------------
def clip(writer: Writer, node: Node, inputs: list[str]) -> None:
    """Bounds are inputs; an infinite one is absent."""
    low, high = float(node.attributes["min"]), float(node.attributes["max"])
    lower = "" if low == -math.inf else writer.scalar(low)
    upper = "" if high == math.inf else writer.scalar(high)
    bounds = [lower, upper] if upper else [lower] if lower else []
    writer.finish("Clip", [*inputs, *bounds])


def cast(writer: Writer, node: Node, inputs: list[str]) -> None:
    dtype = node.attributes["dtype"]
    unbounded = {"saturate": 0} if dtype.is_tiny and dtype not in TINY_INTEGERS else {}
    writer.finish("Cast", inputs, to=ELEMENT_TYPES[dtype], **unbounded)


def silu(writer: Writer, node: Node, inputs: list[str]) -> None:
    if writer.opset >= 24:
        writer.finish("Swish", inputs)
    else:
        writer.finish("Mul", [inputs[0], writer.step("Sigmoid", inputs)])


def mish(writer: Writer, node: Node, inputs: list[str]) -> None:
    if writer.opset >= 18:
        writer.finish("Mish", inputs)
    else:
        writer.finish("Mul", [inputs[0], writer.step("Tanh", [writer.step("Softplus", inputs)])])


def hard_swish(writer: Writer, node: Node, inputs: list[str]) -> None:
    if writer.opset >= 14:
        writer.finish("HardSwish", inputs)
    else:
        writer.finish("Mul", [inputs[0], writer.step("HardSigmoid", inputs, alpha=1 / 6, beta=0.5)])


def gelu(writer: Writer, node: Node, inputs: list[str]) -> None:
    """x/2 · (1 + erf(x/√2)), or x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    x, step, scalar = inputs[0], writer.step, writer.scalar
    if writer.opset >= 20:
        writer.finish("Gelu", inputs, approximate=node.attributes["approximate"])
        return
    if node.attributes["approximate"] == "none":
        inner = step("Erf", [step("Mul", [x, scalar(math.sqrt(0.5))])])
    else:
        cube = step("Mul", [step("Mul", [x, x]), step("Mul", [x, scalar(0.044715)])])
        inner = step("Tanh", [step("Mul", [step("Add", [x, cube]), scalar(math.sqrt(2 / math.pi))])])
    writer.finish("Mul", [step("Mul", [x, scalar(0.5)]), step("Add", [inner, scalar(1.0)])])


def prelu(writer: Writer, node: Node, inputs: list[str]) -> None:
    """ONNX broadcasts the slope alone."""
    x = inputs[0]
    if node.outputs[0].shape == writer.shape():
        writer.finish("PRelu", inputs)
    else:
        negative = writer.step("Less", [x, writer.scalar(0.0)])
        writer.finish("Where", [negative, writer.step("Mul", inputs), x])


# -- views and movement -----------------------------------------------------------------------------------------------
def reshape(writer: Writer, node: Node, inputs: list[str]) -> None:
    """Symbolic dimensions are copied (0) or inferred (-1) where that says it; else computed."""
    source, target = writer.shape(), node.attributes["shape"]
    if 0 in target:
        writer.needs("a reshape to an empty shape", 14)
        writer.finish("Reshape", [*inputs, writer.integers(target, "shape")], allowzero=1)
        return
    kept = [0 if isinstance(dim, Dim) and source[i : i + 1] == (dim,) else dim for i, dim in enumerate(target)]
    if sum(isinstance(dim, Dim) for dim in kept) == 1:
        kept = [-1 if isinstance(dim, Dim) else dim for dim in kept]
    writer.finish("Reshape", [*inputs, writer.integers(kept, "shape")])


def expand(writer: Writer, node: Node, inputs: list[str]) -> None:
    """A symbolic dimension that the input has already is written as 1, which broadcasts to it."""
    target = node.attributes["shape"]
    source: Sequence[DimLike] = (*(1,) * (len(target) - len(writer.shape())), *writer.shape())
    wanted = [1 if isinstance(dim, Dim) and dim == have else dim for dim, have in zip(target, source, strict=True)]
    writer.finish("Expand", [*inputs, writer.integers(wanted, "shape")])


def slicing(writer: Writer, node: Node, inputs: list[str]) -> None:
    """Starts, ends, axes and steps of those axes that are not taken whole."""
    parts = zip(*(node.attributes[name] for name in ("starts", "sizes", "steps")), writer.shape(), strict=True)
    cut = [(axis, part) for axis, part in enumerate(parts) if part[:3] != (0, part[3], 1)]
    if not cut:
        writer.finish("Identity", inputs)
        return
    columns: dict[str, Sequence[DimLike]] = {
        "starts": [_start(*part) for _, part in cut],
        "ends": [_end(*part) for _, part in cut],
        "axes": [axis for axis, _ in cut],
        "steps": [part[2] for _, part in cut],
    }
    writer.finish("Slice", [*inputs, *(writer.integers(column, name) for name, column in columns.items())])


def _start(start: DimLike, size: DimLike, step: int, extent: DimLike) -> DimLike:
    return -1 if isinstance(start, Dim) and start == extent - 1 else start


def _end(start: DimLike, size: DimLike, step: int, extent: DimLike) -> DimLike:
    """One step's direction past the last index; where that is past the axis, any end does."""
    if size == 0:
        return start
    last = start + (size - 1) * step
    if step < 0:
        return FIRST if last == 0 else last - 1
    return LAST if isinstance(last, Dim) and last == extent - 1 else last + 1


def pad(writer: Writer, node: Node, inputs: list[str]) -> None:
    mode = node.attributes["mode"]
    if mode == "wrap":
        writer.needs("padding by wrapping around", 19)
    value = [writer.scalar(node.attributes["value"])] if mode == "constant" else []
    writer.finish("Pad", [*inputs, writer.integers(node.attributes["pads"], "pads"), *value], mode=mode)


REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"),
    *("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"),
)

SPELLINGS: dict[str, Spelling] = {
    "Conv": convolution,
    "ConvInteger": integer_spellings.convolution,
    "MatMulInteger": integer_spellings.product,
    "MaxPool": max_pool,
    "MaxPoolIndices": max_places,
    "AveragePool": average_pool,
    **dict.fromkeys(REDUCTIONS, reduction),
    "Copy": identity,
    "Clip": clip,
    "Cast": cast,
    "Silu": silu,
    "Mish": mish,
    "HardSwish": hard_swish,
    "Gelu": gelu,
    "PRelu": prelu,
    "Reshape": reshape,
    "Expand": expand,
    "Slice": slicing,
    "Pad": pad,
    **HOST_SPELLINGS,
}
"""Operators whose ONNX form differs from the graph's in some opset."""
