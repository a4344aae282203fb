"""What tests of rewrites share: a rewrite must fire and keep the results, or leave the graph as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from compiled import Builder, evaluate

from convc.ir import Graph, Value

Rewrite = Callable[[Graph], bool]
RANDOM = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def applied(b: Builder, rewrite: Rewrite) -> Counter[str]:
    """Operators after a rewrite that must fire and keep the results: weights are rounded to fp32 once (the bound)."""
    expected = evaluate(b.graph, b.inputs)
    assert rewrite(b.graph)
    b.graph.prune()
    found = evaluate(b.graph, b.inputs)
    for name, array in expected.items():
        scale = np.abs(array).max(initial=0) + 1
        np.testing.assert_allclose(found[name], array, rtol=0, atol=64 * 2.0**-24 * scale)
    return operators(b.graph)


def declined(b: Builder, rewrite: Rewrite) -> None:
    b.graph.prune()
    before = b.graph.copy()
    assert not rewrite(b.graph)
    b.graph.prune()
    assert b.graph == before


def operators(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes() if node.op not in ("Input", "Output", "Constant"))


def image(b: Builder, channels: int = 4, size: int = 6) -> Value:
    return b.input(normal(2, channels, size, size))
