"""Global pooling behind a convolution or an elementwise chain, in the same kernel.

Every program reduces its tile over the rows, which are pixels of one image, and the last program of an image adds up
what the others left (`convc.codegen.global_pool`). What is pooled is stored only if something else reads it: at the end
of a network nothing does; in a squeeze-and-excitation block the gated product does, and the kernel has two results.
With e = 2 bytes an element, N images of P·Q pixels and K channels, fusion

- saves e·N·K·P·Q bytes (the pooling need not read its operand; twice that where nobody else does) and one launch;
- costs, with tiles of R = 64 pixels for images up to that size and R = 128 for larger ones, 8·N·K·⌈P·Q / R⌉ bytes from
  L2, the partial sums, where an image is more than one tile; and for a dense convolution the multiply-adds of pixels
  that do not exist, R·(N·⌈P·Q / R⌉ − ⌈N·P·Q / R⌉) rows of tiles that one image does not fill.

The pooling reads nothing but what the kernel computes, so that no other kernel lies between the two: taking it in
can never make kernels wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir import Graph, Kind, Node, Value
from .chains import elements, extents, is_depthwise
from .choice import ELEMENT_BYTES, Choice

RULE = "global-pool-epilogue"
REDUCTIONS = {"ReduceMean": "mean", "ReduceMax": "max", "AveragePool": "mean", "MaxPool": "max"}
"""Operator → mode of `convc.ir.problem.GlobalPool`."""
SMALL_IMAGE = 64
"""Pixels up to which costs are estimated for tiles of so many rows, and beyond which for tiles of twice as many."""


def pooling_mode(node: Node) -> str:
    """What a global pooling computes: ``mean`` or ``max``."""
    return REDUCTIONS[node.op]


def propose(graph: Graph, pool: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The kernel that a global pooling can end, or why there is none.

    None for anything but a global pooling, and behind operators that are neither convolutions nor elementwise. taken:
    the nodes of all kernels, with their seeds; the pooling has a kernel of its own.
    """
    if not is_global_pool(graph, pool):
        return None
    (y,) = graph.inputs(pool)
    seed = taken.get(y.node)
    if seed is None or not _is_anchor(graph.node(seed)):
        return None
    nodes = [id for id, owner in taken.items() if owner == seed]
    reason = _unfit(graph, pool, y, nodes)
    if reason is None and [id for id, owner in taken.items() if owner == taken[pool.id]] != [pool.id]:
        reason = "operators behind the pooling are computed with it"
    return reason or _choice(graph, pool, y, seed, nodes)


def is_global_pool(graph: Graph, node: Node) -> bool:
    """Whether a node takes the mean or the maximum of every channel over all its pixels."""
    if node.op not in REDUCTIONS:
        return False
    type = graph.type(graph.inputs(node)[0])
    if type.rank < 3 or not type.is_static or 0 in type.shape:
        return False
    if node.kind is Kind.REDUCTION:
        return bool(node.attributes["axes"] == tuple(range(2, type.rank)))
    attributes = node.attributes
    whole = tuple(attributes["kernel_shape"]) == tuple(type.shape[2:])
    return whole and not any(attributes["pads"]) and all(step == 1 for step in attributes["dilations"])


def _is_anchor(node: Node) -> bool:
    return node.op == "Conv" or (node.kind is Kind.ELEMENTWISE and node.op != "Copy")


def _unfit(graph: Graph, pool: Node, y: Value, nodes: list[int]) -> str | None:
    if graph.producer(y).kind is Kind.WINDOW:
        return "the kernel ends in another pooling"
    dense = [id for id in nodes if graph.node(id).op == "Conv" and graph.node(id).attributes["groups"] == 1]
    if len(dense) > 1 and not any(is_depthwise(graph, graph.node(id)) for id in nodes):
        return "the kernel computes two convolutions one after the other"
    if any(is_global_pool(graph, graph.node(id)) for id in nodes):
        return "the kernel computes another global pooling already"
    dtype = graph.type(y).dtype
    return None if dtype.is_float else f"its operand is {dtype}"


def _choice(graph: Graph, pool: Node, y: Value, seed: int, nodes: list[int]) -> Choice:
    """Savings and costs of fusing; see the formulas above."""
    batch, channels, *spatial = extents(graph, y)
    pixels, alone = math.prod(spatial), len(graph.users(y)) == 1
    rows = SMALL_IMAGE if pixels <= SMALL_IMAGE else 2 * SMALL_IMAGE
    tiles = math.ceil(pixels / rows)
    empty = (batch * tiles - math.ceil(batch * pixels / rows)) * rows
    return Choice(
        RULE,
        (*nodes, pool.id),
        seed,
        saved_bytes=(2 if alone else 1) * ELEMENT_BYTES * batch * channels * pixels,
        tensor_macs=empty * channels * _depth(graph, seed),
        again_bytes=8 * batch * channels * tiles if tiles > 1 else 0,
        why="filling tiles with pixels of one image only",
        pool=pool.id,
    )


def _depth(graph: Graph, seed: int) -> int:
    """Multiply-adds for each element of a convolution's result; 0 for a depthwise or an elementwise one."""
    if graph.node(seed).op != "Conv":
        return 0
    w = graph.inputs(seed)[1]
    size = elements(graph, w) // extents(graph, w)[0]
    return 0 if graph.type(w).shape[1] == 1 else size
