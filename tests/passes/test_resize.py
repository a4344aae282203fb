"""Resampling as matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.analysis.verify import verify
from convc.frontends import dsl as nn
from convc.ir import DType, Graph, TensorType
from convc.ir.ops.resize import MODES, ROUNDINGS, TRANSFORMATIONS
from convc.passes.canonical.resize import expand_resize
from convc.runtime.numpy_executor import GraphRunner

LINEAR = sorted(set(TRANSFORMATIONS) - {"tf_crop_and_resize"})


def resized(shape: tuple[int, ...], sizes: tuple[int, ...], dtype: DType = DType.FP64, **attributes: Any) -> Graph:
    graph = Graph("resized")
    x = graph.add_input("input", TensorType(dtype, shape))
    graph.add_output("output", graph.add("Resize", [x], {"sizes": sizes, **attributes}, origins=["up"]))
    return graph


def run(graph: Graph, x: np.ndarray) -> np.ndarray:
    return np.asarray(GraphRunner(graph).run({"input": x})[0])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_same_values(data: st.DataObject) -> None:
    """Every mode and transformation, any axes, in fp64: only the order of the sums differs."""
    shape, sizes = (tuple(data.draw(st.lists(st.integers(1, 6), min_size=4, max_size=4))) for _ in range(2))
    attributes = {
        "mode": data.draw(st.sampled_from(MODES)),
        "transformation": data.draw(st.sampled_from(LINEAR)),
        "rounding": data.draw(st.sampled_from(sorted(ROUNDINGS))),
        "antialias": data.draw(st.booleans()),
        "exclude_outside": data.draw(st.booleans()),
    }
    graph = resized(shape, sizes, **attributes)
    rewritten = graph.copy()
    assert expand_resize(rewritten)
    rewritten.prune()
    assert not list(rewritten.of_kind("Resize"))
    x = np.random.default_rng(0).standard_normal(shape)
    found, expected = run(rewritten, x), run(graph, x)
    # Weights of an axis add up to at most 2.4 in magnitude (cubic, a = -0.75: 1.375); four axes.
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 100 * 2.0**-53 * 2.4**4 * np.abs(x).max()


def test_scales_that_sizes_were_rounded_from_are_kept() -> None:
    graph = resized((1, 1, 1, 5), (1, 1, 1, 7), scales=(1.0, 1.0, 1.0, 1.5), mode="linear", transformation="asymmetric")
    rewritten = graph.copy()
    assert expand_resize(rewritten)
    x = np.arange(5.0).reshape(1, 1, 1, 5)
    assert np.allclose(run(rewritten, x), run(graph, x), rtol=0, atol=2.0**-48)
    assert run(rewritten, x)[0, 0, 0, 1] == pytest.approx(1 / 1.5)


def test_axes_that_stay_cost_nothing() -> None:
    graph = resized((1, 3, 4, 6), (1, 3, 4, 9))
    assert expand_resize(graph)
    assert [node.op for node in graph.nodes()] == ["Input", "Constant", "MatMul", "Output"]
    (product,) = graph.of_kind("MatMul")
    assert product.origins == ("up",) and graph.graph_outputs[0].outputs[0].shape == (1, 3, 4, 9)


def test_what_is_no_matrix_product_is_left_alone() -> None:
    crop = (0.0,) * 4 + (1.0, 1.0, 1.5, 1.0)
    cropped = resized((1, 1, 4, 4), (1, 1, 3, 3), transformation="tf_crop_and_resize", crop=crop)
    assert not expand_resize(cropped)
    assert not expand_resize(resized((1, 1, 4, 4), (1, 1, 3, 3), DType.INT32))
    assert not expand_resize(resized((1, 1, 1, 5000), (1, 1, 1, 10_000)))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((12, 10), {}),
        ((9, 4), {"transformation": "align_corners"}),
        ((4, 13), {"mode": "nearest", "transformation": "asymmetric"}),
    ],
)
def test_kernels(sizes: tuple[int, int], options: dict[str, str], dtype: str, interpreters: None) -> None:
    net = nn.Network("kernels")
    x = net.input(4, 6, 5).conv(4, 3, padding=1).relu()
    net.output(x.resize(*sizes, **options).conv(3, 3))
    checked = verify(net, "interpreter", dtype)
    assert checked.ok, checked.outputs
