"""The bound in the Euclidean norm: right runs stay within it, it follows the mode's rounding, wrong ones leave it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compiled import inputs_of, run
from small_networks import NETWORKS

from convc.analysis.bounds import relative_bounds
from convc.analysis.comparison import relative_error
from convc.api import plan
from convc.runtime.numpy_executor import GraphRunner

pytestmark = pytest.mark.usefixtures("interpreters")


@pytest.mark.parametrize("name", ["residual_block", "separable_block"])
def test_runs_stay_within_the_bound_of_their_mode(name: str) -> None:
    graph = NETWORKS[name]()
    inputs = inputs_of(graph, 1)
    (exact,) = GraphRunner(graph).run(inputs)
    bounds = {}
    for dtype in ("fp32", "fp16", "bf16"):
        (bounds[dtype],) = relative_bounds(plan(graph, "interpreter", dtype).graph, dtype, inputs).values()
        (found,) = run(graph, inputs, dtype=dtype).values()
        assert 0 < relative_error(exact, found) <= bounds[dtype] < 0.1
    assert bounds["fp32"] < bounds["fp16"] / 100 < bounds["bf16"] / 400
    (found,) = run(graph, inputs, dtype="fp16").values()
    assert relative_error(exact, 1.05 * found) > bounds["fp16"]


def test_relative_error() -> None:
    exact = np.array([3.0, 4.0], np.float32)
    assert relative_error(exact, exact) == 0.0
    assert relative_error(exact, np.array([3.0, 4.5], np.float32)) == pytest.approx(0.1)
    assert relative_error(exact, np.array([3.0, np.nan], np.float32)) == math.inf
    assert relative_error(np.array([1.0, np.nan]), np.array([1.0, np.nan])) == 0.0
    assert relative_error(np.array([1.0, np.inf]), np.array([1.0, -np.inf])) == math.inf
    assert relative_error(np.zeros(2), np.array([0.0, 0.5])) == 0.5
