"""The bound of outputs whose size values decide: draws that change it do not count; without others there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from convc.analysis import bounds
from convc.analysis.comparison import NO_BOUND, compare
from convc.analysis.render import verified
from convc.api import graph_of

THRESHOLD = 0.5
COUNT = 64


def picked() -> ModelProto:
    """The values of at least a threshold, and all of them times three."""
    nodes = [
        helper.make_node("GreaterOrEqual", ["x", "threshold"], ["inside"]),
        helper.make_node("NonZero", ["inside"], ["where"]),
        helper.make_node("Gather", ["x", "where"], ["picked"]),
        helper.make_node("Mul", ["x", "three"], ["tripled"]),
    ]
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [COUNT]), ("picked", None), ("tripled", [COUNT]))
    ]
    numbers = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in (("threshold", THRESHOLD), ("three", 3.0))]
    graph = helper.make_graph(nodes, "picked", infos[:1], infos[1:], numbers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def values(at_the_threshold: int) -> np.ndarray:
    x = np.where(np.arange(COUNT) % 2 == 0, THRESHOLD / 2, 2 * THRESHOLD).astype(np.float32)
    x[:at_the_threshold] = THRESHOLD
    return x


@pytest.mark.parametrize("norm", [bounds.output_bounds, bounds.relative_bounds])
def test_draws_that_change_the_size_do_not_count(norm) -> None:
    graph = graph_of(picked())
    for count in (0, 1, 2):
        found = norm(graph, "fp16", {"x": values(count)})
        unit = bounds.SAFETY * bounds.UNITS["fp16"]
        assert unit / 8 < found["picked"] <= 4 * unit and found["tripled"] > 0


@pytest.mark.parametrize("norm", [bounds.output_bounds, bounds.relative_bounds])
def test_no_bound(norm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each draw gives another size; other outputs have their bound, and the draws have an end."""
    runs = []
    run = bounds._perturbed_run
    monkeypatch.setattr(bounds, "_perturbed_run", lambda *given: runs.append(given) or run(*given))
    found = norm(graph_of(picked()), "fp16", {"x": values(COUNT)})
    assert math.isnan(found["picked"]) and 0 < found["tripled"] < 1
    assert len(runs) == bounds.TRIES * bounds.DRAWS


def test_an_output_without_a_bound_is_what_is_expected_or_not_ok() -> None:
    exact = values(0)
    assert compare("y", exact, exact, math.nan).ok
    check = compare("y", exact + np.float32(1e-6), exact, math.nan)
    assert not check.ok and check.reason == NO_BOUND
    other = compare("y", exact[1:], exact, 1.0)
    assert not other.ok and other.reason == "found float32[63], expected float32[64]"
    report = {"outputs": [vars(check)], "device": "numpy", "dtype": "fp16"}
    row, reason, verdict = verified(report).splitlines()[-3:]
    assert "FAILED" in row and " none " in row and reason == f"y: {NO_BOUND}" and "DEPARTS" in verdict
