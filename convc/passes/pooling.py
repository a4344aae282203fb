"""Convolution, activation and pooling in one kernel, and when that pays.

The rows of a tile are ordered by their position in blocks of 2 x 2 pixels, so that windows of 2 x 2 with stride 2 are
taken between registers of one thread and nothing is computed twice. Windows of 3 x 3 with stride 2 reach into the next
blocks: tiles overlap by a block, and compute again what they share. With N images of P·Q pixels, pooled to P'·Q', K
filters and D multiply-adds a pixel and filter (a step of the main loop that channels and taps do not fill counts
whole), the least of the tiles of 4·a·b pixels (a, b powers of two, at most `LARGEST_TILE` pixels)

- costs N·K·D·(4·a·b·⌈P'/(a − 1)⌉·⌈Q'/(b − 1)⌉ − P·Q) multiply-adds on tensor cores;
- saves 2·e·N·K·P·Q bytes of memory (the convolution's result, written and read, e = 2 bytes an element) and a launch.

The policy weighs both sides (`convc.passes.choice`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir import Graph, Kind, Node, Value
from ..ir.pooled import blocks_of
from ..ir.problem import FLAT_DEPTH
from .chains import extents
from .choice import ELEMENT_BYTES, Choice
from .element_types import odd_types_in_fp32

RULE = "conv-pool"
LARGEST_TILE = 256
"""Most pixels of the convolution in a tile that is counted on for windows that overlap."""
STEP_DEPTH = 16
"""Elements that a step of the main loop is filled up to."""
SEPARATE, OVERLAPPING = (2, 2), (3, 3)


def propose(graph: Graph, pool: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The convolution and the elementwise nodes that a pooling can follow in one kernel, or why not.

    None where no convolution stands in front of it.
    """
    if pool.op not in ("MaxPool", "AveragePool"):
        return None
    chain: list[int] = []
    node = graph.producer(graph.inputs(pool)[0])
    while node.kind is Kind.ELEMENTWISE and node.op != "Copy":
        chain.append(node.id)
        node = _deepest(graph, node)
    if node.op != "Conv":
        return None
    chain.append(node.id)
    reason = _unfit(pool) or _unfit_convolution(graph, node, pool) or _shared(graph, chain, pool)
    odd = odd_types_in_fp32(graph, chain[:-1])
    if reason is None and odd:
        reason = f"its kernel cannot compute on {odd[0]}"
    if reason is None and (any(id in taken for id in chain) or node.id in taken.values()):
        reason = "the convolution already belongs to another kernel"
    return reason or _choice(graph, node, pool, chain[::-1])


def _deepest(graph: Graph, node: Node) -> Node:
    """The producer of the operand that a chain hangs on: the one that is computed, of the node's own shape."""
    sources = [value for value in graph.inputs(node) if graph.type(value).shape == node.outputs[0].shape]
    computed = [value for value in sources if graph.constant(value) is None]
    return graph.producer((computed or graph.inputs(node))[0])


def _unfit(pool: Node) -> str | None:
    attributes = pool.attributes
    kernel = attributes["kernel_shape"]
    if kernel not in (SEPARATE, OVERLAPPING) or attributes["strides"] != (2, 2):
        return "its windows are neither 2x2 nor 3x3 with stride 2"
    if any(dilation != 1 for dilation in attributes.get("dilations", ())):
        return "its windows are dilated"
    if pool.op == "AveragePool" and kernel == OVERLAPPING:
        return "means of overlapping windows are no maxima: it would compute the convolution again for each"
    if pool.op == "AveragePool" and (any(attributes["pads"]) or attributes["ceil_mode"]):
        return "its windows may reach past the convolution's result, and their mean is over what exists"
    return None


def _unfit_convolution(graph: Graph, conv: Node, pool: Node) -> str | None:
    x, w = graph.inputs(conv)[:2]
    if graph.type(Value(conv.id)).shape != graph.type(graph.inputs(pool)[0]).shape:
        return "the convolution's result is broadcast to a larger shape"
    if conv.attributes["groups"] > 1 and conv.attributes["groups"] == graph.type(x).shape[1]:
        return "the convolution is depthwise"
    return "the convolution's weights are not constant" if graph.constant(w) is None else None


def _shared(graph: Graph, chain: list[int], pool: Node) -> str | None:
    """Whether anything but the chain and the pooling reads what the chain computes."""
    inside = {*chain, pool.id}
    outside = any(use.node not in inside for id in chain for use in graph.users(Value(id)))
    return "the convolution's result is read elsewhere too" if outside else None


def _choice(graph: Graph, conv: Node, pool: Node, nodes: list[int]) -> Choice:
    """What fusing saves and costs; see the formulas above."""
    batch, filters, *pixels = extents(graph, Value(conv.id))
    places = extents(graph, Value(pool.id))[2:]
    again = 0
    if pool.attributes["kernel_shape"] == OVERLAPPING:
        tiles = (2**power for power in range(4, LARGEST_TILE.bit_length()))
        again = max(0, min(_tiled(places, tile) for tile in tiles) - math.prod(pixels))
    return Choice(
        RULE,
        (*nodes, pool.id),
        conv.id,
        open=False,
        saved_bytes=2 * ELEMENT_BYTES * batch * filters * math.prod(pixels),
        tensor_macs=batch * filters * again * _depth(graph, conv),
        why="computing what neighbouring tiles share in each of them",
    )


def _tiled(places: list[int], tile: int) -> int:
    """Pixels of the convolution that tiles of that many compute for overlapping windows."""
    counts = (math.ceil(extent / (blocks - 1)) for extent, blocks in zip(places, blocks_of(tile), strict=True))
    return tile * math.prod(counts)


def _depth(graph: Graph, conv: Node) -> int:
    """Multiply-adds for one pixel and filter, steps filled up."""
    _, channels, *kernel = extents(graph, graph.inputs(conv)[1])
    inner = channels * kernel[-1] if channels < FLAT_DEPTH else channels
    outer = math.prod(kernel[:-1]) if channels < FLAT_DEPTH else math.prod(kernel)
    return outer * STEP_DEPTH * math.ceil(inner / STEP_DEPTH)
