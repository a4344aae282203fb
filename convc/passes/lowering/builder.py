"""What every family's lowering shares: operands from placements or weights, and the region's elementwise statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...ir import DType, Graph, Kind, Node, Value, operator
from ...ir.ops.integers import NAMES as INTEGER
from ...ir.plan import FusedGraph, Layouts, PackedWeight, Placement, Region
from ...ir.problem import ACCUMULATOR, Axis, GlobalPool, Operand, Ref, Split, Statement
from ..global_pool import pooling_mode
from ..layout import dense_strides, stored
from ..shuffles import steps_between

ALIGNMENT = 8
"""Elements that weight rows are padded to: 16 bytes of fp16."""


@dataclass(frozen=True)
class DimMap:
    """How an iteration dimension moves through a logical tensor: ``step`` indices along dimension ``dim``."""

    dim: int
    step: int = 1


class Refused(Exception):
    """A form of an operator that has no kernel; the message says which. node: it, where it is not its region's head."""

    def __init__(self, what: str, node: int | None = None) -> None:
        super().__init__(what)
        self.node = node


@dataclass
class Builder:
    """Builds one problem: ``maps`` has one entry per iteration dimension, over the region's logical output.

    region: where it pools its result over whole images, ``output`` is that result all the same, and ``keeps`` says
    whether it is stored.
    """

    fused: FusedGraph
    layouts: Layouts
    mode: str
    region: Region
    maps: tuple[DimMap, ...] = ()
    operands: list[Operand] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    known: dict[int, Ref] = field(default_factory=dict)
    keeps: bool = True

    @property
    def graph(self) -> Graph:
        return self.fused.graph

    @property
    def anchor(self) -> Node:
        assert self.region.anchor is not None
        return self.graph.node(self.region.anchor)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self.shape(self.region.output)

    @property
    def compute(self) -> DType:
        """Element type of tensor-core operands: the anchor's, whatever its result is converted to behind it; of
        integers fp16, which holds those of 8 bits and their differences exactly."""
        value = self.region.output if self.region.anchor is None else Value(self.region.anchor)
        return DType.FP16 if self.sums is DType.INT32 else stored(self.graph.type(value).dtype, self.mode)

    @property
    def sums(self) -> DType:
        """Element type of a contraction's sums."""
        anchored = self.region.anchor is not None and self.anchor.op in INTEGER
        return DType.INT32 if anchored else DType.FP32

    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(int(dim) for dim in self.graph.type(value).shape)  # type: ignore[arg-type]

    def placement(self, value: Value) -> Placement:
        return self.layouts.placements[value]

    def output(self) -> Operand:
        """The tensor that the kernel stores; without a place where it only pools it."""
        if not self.keeps:
            return Operand("y", self.region.output, self.compute, (0,) * len(self.maps))
        placed = self.placement(self.region.output)
        return replace(over("y", self.region.output, placed, self.maps), border=placed.border)

    @property
    def image_axis(self) -> Axis:
        """The axis of the batch: tiles may cross images unless results are pooled over them."""
        return Axis.ROW if self.region.pool is None else Axis.GROUP

    def pool(self) -> GlobalPool | None:
        """What the kernel makes of its result over whole images; batch and channels are the first two dimensions."""
        if self.region.pool is None:
            return None
        placed = self.placement(Value(self.region.pool))
        strides = tuple(placed.strides[m.dim] * m.step if m.dim < 2 else 0 for m in self.maps)
        output = Operand("m", Value(self.region.pool), placed.dtype, strides, placed.offset)
        return GlobalPool(pooling_mode(self.graph.node(self.region.pool)), output, self.keeps)

    def located(self, value: Value, dtype: DType | None = None) -> tuple[Value | PackedWeight, Placement]:
        """Where a value lies: a placement, or dense in the weights for a constant, as ``dtype``; unless told, floats
        that fp32 holds are fp32 there."""
        if self.graph.constant(value) is None:
            return value, self.placement(value)
        shape = self.shape(value)
        logical = self.graph.type(value).dtype
        widened = DType.FP32 if logical.is_float and logical is not DType.FP64 else logical
        packed = pack_dense(value, shape, dtype or widened)
        return packed, Placement(-1, packed.dtype, shape, packed.strides)

    def operand(self, name: str, value: Value, axis: int | None = None) -> Operand:
        """A tensor broadcast against the region's output, as NumPy does it, or lying along ``axis``."""
        source, placed = self.located(value)
        if placed.parts:
            return over(name, source, _broadcast(placed, self.output_shape), self.maps)
        strides = broadcast_strides(placed, self.output_shape, axis)
        mapped = tuple(strides[m.dim] * m.step for m in self.maps)
        border = placed.border if placed.shape == self.output_shape else None
        return Operand(name, source, placed.dtype, mapped, placed.offset, border=border)

    def read(self, value: Value, axis: int | None = None, name: str | None = None) -> Ref:
        """A statement argument for a value from outside: a number where it is a constant scalar, else an operand. Truth
        values are operands, too."""
        return self._number(value) or self._tensor(value, axis, name)

    def _number(self, value: Value) -> Ref | None:
        constant = self.graph.constant(value)
        if constant is None or constant.size != 1 or constant.dtype == bool:
            return None
        number = constant.reshape(-1)[0]
        return Ref("number", number=int(number) if constant.dtype.kind in "iu" else float(number))

    def _tensor(self, value: Value, axis: int | None = None, name: str | None = None) -> Ref:
        candidate = self.operand(name or f"in{len(self.operands) + 1}", value, axis)
        for index, present in enumerate(self.operands):
            if not present.bounds and (present.source, present.strides) == (candidate.source, candidate.strides):
                return Ref("operand", index)
        self.operands.append(candidate)
        return Ref("operand", len(self.operands) - 1)

    def apply(self, node: Node, op: str, *arguments: Ref, **attributes: object) -> Ref:
        """Adds a statement that applies operator ``op``; ``node`` is what it stands for."""
        definition = operator(op)
        statement = Statement(node.id, definition, definition.complete(attributes), arguments)
        self.statements.append(statement)
        return Ref("statement", len(self.statements) - 1)

    def add_bias(self, values: Sequence[Value], axis: int) -> None:
        """acc + b for the optional bias of an anchor, which lies along ``axis`` of the output."""
        if values:
            bias = self.read(values[0], axis, name="bias")
            self.known[self.anchor.id] = self.apply(self.anchor, "Add", self.known[self.anchor.id], bias)

    def start(self) -> None:
        """The anchor's result is the accumulator until something is done to it."""
        if self.region.anchor is not None:
            self.known[self.region.anchor] = ACCUMULATOR

    def add_elementwise(self) -> None:
        """The statements of every elementwise node of the region."""
        for id in self.region.nodes:
            node = self.graph.node(id)
            if id == self.region.anchor or id in self.region.prologue:
                continue
            if node.kind is not Kind.ELEMENTWISE:
                raise Refused(f"{node.op} inside a fused chain", node.id)
            arguments = [self._argument(node, position) for position in range(len(self.graph.inputs(node)))]
            statement = Statement(id, node.operator, node.attributes, tuple(arguments))
            self.statements.append(statement)
            self.known[id] = Ref("statement", len(self.statements) - 1)

    def _argument(self, node: Node, position: int) -> Ref:
        value = self.graph.inputs(node)[position]
        if value.node in self.known:
            return self.known[value.node]
        axis = 1 if node.op == "BatchNormalization" and position > 0 else None
        if node.op == "Where" and all(map(self._number, self.graph.inputs(node)[1:])):
            return self._tensor(value)  # of two numbers, nothing would say the type
        return self.read(value, axis)


