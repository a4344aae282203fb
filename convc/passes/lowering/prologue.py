"""The operators that a convolution computes while it loads its operand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ...ir import Kind, Node, Value
from ...ir.plan import Placement, Region
from ...ir.problem import ACCUMULATOR, Operand, Ref, Statement
from .builder import Builder, DimMap, broadcast_strides

Strides = Callable[[Placement], tuple[tuple[int, ...], int]]
"""Placement in the shape of the convolution's input → strides per iteration dimension, and along the channels."""


@dataclass
class Prologue:
    """What is read instead of the anchor's operand, and what is done to it.

    source: the tensor that is loaded as x. statements: over x (the accumulator) and ``operands``.
    """

    source: Value
    statements: list[Statement] = field(default_factory=list)
    operands: list[Operand] = field(default_factory=list)


def prologue_source(b: Builder, x: Value) -> Value:
    """The tensor behind a prologue that is loaded as x: the first of the input's own shape."""
    if not b.region.prologue:
        return x
    for id in b.region.prologue:
        for value in b.graph.inputs(id):
            inside = value.node in b.region.prologue
            if not inside and b.shape(value) == b.shape(x) and b.graph.constant(value) is None:
                return value
    raise AssertionError("a prologue reads a tensor of its own shape")


def lower_prologue(b: Builder, x: Value, source: Value, strides: Strides) -> Prologue:
    """The statements in front of an anchor that reads ``x``, given how tensors of its shape are stepped through."""
    prologue = Prologue(source)
    known: dict[tuple[Value, int | None], Ref] = {(source, None): ACCUMULATOR}
    for id in b.region.prologue:
        node = b.graph.node(id)
        arguments = []
        for position, value in enumerate(b.graph.inputs(node)):
            axis = 1 if node.op == "BatchNormalization" and position > 0 else None
            if (value, axis) not in known:
                known[value, axis] = _read(b, prologue, value, b.shape(x), axis, strides)
            arguments.append(known[value, axis])
        prologue.statements.append(Statement(id, node.operator, node.attributes, tuple(arguments)))
        known[Value(id), None] = Ref("statement", len(prologue.statements) - 1)
    return prologue


def _read(
    b: Builder, prologue: Prologue, value: Value, shape: tuple[int, ...], axis: int | None, strides: Strides
) -> Ref:
    constant = b.graph.constant(value)
    if constant is not None and constant.size == 1:
        return Ref("number", number=float(constant.reshape(-1)[0]))
    source, placed = b.located(value)
    logical = broadcast_strides(placed, shape, axis)
    along, depth = strides(Placement(placed.block, placed.dtype, shape, logical, placed.offset))
    name = f"pre{len(prologue.operands) + 1}"
    prologue.operands.append(Operand(name, source, placed.dtype, along, placed.offset, depth=depth))
    return Ref("operand", len(prologue.operands) - 1)


@dataclass(frozen=True)
class Stage:
    """An operator of a prologue that is not elementwise, and the elementwise ones behind it."""

    anchor: Node
    chain: tuple[int, ...]

    @property
    def nodes(self) -> tuple[int, ...]:
        return (self.anchor.id, *self.chain)


def stages(b: Builder) -> list[Stage]:
    """The stages of a prologue, the first of which reads memory; none where it is elementwise throughout."""
    found: list[Stage] = []
    for id in b.region.prologue:
        node = b.graph.node(id)
        if node.kind is not Kind.ELEMENTWISE:
            found.append(Stage(node, ()))
        elif found:
            found[-1] = replace(found[-1], chain=(*found[-1].chain, id))
    return found


def alone(b: Builder, node: Node) -> Builder:
    """A builder for one node by itself."""
    return Builder(b.fused, b.layouts, b.mode, Region(b.region.id, (node.id,), node.id, Value(node.id)))


def lower_stage(b: Builder, stage: Stage) -> Builder:
    """The bias and the elementwise operators of a stage, over one dimension: the channels."""
    chain = alone(b, stage.anchor)
    chain.region = replace(chain.region, nodes=stage.nodes, output=Value(stage.nodes[-1]))
    chain.maps = (DimMap(1),)
    chain.start()
    chain.add_bias(b.graph.inputs(stage.anchor)[2:], axis=1)
    chain.add_elementwise()
    return chain
