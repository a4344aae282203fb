"""Zero borders: a tensor that padded convolutions read lies in memory between zeros.

A position outside the image is then an address like any other, and the main loop of the convolution needs no masks.
Neighbours share their borders (`convc.ir.plan.Border`), and the kernel that makes the tensor writes the zeros too,
every time, so that nothing has to be prepared and the memory can be reused.

With T tiles of the reading and of the writing kernels, s steps of a main loop, and Z pixels of zeros with C channels
of e bytes, it

- saves T_read · s · `MASK_INSTRUCTIONS` on each warp of the readers, which four schedulers a multiprocessor share;
- costs T_write · `ADDRESS_INSTRUCTIONS` on each warp of the writer, whose pixels no longer follow one another evenly,
  and e·C·Z bytes, written once and read by every reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..ir import DType, Graph, Kind, Node, Value
from ..ir.plan import Border, Decline, FusedGraph, Region
from ..ir.problem import Tap
from ..targets import GPUS, Target
from .chains import extents
from .choice import Choice, Policy

RULE = "zero-borders"
LEAST_CHANNELS = 32
"""Fewest channels of a tensor with a border: a guess, not measured."""
VECTOR_BYTES = 16
"""Channels of a pixel fill whole vectors of a load, and rows of a tensor map."""
MASK_INSTRUCTIONS = 48
"""On each warp in a step of the main loop with 128 rows, counted in compiled loops: 165 become 117 with 128 columns,
159 become 111 with 64."""
ADDRESS_INSTRUCTIONS = 200
"""On each warp that stores a tile: dividing the row of each of its elements into image, line and column."""
_TILE_ROWS, _TILE_COLS, _TILE_DEPTH, _WARPS = 128, 128, 64, 4
"""The tile that the costs are counted for."""
_WRITERS = ("Conv", "MaxPool", "AveragePool")


def planned(fused: FusedGraph, region: Region, value: Value, dtype: DType, policy: Policy) -> Border | Decline | None:
    """The border of a result of a region, stored as ``dtype``, or why it has none; None where nobody needs one.

    The value must lie channels-last in memory of its own.
    """
    readers = _padded_readers(fused, value)
    if not readers:
        return None
    graph = fused.graph
    border = _around(graph, value, readers)
    reason = _unfit(graph, region, value, dtype) or _refusal(graph, border, readers, dtype, policy)
    return border if reason is None else Decline(RULE, value.node, readers[0].id, reason)


def declined(fused: FusedGraph, value: Value, reason: str) -> Decline | None:
    """Why a value has no border, for its first reader that needs one; None where nobody does."""
    readers = _padded_readers(fused, value)
    return Decline(RULE, value.node, readers[0].id, reason) if readers else None


def covers(border: Border, axis: int, tap: Tap, outputs: int) -> bool:
    """Whether a window that takes ``outputs`` places along a spatial axis (0: lines, 1: columns) stays within the
    border."""
    zeros = (border.lines, border.columns)[axis]
    return tap.beyond(outputs) <= zeros


def _padded_readers(fused: FusedGraph, value: Value) -> list[Node]:
    """Convolutions that read a value with zeros around it and take it as it is from memory: a side of a product."""
    graph = fused.graph
    if len(graph.type(value).shape) != 4:
        return []
    found = []
    for use in graph.users(value):
        node = graph.node(use.node)
        if node.op == "Conv" and use.position == 0 and node.attributes["groups"] == 1 and max(_reach(graph, node)) > 0:
            region = fused.regions[node.region] if node.region is not None else None
            if region is not None and _multiplies(region, node):
                found.append(node)
    return found


def _multiplies(region: Region, node: Node) -> bool:
    """Whether the kernel of a region makes products of what it loads for a convolution, as it is: for its anchor, or
    for the one in front of it where two are computed back to back."""
    return node.id in (region.prologue or (region.anchor,))


def _reach(graph: Graph, conv: Node) -> tuple[int, int]:
    """Lines and columns outside the input that a convolution reads on either side: the larger number."""
    x, w = (extents(graph, value) for value in graph.inputs(conv)[:2])
    steps, pads, dilations = (conv.attributes[name] for name in ("strides", "pads", "dilations"))
    lines, columns = (
        Tap("", w[2 + axis], axis, steps[axis], pads[axis], dilations[axis], x[2 + axis], 0).beyond(places)
        for axis, places in enumerate(extents(graph, Value(conv.id))[2:])
    )
    return lines, columns


def _around(graph: Graph, value: Value, readers: Sequence[Node]) -> Border:
    reaches = [_reach(graph, reader) for reader in readers]
    images, channels, height, width = extents(graph, value)
    lines, columns = (max(reach[axis] for reach in reaches) for axis in (0, 1))
    return Border(images, height, width, lines, columns, channels)


def _unfit(graph: Graph, region: Region, value: Value, dtype: DType) -> str | None:
    """Why a tensor cannot have a border."""
    shape = extents(graph, value)
    if shape[1] < LEAST_CHANNELS or shape[1] * dtype.itemsize % VECTOR_BYTES:
        return f"{shape[1]} channels: a border is for {LEAST_CHANNELS} or more that fill {VECTOR_BYTES} bytes each"
    writer = graph.node(region.head)
    elementwise = region.anchor is None and writer.kind is Kind.ELEMENTWISE and writer.op != "Copy"
    if not elementwise and writer.op not in _WRITERS:
        return f"the kernel of {writer.op} writes no zeros around its result"
    if region.pool is not None:
        return "its kernel pools what it stores"
    views = [node.op for node in map(graph.node, (use.node for use in graph.users(value))) if node.kind is Kind.VIEW]
    return f"a {views[0]} reads it in its own order" if views else None


def _refusal(graph: Graph, border: Border, readers: Sequence[Node], dtype: DType, policy: Policy) -> str | None:
    slower = {gpu.name: -_gain_s(graph, border, readers, dtype, gpu) for gpu in GPUS}
    nodes = tuple(reader.id for reader in readers)
    why = "writing zeros around it and reading them, less the masks that they save,"
    choice = Choice(RULE, nodes, nodes[0], open=False, saved_launches=0, slower=slower, why=why)
    return policy.refusal(choice, graph)


def _gain_s(graph: Graph, border: Border, readers: Sequence[Node], dtype: DType, gpu: Target) -> float:
    """Seconds that a border saves; see the formula above."""
    instructions = -_tiles(border.images * border.inside, border.channels) * ADDRESS_INSTRUCTIONS
    for reader in readers:
        images, filters, *places = extents(graph, Value(reader.id))
        taps = math.prod(extents(graph, graph.inputs(reader)[1])[2:])
        steps = taps * math.ceil(border.channels / _TILE_DEPTH)
        instructions += _tiles(images * math.prod(places), filters) * steps * MASK_INSTRUCTIONS
    nbytes = (1 + len(readers)) * border.zeros * border.channels * dtype.itemsize
    return instructions * _WARPS / gpu.instructions_per_s - nbytes / gpu.dram_bytes_per_s


def _tiles(rows: int, cols: int) -> int:
    return math.ceil(rows / _TILE_ROWS) * math.ceil(cols / _TILE_COLS)
