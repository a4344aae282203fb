"""How products of integers are spelt in ONNX, whose operands are bytes.

An operand of 16 bits, which is a difference of bytes, becomes two: its positive part, and the negative of its negative
part. Products of parts are exact, and so are their sums.
"""

from __future__ import annotations

from ..ir.graph import Node
from ..ir.types import DType
from .writer import ELEMENT_TYPES, Writer, attributes_of


def convolution(writer: Writer, node: Node, inputs: list[str]) -> None:
    _products(writer, node, inputs, kernel_shape=writer.kernel(), **attributes_of(node))


def product(writer: Writer, node: Node, inputs: list[str]) -> None:
    _products(writer, node, inputs)


def _products(writer: Writer, node: Node, inputs: list[str], **attributes: object) -> None:
    """Each part of x times each part of w, added up; and the bias of a convolution, which has a place per filter."""
    pairs = [
        ("Add" if left == right else "Sub", [x, w])
        for left, x in _parts(writer, inputs[0], 0)
        for right, w in _parts(writer, inputs[1], 1)
    ]
    steps = [(op, writer.step(node.op, pair, **attributes)) for op, pair in pairs[1:]]
    if len(inputs) > 2:
        shape = writer.integers([-1, *(1,) * (len(writer.shape()) - 2)], "shape")
        steps.append(("Add", writer.step("Reshape", [inputs[2], shape])))
    if not steps:
        writer.finish(node.op, pairs[0][1], **attributes)
        return
    total = writer.step(node.op, pairs[0][1], **attributes)
    for op, addend in steps[:-1]:
        total = writer.step(op, [total, addend])
    op, addend = steps[-1]
    writer.finish(op, [total, addend])


def _parts(writer: Writer, name: str, position: int) -> list[tuple[int, str]]:
    """The bytes that an operand consists of, each with its sign."""
    if writer.graph.type(writer.graph.inputs(writer.node)[position]).dtype is not DType.INT16:
        return [(1, name)]
    wide = writer.step("Cast", [name], to=ELEMENT_TYPES[DType.FP32])
    signed = [(1, wide), (-1, writer.step("Neg", [wide]))]
    unsigned = {"to": ELEMENT_TYPES[DType.UINT8]}
    return [(sign, writer.step("Cast", [writer.step("Relu", [part])], **unsigned)) for sign, part in signed]