def over(name: str, source: Value | PackedWeight, placed: Placement, maps: Sequence[DimMap]) -> Operand:
    """A tensor over iteration dimensions, given how each of them moves through it."""
    strides, splits = [], []
    for index, map in enumerate(maps):
        parts = steps_between(placed.all_parts[map.dim], map.step, _reach(placed, map, maps))
        strides.append(parts[-1][1] if parts else placed.strides[map.dim] * map.step)
        if len(parts) > 1 and map not in maps[:index]:
            splits.append(Split(index, parts))
    return Operand(name, source, placed.dtype, tuple(strides), placed.offset, splits=tuple(splits))


def _broadcast(placed: Placement, target: tuple[int, ...]) -> Placement:
    """A tensor under the shape that it is broadcast to."""
    lead = len(target) - len(placed.shape)
    own = (((extent, 0),) if placed.shape[i] == 1 else placed.all_parts[i] for i, extent in enumerate(target[lead:]))
    parts = (*(((extent, 0),) for extent in target[:lead]), *own)
    return replace(placed, shape=target, strides=tuple(pairs[-1][1] for pairs in parts), parts=parts)


def _reach(placed: Placement, map: DimMap, maps: Sequence[DimMap]) -> int:
    """Indices of a dimension until the next of the iteration dimensions that move through it takes a step."""
    larger = [other.step for other in maps if other.dim == map.dim and other.step > map.step]
    return min(larger, default=placed.shape[map.dim])


def pack_dense(value: Value, shape: tuple[int, ...], dtype: DType) -> PackedWeight:
    """A constant as it is."""
    return PackedWeight(value.node, dtype, shape, tuple(range(len(shape))), shape[-1] if shape else 1)


def broadcast_strides(placed: Placement, target: tuple[int, ...], axis: int | None) -> tuple[int, ...]:
    """Strides of a tensor along the dimensions of ``target`` that it is broadcast to."""
    if axis is not None:
        vector = next((s for extent, s in zip(placed.shape, placed.strides, strict=True) if extent > 1), 0)
        return tuple(vector if position == axis else 0 for position in range(len(target)))
    lead = len(target) - len(placed.shape)
    pairs = zip(placed.shape, placed.strides, target[lead:], strict=True)
    return (0,) * lead + tuple(0 if extent == 1 else stride for extent, stride, _ in pairs)


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


__all__ = ["ALIGNMENT", "Builder", "DimMap", "Refused", "dense_strides", "pack_dense", "round_up"]
