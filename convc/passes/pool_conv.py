"""Pooling that the 1x1 convolutions behind it compute while they load their operand, and when that pays.

Each of R readers pools for itself, and each tile of its columns (at most `COLUMNS` filters) pools again; the pooled
tensor is never in memory. It is taken from memory for all readers or for none: one that had to read it would leave it
there. With Y elements of the pooled tensor, X of its input, a window of R·S, and T = Σ ⌈K / COLUMNS⌉ column tiles of
all readers, fusion

- saves e·((1 + R)·Y − (R − 1)·X) bytes of memory, e = 2 bytes an element: the pooled tensor is neither written nor
  read, its input is read by every reader instead of once; and one launch;
- costs (T − 1)·Y·R·S operations on ordinary units, and (T − R)·e·X bytes from L2.

The policy weighs both sides (`convc.passes.choice`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir import Graph, Node, Value
from .chains import behind, belongs, elements, extents, unfit_chain, unfit_product
from .choice import ELEMENT_BYTES, Choice
from .separable import COLUMNS

RULE = "pool-conv"
POOLS = ("MaxPool", "AveragePool")


def propose(graph: Graph, conv: Node, taken: Mapping[int, int]) -> Choice | str | None:
    """The pooling and the elementwise operators that ``conv`` can compute itself, with all others that read the pooled
    tensor, or why not.

    None where no pooling leads to ``conv``, and where its pooling is settled already.
    """
    if conv.op != "Conv":
        return None
    chain, sources = behind(graph, conv)
    pools = [value for value in sources if graph.producer(value).op in POOLS]
    if not pools or taken.get(pools[0].node) == conv.id:
        return None
    pool = graph.producer(pools[0])
    nodes = [pool.id, *chain]
    readers = _readers(graph, nodes)
    reason = (
        unfit_product(graph, conv)
        or unfit_chain(graph, chain, pools[0], sources)
        or belongs([*nodes, *readers], taken)
        or _unfit_readers(graph, conv, chain, readers)
    )
    return reason or _choice(graph, pool, nodes, [conv.id, *(id for id in readers if id != conv.id)])


def _readers(graph: Graph, nodes: list[int]) -> list[int]:
    """Whatever reads what these nodes make, themselves left out."""
    return sorted({use.node for id in nodes for use in graph.users(Value(id))} - set(nodes))


def _unfit_readers(graph: Graph, conv: Node, chain: list[int], readers: list[int]) -> str | None:
    """Whether something reads the pooled tensor, or what is made of it, that cannot compute it."""
    for id in readers:
        reader = graph.node(id)
        if reader.op == "Output":
            return "it is a graph output"
        alike = reader.op == "Conv" and behind(graph, reader)[0] == chain and unfit_product(graph, reader) is None
        if id != conv.id and not alike:
            return f"{reader.op} reads the pooled tensor too, and has to find it in memory"
    return None


def _choice(graph: Graph, pool: Node, nodes: list[int], readers: list[int]) -> Choice:
    """Savings and costs of fusing; see the formulas above."""
    pooled, taps = elements(graph, Value(pool.id)), math.prod(pool.attributes["kernel_shape"])
    read = min(elements(graph, graph.inputs(pool)[0]), taps * pooled)
    filters = [extents(graph, Value(reader))[1] for reader in readers]
    tiles = sum(math.ceil(count / COLUMNS) for count in filters)
    return Choice(
        RULE,
        (*nodes, readers[0]),
        readers[0],
        tuple(nodes),
        saved_bytes=ELEMENT_BYTES * ((1 + len(readers)) * pooled - (len(readers) - 1) * read),
        unit_macs=(tiles - 1) * pooled * taps,
        again_bytes=ELEMENT_BYTES * (tiles - len(readers)) * read,
        why=f"pooling again for every reader and every {COLUMNS} filters",
        sharers=tuple(readers[1:]),
    )
