"""Physical layout: a block of memory, an offset and strides for every tensor that exists in memory.

Convolutional tensors are channels-last inside the network; graph inputs and outputs keep the user's order, and the
kernels at the edges read and write them there. Views cost nothing where strides can express them, and the operands of a
concatenation are written straight into their slices of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..ir import DType, Graph, Kind, Node, Value
from ..ir.plan import Block, Border, Decline, FusedGraph, Layouts, Placement, Region
from . import borders, shuffles
from .choice import Policy
from .switches import Switches

STORAGE = {"fp32": DType.FP32, "tf32": DType.FP32, "fp16": DType.FP16, "bf16": DType.BF16}
"""Numeric mode → how fp32 tensors of the network are stored."""


def stored(dtype: DType, mode: str) -> DType:
    """How values of a logical dtype are stored in a numeric mode: only fp32 is narrowed."""
    return STORAGE[mode] if dtype is DType.FP32 else dtype


def channels_last(rank: int) -> tuple[int, ...]:
    """Order of logical dimensions in memory, outermost first, for N, C, spatial…; plain order below rank 3."""
    return (0, *range(2, rank), 1) if rank >= 3 else tuple(range(rank))


def dense_strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides, in elements, of a dense tensor whose dimensions lie in ``order``."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(int(shape[axis]), 1)
    return tuple(strides)


def reshape_strides(shape: Sequence[int], strides: Sequence[int], target: Sequence[int]) -> tuple[int, ...] | None:
    """Strides that view a strided tensor under another shape, or None where only a copy can.

    NumPy's own rule for reshaping without a copy, asked of an array of bytes that is imagined and never touched.
    """
    imagined = np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), tuple(shape), tuple(strides))
    try:
        return tuple(imagined.reshape(tuple(target), copy=False).strides)
    except ValueError:
        return None


@dataclass
class _Placer:
    fused: FusedGraph
    mode: str
    switches: Switches
    policy: Policy
    layouts: Layouts = field(default_factory=Layouts)
    homes: dict[Value, Value] = field(default_factory=dict)
    views: set[int] = field(default_factory=set)

    @property
    def graph(self) -> Graph:
        return self.fused.graph

    def run(self) -> Layouts:
        """Places every value that exists in memory."""
        self._place_inputs()
        self._choose_homes()
        self._place_outputs()
        for region in self.fused.regions:
            self._place_shuffle(region)
        for region in reversed(self.fused.regions):
            if self._is_concat(region):
                self._place_concat(region)
        for region in self.fused.regions:
            self._place_region(region)
        self.layouts.views = frozenset(self.views)
        return self.layouts

    def _is_concat(self, region: Region) -> bool:
        return not region.on_host and self.graph.node(region.output.node).op == "Concat"

    def _block(self, buffer: str, elements: int, dtype: DType, margin: int = 0) -> Block:
        block = Block(len(self.layouts.blocks), buffer, elements * dtype.itemsize, dtype, margin)
        self.layouts.blocks[block.id] = block
        return block

    def _own_block(self, value: Value, buffer: str, dtype: DType, order: Sequence[int]) -> Placement:
        shape = tuple(int(dim) for dim in self.graph.type(value).shape)  # type: ignore[arg-type]
        block = self._block(buffer, int(np.prod(shape, dtype=object)), dtype)
        return Placement(block.id, dtype, shape, dense_strides(shape, order))

    def _place_inputs(self) -> None:
        for index, node in enumerate(self.graph.graph_inputs):
            value, type = Value(node.id), node.outputs[0]
            self.layouts.placements[value] = self._own_block(value, f"input:{index}", type.dtype, range(type.rank))

    def _place_outputs(self) -> None:
        """Gives the value behind each graph output the strides that make the output dense in the user's order."""
        for index, output in enumerate(self.graph.graph_outputs):
            (value,) = self.graph.inputs(output)
            type = self.graph.type(value)
            if not type.is_static:
                continue
            placement = self._own_block(value, f"output:{index}", type.dtype, range(type.rank))
            self.layouts.placements[value] = placement
            while self._moves(self.graph.producer(value)):
                source = self.graph.inputs(value.node)[0]
                strides = self._strides_before(self.graph.node(value.node), source, placement)
                if strides is None:
                    break
                self.views.add(value.node)
                shape = tuple(int(dim) for dim in self.graph.type(source).shape)  # type: ignore[arg-type]
                value, placement = source, Placement(placement.block, placement.dtype, shape, strides)
                self.layouts.placements[value] = placement

    def _moves(self, node: Node) -> bool:
        """Whether a node is a view that layout can make free."""
        return node.op in ("Reshape", "Transpose") and node.id not in self.fused.hosted

    def _strides_before(self, node: Node, source: Value, placement: Placement) -> tuple[int, ...] | None:
        """Strides of a view's source, from those of its result."""
        if node.op == "Transpose":
            strides = [0] * len(placement.strides)
            for position, axis in enumerate(node.attributes["perm"]):
                strides[axis] = placement.strides[position]
            return tuple(strides)
        target = [int(dim) for dim in self.graph.type(source).shape]  # type: ignore[arg-type]
        return reshape_strides(placement.shape, placement.strides, target)

    def _choose_homes(self) -> None:
        """Decides which operands of concatenations are written in place, the outermost concatenation first."""
        if not self.switches.on("concat-in-place"):
            return
        outputs = {self.graph.inputs(node)[0] for node in self.graph.graph_outputs}
        for region in reversed(self.fused.regions):
            if not self._is_concat(region):
                continue
            for value in self.graph.inputs(region.output.node):
                producer = self.graph.producer(value)
                written = producer.kind not in (Kind.STRUCTURAL, Kind.VIEW) and value not in outputs
                written &= producer.id not in self.fused.hosted
                if written and value not in self.homes:
                    self.homes[value] = region.output

    def _place_concat(self, region: Region) -> None:
        value = region.output
        node = self.graph.node(value.node)
        placement = self.layouts.placements.get(value) or self._fresh(value)
        self.layouts.placements[value] = placement
        start = 0
        axis = node.attributes["axis"]
        seen: set[Value] = set()
        for operand in self.graph.inputs(node):
            shape = tuple(int(dim) for dim in self.graph.type(operand).shape)  # type: ignore[arg-type]
            if self.homes.get(operand) == value and operand not in seen:
                seen.add(operand)
                part = shuffles.sliced(placement, axis, start, shape)
                assert part is not None
                self.layouts.placements[operand] = part
            start += shape[axis]

    def _place_region(self, region: Region) -> None:
        if region.on_host:
            self._place_host(region)
            return
        for value in (value for output in region.outputs for value in self.graph.values(output.node)):
            if value in self.layouts.placements:
                self._without_border(value)
                continue
            placement = self._view(region) if self.graph.node(value.node).kind is Kind.VIEW else None
            if placement is not None:
                self.views.add(value.node)
            self.layouts.placements[value] = placement or self._bordered(region, value) or self._fresh(value)

    def _place_host(self, region: Region) -> None:
        """A block of its own for every result of a step of the host that kernels read."""
        for value in region.on_host:
            if value in self.layouts.placements:
                self._without_border(value)
            elif not self.fused.stays_on_host(value):
                self.layouts.placements[value] = self._fresh(value)
                self._without_border(value, "the host makes it")

    def _bordered(self, region: Region, value: Value) -> Placement | None:
        """A place between zeros, where convolutions with padding read the value and it can have them."""
        type = self.graph.type(value)
        dtype = stored(type.dtype, self.mode)
        if not self.switches.feature(borders.RULE):
            return None
        border = borders.planned(self.fused, region, value, dtype, self.policy)
        if isinstance(border, Border) and self._order(value) != channels_last(type.rank):
            border = borders.declined(self.fused, value, "its channels do not lie innermost")
        if isinstance(border, Decline):
            self.layouts.declines.append(border)
        if not isinstance(border, Border):
            return None
        pitch = border.channels * dtype.itemsize
        block = self._block("arena", border.pixels * border.channels, dtype, border.margin * pitch)
        shape = tuple(int(dim) for dim in type.shape)  # type: ignore[arg-type]
        offset = border.margin * border.channels
        return Placement(block.id, dtype, shape, border.strides, offset, border=border)

    def _without_border(self, value: Value, reason: str = "") -> None:
        """Tells why a value that has its place already lies between no zeros."""
        inside = self.layouts.blocks[self.layouts.placements[value].block].buffer == "arena"
        reason = reason or ("it lies in a concatenation, or in another order" if inside else "it is a graph output")
        decline = borders.declined(self.fused, value, reason) if self.switches.feature(borders.RULE) else None
        if decline is not None:
            self.layouts.declines.append(decline)

    def _place_shuffle(self, region: Region) -> None:
        """Lets the kernel of a region store its result in the order that reshapes and transpositions behind it make,
        where the last of them would be a copy."""
        value = region.output
        if (
            region.on_host
            or value in self.layouts.placements
            or self.graph.producer(value).kind in (Kind.VIEW, Kind.STRUCTURAL)
        ):
            return
        views, shared = self._copied(value)
        if not views:
            return
        last = Value(views[-1].id)
        placed = self.layouts.placements.get(last) or self._dense(last)
        found = shuffles.before(self.graph, views, placed)
        reason = shuffles.unfit(self.fused, region, found[0] if found else None, self.homes)
        if shared:
            reason = "something else reads it, or what lies between, in its own order"
        if not self.switches.on(shuffles.RULE):
            reason = "the rule is switched off"
        if reason is not None or found is None:
            self.layouts.declines.append(Decline(shuffles.RULE, value.node, last.node, reason or ""))
            return
        if last not in self.layouts.placements:
            home = self._fresh(last)
            found = [replace(place, block=home.block) for place in found]
            self.layouts.placements[last] = home
        sources = [self.graph.inputs(node)[0] for node in views]
        self.layouts.placements |= dict(zip(sources, found, strict=True))
        self.views |= {node.id for node in views}
        self.layouts.shuffles |= {node.id for node in views}

    def _copied(self, value: Value) -> tuple[list[Node], bool]:
        """Reshapes and transpositions behind a value, up to the first that strides cannot express or that has its place
        already, and whether anything else reads what lies between; none where all are free."""
        placed: Placement | None = self._dense(value)
        views: list[Node] = []
        shared = False
        while placed is not None:
            readers = [self.graph.node(use.node) for use in self.graph.users(value)]
            moving = [reader for reader in readers if self._moves(reader)]
            if not moving:
                return [], False
            shared |= len(readers) > 1
            views.append(moving[0])
            value = Value(moving[0].id)
            shape = tuple(int(dim) for dim in moving[0].outputs[0].shape)  # type: ignore[arg-type]
            fixed = value in self.layouts.placements
            placed = None if fixed else view_placement(moving[0], placed, shape)
        return views, shared

    def _dense(self, value: Value) -> Placement:
        """How a value would lie in memory of its own, which it does not get."""
        type = self.graph.type(value)
        shape = tuple(int(dim) for dim in type.shape)  # type: ignore[arg-type]
        return Placement(-1, stored(type.dtype, self.mode), shape, dense_strides(shape, self._order(value)))

    def _fresh(self, value: Value) -> Placement:
        type = self.graph.type(value)
        return self._own_block(value, "arena", stored(type.dtype, self.mode), self._order(value))

    def _order(self, value: Value) -> tuple[int, ...]:
        """Channels-last for what convolutions and their kin make; elementwise results lie like their first operand of
        the same shape; anything else in plain order."""
        node = self.graph.producer(value)
        rank = self.graph.type(value).rank
        if node.op in ("MatMul", "MatMulInteger", "Gemm"):
            return tuple(range(rank))
        if node.kind in (Kind.ELEMENTWISE, Kind.REDUCTION, Kind.VIEW, Kind.MOVEMENT):
            region = self.fused.regions[node.region] if node.region is not None else None
            nodes = region.nodes if region else (node.id,)
            for id in nodes:
                for operand in self.graph.inputs(id):
                    placed = self.layouts.placements.get(operand)
                    if placed and len(placed.shape) == rank and self._is_activation(operand, placed):
                        return order_of(placed)
        return channels_last(rank)

    def _is_activation(self, operand: Value, placed: Placement) -> bool:
        inside = not self.layouts.blocks[placed.block].buffer.startswith("input")
        return inside and sum(extent > 1 for extent in placed.shape) > 1

    def _view(self, region: Region) -> Placement | None:
        """The result of a view operator as strides over its operand, where strides can express it."""
        node = self.graph.node(region.output.node)
        source = self.layouts.placements.get(self.graph.inputs(node)[0])
        if source is None:
            return None
        shape = tuple(int(dim) for dim in node.outputs[0].shape)  # type: ignore[arg-type]
        placed = view_placement(node, source, shape)
        if placed is not None or node.op != "Reshape" or not self.switches.on(shuffles.READER_RULE):
            return placed
        placed = shuffles.read_through(self.fused, region.output, source)
        if placed is not None:
            self.layouts.read_through |= {node.id}
        return placed


