"""Transposed convolutions as convolutions and depth-to-space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from convc import errors
from convc.analysis.verify import verify
from convc.frontends import dsl as nn
from convc.ir import Graph
from convc.passes import Switches
from convc.passes.canonical.transposed import expand_transposed
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.numpy_executor import GraphRunner


def transposed(extents: tuple[int, ...], dtype: str = "fp64", **options: Any) -> Graph:
    net = nn.Network("transposed", dtype=dtype)
    return net.output(net.input(4, *extents).conv_transpose(6, **options)).graph


def expanded(graph: Graph) -> Graph:
    result = graph.copy()
    assert expand_transposed(result)
    result.prune()
    return result


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Extents and options of a layer of any rank, padding, output padding and dilation beyond what exporters write."""
    rank = draw(st.integers(1, 3))

    def each(least: int, most: int, count: int = rank) -> tuple[int, ...]:
        return draw(st.tuples(*[st.integers(least, most)] * count))

    options = {"kernel": each(1, 5), "stride": each(1, 4), "dilation": each(1, 3), "padding": each(0, 3, 2 * rank)}
    return each(1, 5), {**options, "output_padding": each(0, 3), "groups": draw(st.sampled_from([1, 2]))}


@given(windows())
@settings(max_examples=60, deadline=None)
def test_the_same_values(case: tuple[tuple[int, ...], dict[str, Any]]) -> None:
    """In fp64, so that only the order of the sums differs."""
    extents, options = case
    try:
        graph = transposed(extents, **options)
    except errors.ShapeError:
        assume(False)
    rewritten = graph.copy()
    assume(expand_transposed(rewritten))
    rewritten.prune()
    assert not list(rewritten.of_kind("ConvTranspose"))
    x = np.random.default_rng(0).standard_normal((1, 4, *extents))
    expected, found = (GraphRunner(each).run({"input": x})[0] for each in (graph, rewritten))
    taps = 4 * np.prod(options["kernel"])
    assert np.abs(found - expected).max(initial=0) <= 2 * taps * 2.0**-53 * np.abs(x).sum()


def test_one_convolution_and_one_block_of_pixels_each() -> None:
    """2x2 with stride 2, as U-Net has it: four 1x1 filters for one, and nothing is cut off."""
    graph = expanded(transposed((5, 7), kernel=2, stride=2))
    assert [node.op for node in graph.nodes() if node.op not in ("Constant", "Input", "Output")] == [
        *("Conv", "Reshape", "Transpose", "Reshape"),
    ]
    (conv,) = graph.of_kind("Conv")
    assert graph.type(graph.inputs(conv)[1]).shape == (24, 4, 1, 1)
    assert conv.attributes["pads"] == (0, 0, 0, 0)


def test_stride_one_is_a_convolution_with_turned_filters() -> None:
    graph = expanded(transposed((5, 7), kernel=3, padding=1, dilation=2))
    (conv,) = graph.of_kind("Conv")
    assert conv.attributes["dilations"] == (2, 2) and conv.attributes["pads"] == (3, 3, 3, 3)
    assert not list(graph.of_kind("Reshape", "Slice"))


def test_origins_stay() -> None:
    graph = expanded(transposed((5, 7), kernel=3, stride=2))
    named = [node.origins for node in graph.nodes() if node.op not in ("Constant", "Input", "Output")]
    assert set(named) == {("conv_transpose1",)}


def test_filters_from_the_run_are_left_alone() -> None:
    net = nn.Network("computed")
    x, w = net.input(4, 5, 5), net.input(6, 2, 2, batch=4, name="w")
    attributes = {"strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1), "output_padding": (0, 0)}
    net.output(net.add("ConvTranspose", [x.value, w.value], attributes, name="up"))
    assert not expand_transposed(net.graph)
    with pytest.raises(errors.UnsupportedModelError, match=r"ConvTranspose.*'up'"):
        make_plan(net.graph, Options(("sm_90",), "fp16", switches=Switches(disable=("host-steps",))))


def test_what_reads_padding_alone_is_left_alone() -> None:
    assert not expand_transposed(transposed((1,), kernel=5, stride=4, padding=(8, 0), output_padding=5))


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel": 2, "stride": 2},
        {"kernel": 4, "stride": 2, "padding": 1, "groups": 2, "bias": False},
        {"kernel": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel": 3, "stride": (1, 3), "dilation": 2},
    ],
)
def test_kernels(options: dict[str, Any], dtype: str, interpreters: None) -> None:
    net = nn.Network("kernels")
    x = net.input(4, 6, 5).conv(4, 3, padding=1).relu()
    net.output(x.conv_transpose(6, **options).batch_norm().relu())
    checked = verify(net, "interpreter", dtype)
    assert checked.ok, checked.outputs


def test_what_follows_is_fused_into_the_convolution() -> None:
    """Up-convolution, batch-norm and ReLU in front of another layer: no kernel of their own for moving pixels."""
    net = nn.Network("up")
    x = net.input(16, 8, 8).conv(16, 3, padding=1).relu()
    net.output(x.conv_transpose(8, 2, 2, bias=False).batch_norm().relu().conv(4, 1))
    plan = make_plan(net.graph, Options(("sm_90",), "fp16"))
    layers = {name for launch in plan.programs[0].launches for name in plan.origins(launch)}
    assert {"conv1", "conv_transpose1", "batch_norm1", "conv2"} <= layers
    assert len(plan.programs[0].launches) == 2
