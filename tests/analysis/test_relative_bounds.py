"""The bound in the Euclidean norm: right runs stay within it, it follows the mode's rounding, wrong ones leave it."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from compiled import inputs_of, run
from small_networks import NETWORKS

from convc.analysis.bounds import UNITS, relative_bounds
from convc.analysis.comparison import compare, relative_error
from convc.api import plan
from convc.runtime.numpy_executor import GraphRunner

pytestmark = pytest.mark.usefixtures("interpreters")
MODES = ("fp32", "fp16", "bf16")
"""From the finest on."""


@pytest.mark.parametrize("name", ["residual_block", "separable_block"])
def test_runs_stay_within_the_bound_of_their_mode(name: str) -> None:
    graph = NETWORKS[name]()
    inputs = inputs_of(graph, 1)
    (exact,) = GraphRunner(graph).run(inputs)
    bounds, errors = {}, {}
    for dtype in MODES:
        (bounds[dtype],) = relative_bounds(plan(graph, "interpreter", dtype).graph, dtype, inputs).values()
        (found,) = run(graph, inputs, dtype=dtype).values()
        errors[dtype] = relative_error(exact, found)
        assert 0 < errors[dtype] <= bounds[dtype]
    for finer, coarser in combinations(MODES, 2):
        assert errors[coarser] > bounds[finer], "what rounds more than the mode does leaves its bound"


@pytest.mark.parametrize("name", ["residual_block", "separable_block"])
def test_bounds_are_in_proportion_to_the_unit_roundoff(name: str) -> None:
    """Within the scatter of a maximum between draws, which `SAFETY` counts twice; in fp32 the rounding of sums, of the
    same size as that of what is stored, comes on top."""
    graph = NETWORKS[name]()
    inputs = inputs_of(graph, 1)
    units = {
        dtype: max(relative_bounds(plan(graph, "interpreter", dtype).graph, dtype, inputs).values()) / UNITS[dtype]
        for dtype in MODES
    }
    assert units["bf16"] / 2 <= units["fp16"] <= 2 * units["bf16"]
    assert units["fp32"] >= units["fp16"] / 2


def test_relative_error() -> None:
    exact = np.array([3.0, 4.0], np.float32)
    assert relative_error(exact, exact) == 0.0
    assert relative_error(exact, np.array([3.0, 4.5], np.float32)) == pytest.approx(0.1)
    assert relative_error(exact, np.array([3.0, np.nan], np.float32)) == math.inf
    assert relative_error(np.array([1.0, np.nan]), np.array([1.0, np.nan])) == 0.0
    assert relative_error(np.array([1.0, np.inf]), np.array([1.0, -np.inf])) == math.inf
    assert relative_error(np.zeros(2), np.array([0.0, 0.5])) == 0.5


def test_a_comparison_tells_the_same_error() -> None:
    """Infinite where NaN stands in one of them alone, however near the rest is."""
    exact = np.array([3.0, 4.0], np.float32)
    assert compare("y", np.array([3.0, 4.5], np.float32), exact, 1.0).rel_l2 == pytest.approx(0.1)
    for wrong in (
        compare("y", np.array([3.0, np.nan], np.float32), exact, np.inf),
        compare("y", exact, np.array([3.0, np.nan], np.float32), np.inf),
    ):
        assert not wrong.ok and wrong.rel_l2 == math.inf