def order_of(placement: Placement) -> tuple[int, ...]:
    """Logical dimensions from the largest stride to the smallest; equal and unit ones in logical order."""
    axes = range(len(placement.shape))
    return tuple(sorted(axes, key=lambda axis: (-abs(placement.strides[axis]), axis)))


def view_placement(node: Node, source: Placement, shape: tuple[int, ...]) -> Placement | None:
    """Where the result of a view operator lies, given its operand; None where only a copy can do it."""
    attributes = node.attributes
    offset, strides = source.offset, source.strides
    if source.parts:
        return None
    if node.op == "Transpose":
        strides = tuple(source.strides[axis] for axis in attributes["perm"])
    elif node.op == "Slice":
        starts_and_strides = zip(attributes["starts"], source.strides, strict=True)
        offset += sum(int(start) * stride for start, stride in starts_and_strides)
        strides = tuple(s * int(step) for s, step in zip(source.strides, attributes["steps"], strict=True))
    elif node.op == "Expand":
        lead = len(shape) - len(source.shape)
        pairs = zip(source.shape, source.strides, shape[lead:], strict=True)
        strides = (0,) * lead + tuple(0 if extent != target else s for extent, s, target in pairs)
    elif node.op == "Reshape":
        reshaped = reshape_strides(source.shape, source.strides, shape)
        if reshaped is None:
            return None
        strides = reshaped
    else:
        return None
    return Placement(source.block, source.dtype, shape, strides, offset)


def place(fused: FusedGraph, mode: str, switches: Switches, policy: Policy) -> Layouts:
    """Placements of every graph input, output and region result, for a numeric mode (fp32, tf32, fp16, bf16). policy:
    decides which tensors lie between zeros."""
    return _Placer(fused, mode, switches, policy).run()
