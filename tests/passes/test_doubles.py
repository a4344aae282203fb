"""Doubles between 16-bit floats become fp32; those that anything else sees stay."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import Builder
from rewriting import declined

from convc.ir import DType, Graph, Value
from convc.passes.canonical.doubles import narrow_doubles
from convc.runtime.numpy_executor import GraphRunner


def normalised(b: Builder, x: Value, epsilon: float = 1e-6, out: DType = DType.FP16) -> Value:
    """x/√(mean(x²) + ε), in doubles."""
    wide = b.add("Cast", x, dtype=DType.FP64)
    squares = b.add("Pow", wide, b.constant(np.array(2.0)))
    mean = b.add("ReduceMean", squares, axes=(2,), keepdims=True)
    scale = b.add("Sqrt", b.add("Add", mean, b.constant(np.array(epsilon))))
    return b.add("Cast", b.add("Div", wide, scale), dtype=out)


def image(b: Builder, dtype: type = np.float16) -> Value:
    return b.input(np.random.default_rng(0).standard_normal((2, 3, 8)).astype(dtype))


def run(graph: Graph, b: Builder) -> np.ndarray:
    (found,) = GraphRunner(graph).run(b.inputs)
    return found


def test_doubles_between_halves_are_computed_in_fp32() -> None:
    b = Builder()
    b.output(b.add("Relu", normalised(b, image(b))))
    expected = run(b.graph.copy(), b)
    assert narrow_doubles(b.graph)
    b.graph.prune()
    types = {type.dtype for node in b.graph.nodes() for type in node.outputs}
    assert types == {DType.FP16, DType.FP32} and not narrow_doubles(b.graph)
    found = run(b.graph, b)
    assert found.dtype == np.float16
    # Both are within half a unit of the exact result, and fp32 may be on the other side of the middle.
    assert np.all(np.abs(found - expected) <= np.spacing(np.abs(expected)))


def test_doubles_of_others_stay() -> None:
    for dtype, out in ((np.float32, DType.FP16), (np.float16, DType.FP32), (np.float16, DType.FP64)):
        b = Builder()
        b.output(normalised(b, image(b, dtype), out=out))
        declined(b, narrow_doubles)
    b = Builder()
    b.output(b.add("Less", b.add("Cast", image(b), dtype=DType.FP64), b.constant(np.array(0.5))))
    declined(b, narrow_doubles)


@pytest.mark.parametrize("epsilon", [1e-60, 1e60])
def test_constants_that_fp32_does_not_have_keep_doubles(epsilon: float) -> None:
    b = Builder()
    b.output(normalised(b, image(b), epsilon))
    declined(b, narrow_doubles)
