"""Softmax behind a matrix product or a convolution, in the same kernel, where one tile holds whole rows.

The rows of a classifier's last product are its classes. With at most `COLUMNS` of them, every program has all that the
largest element and the sum of exponentials need, in registers. Fusion saves a launch and 2·e·R·K bytes for R rows of K
columns (e = 2 bytes an element), and costs nothing but a freer choice of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir import Graph, Kind, Node, Value
from .chains import elements
from .choice import ELEMENT_BYTES, Choice

RULE = "softmax-epilogue"
MODES = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}
"""Operator → ``normalise`` of `convc.ir.problem.Contraction`."""
COLUMNS = 256
"""Most columns of a tile."""


def propose(graph: Graph, softmax: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The kernel that a softmax can end, or why there is none; None where no product leads to it.

    taken: the nodes of all kernels, with their seeds; the softmax has a kernel of its own.
    """
    if softmax.op not in MODES:
        return None
    (y,) = graph.inputs(softmax)
    seed = taken.get(y.node)
    if seed is None or graph.node(seed).op not in ("Conv", "MatMul", "Gemm"):
        return None
    nodes = [id for id, owner in taken.items() if owner == seed]
    reason = _unfit(graph, graph.node(seed), softmax, nodes)
    if reason is None and [id for id, owner in taken.items() if owner == taken[softmax.id]] != [softmax.id]:
        reason = "operators behind the softmax are computed with it"
    saved = 2 * ELEMENT_BYTES * elements(graph, y) if graph.type(y).is_static else 0
    return reason or Choice(RULE, (*nodes, softmax.id), seed, saved_bytes=saved)


def _unfit(graph: Graph, anchor: Node, softmax: Node, nodes: list[int]) -> str | None:
    (y,) = graph.inputs(softmax)
    type = graph.type(y)
    if any(use.node != softmax.id for use in graph.users(y)):
        return "the product is read elsewhere too"
    if not type.is_static:
        return "its shape is not known"
    columns = 1 if anchor.op == "Conv" else type.rank - 1
    matrices = anchor.op == "Conv" or all(graph.type(value).rank > 1 for value in graph.inputs(anchor)[:2])
    if softmax.attributes["axis"] != columns or not matrices:
        return "it is not along the product's columns"
    if anchor.op == "Conv" and anchor.attributes["groups"] > 1:
        return "the convolution is grouped: its columns are in several tiles"
    if int(type.shape[columns]) > COLUMNS:  # type: ignore[arg-type]
        return f"a row of {type.shape[columns]} columns does not fit a tile of {COLUMNS}"
    others = [graph.node(id) for id in nodes if id != anchor.id]
    if any(node.kind is not Kind.ELEMENTWISE for node in others):
        return "the kernel computes windows or another product too"
    return None


def ends_in_softmax(graph: Graph, output: Value) -> str:
    """The mode of the softmax that makes a value; empty where none does."""
    return MODES.get(graph.producer(output).op, "")
