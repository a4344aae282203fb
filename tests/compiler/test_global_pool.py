"""Global pooling at the end of the kernel in front of it: numbers, two results, reasons to decline, machine code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiled import Builder, evaluate, integers, run, same
from global_pools import ANCHORS, BLOCK, anchored, block, gated, mean, pooled, squeeze_and_excitation
from hypothesis import strategies as st
from rule_checks import (
    in_every_mode,
    kernel_checks,
    plan_apart,
    same_without,
)
from small_networks import weights

from convc.analysis.explain import explain
from convc.codegen.emit import EmittedKernel, emit
from convc.ir import Value
from convc.ir.plan import Tile
from convc.passes import tiling
from convc.passes.global_pool import RULE
from convc.passes.traffic import traffic


# -- numbers ----------------------------------------------------------------------------------------------------------
@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "shape": (draw(st.integers(1, 3)), draw(st.sampled_from([4, 20])), *draw(st.sampled_from([(2, 4), (4, 8)]))),
        "anchor": draw(st.sampled_from(ANCHORS)),
        "step": draw(st.integers(1, 2)),
        "op": draw(st.sampled_from(["ReduceMean", "ReduceMean", "ReduceMax"])),
        "residual": draw(st.booleans()),
        "keepdims": draw(st.booleans()),
        "reader": draw(st.sampled_from(["", "gate", "output"])),
        "inside": draw(st.booleans()),
    }


@in_every_mode(cases(), examples=10)
def test_computes_what_the_operators_do(dtype: str, case: dict[str, Any]) -> None:
    b = block(case)
    assert len(pooled(plan_apart(b, dtype=dtype))) == 1
    same(same_without(b, RULE, dtype), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_odd_images_and_values(anchor: str, op: str) -> None:
    """5·7 pixels; normal deviates; within the roundings of a sum of 35 and of a quotient."""
    b = Builder()
    x = b.input(np.random.default_rng(3).standard_normal((2, 20, 5, 7)).astype(np.float32))
    y = anchored(b, x, anchor)
    b.output(gated(b, y, b.output(mean(b, y, op=op))))
    assert len(pooled(plan_apart(b))) == 1
    found, wanted = run(b.graph, b.inputs), evaluate(b.graph, b.inputs)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=2.0**-24 * 500 * 8)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
def test_infinities_and_nan_reach_their_channel_alone(op: str) -> None:
    b = Builder()
    x = integers(np.random.default_rng(0), (2, 4, 3, 3))
    x[0, 0, 1, 1], x[1, 1, 2, 2], x[0, 2] = np.nan, np.inf, -np.inf
    y = b.add("Neg", b.add("Abs", b.input(x))) if op == "ReduceMean" else b.add("Mul", b.input(x), b.constant([1.0]))
    b.output(mean(b, y, op=op))
    assert len(pooled(plan_apart(b))) == 1
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
def test_windows_as_large_as_the_image(op: str) -> None:
    b = Builder()
    y = anchored(b, b.input(weights(2, 20, 2, 4)), "conv1x1")
    window = {"kernel_shape": (2, 4), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": False}
    b.output(b.add(op, y, **window))
    assert len(pooled(plan_apart(b))) == 1
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(("op", "reader"), [("ReduceMean", ""), ("ReduceMax", "output")])
@pytest.mark.parametrize(("rows", "cols", "split"), [(16, 16, 1), (16, 32, 3), (64, 16, 2)])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_tiles_that_a_gpu_runs(
    monkeypatch: pytest.MonkeyPatch, anchor: str, rows: int, cols: int, split: int, op: str, reader: str
) -> None:
    """Several tiles an image and split-K: partial results and tickets."""
    dense = anchor in ("conv", "conv1x1", "grouped", "separable", "pool conv")
    channels = {"conv": 20, "grouped": 40}.get(anchor, 96 * (1 + (split == 2)))
    tile = Tile(rows, cols, 16, num_warps=1, num_stages=1, split_k=split if dense else 1)
    monkeypatch.setattr(tiling, "ranked", lambda problem, target: [tile])
    b = block({**BLOCK, "shape": (2, channels, 8, 8), "anchor": anchor, "op": op, "reader": reader})
    (launch,) = [each for each in plan_apart(b, "interpreter").programs[0].launches if each.problems[0].pool]
    assert ("pool_partial" in launch.kernel.source) == (rows < 64) and launch.steps[0].tile.split_k == tile.split_k
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


# -- two results ------------------------------------------------------------------------------------------------------
def test_what_is_pooled_is_stored_where_it_is_read_again() -> None:
    plan = plan_apart(squeeze_and_excitation())
    (region,) = [region for region in plan.fused.regions if region.pool is not None]
    assert region.rules == (RULE, "conv-epilogue") and region.also == Value(region.pool)
    (problem,) = pooled(plan)
    assert problem.pool is not None and problem.pool.keeps
    assert problem.stores == (problem.output, problem.pool.output)
    assert problem.equation == "y = silu(conv(x, w) + bias); m = mean(y)"
    assert traffic(problem).activations == 2 * 24 * 63 * 2 + 2 * 24


def test_what_is_pooled_is_not_stored_where_nothing_else_reads_it() -> None:
    plan = plan_apart(squeeze_and_excitation(both=False))
    (problem,) = pooled(plan)
    assert problem.pool is not None and problem.stores == (problem.pool.output,)
    assert problem.equation == "m = mean(silu(conv(x, w) + bias))"
    assert traffic(problem).activations == 2 * 24 * 63 + 2 * 24


def test_both_results_can_lie_in_concatenations() -> None:
    b = Builder()
    x = b.input(weights(2, 20, 4, 8))
    y = anchored(b, x, "conv")
    m = mean(b, y)
    b.output(b.add("Abs", b.add("Concat", mean(b, b.add("Neg", x)), m, axis=1)))
    b.output(b.add("Abs", b.add("Concat", b.add("Neg", x), y, axis=1)))
    assert len(pooled(plan_apart(b))) == 2
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize("device", ["interpreter", "numpy"])
@pytest.mark.parametrize("both", [True, False])
def test_both_results_are_checked(device: str, both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    b = squeeze_and_excitation(2, both)
    plan = plan_apart(b, "interpreter", dtype="fp16")
    checks = kernel_checks(plan, b.inputs, device)
    assert all(check.ok for check in checks), checks
    if device == "numpy":
        return
    wrong = squeeze_and_excitation(2, both)
    text = emit
    monkeypatch.setattr(
        "convc.planner.emit",
        lambda *arguments: _with_source(text(*arguments), "/ 63.0", "/ 62.0"),
    )
    checks = kernel_checks(plan_apart(wrong, "interpreter", dtype="fp16"), wrong.inputs, device)
    assert [RULE in check.rules for check in checks if not check.ok] == [True]


def _with_source(kernel: EmittedKernel, old: str, new: str) -> EmittedKernel:
    return EmittedKernel(**{**vars(kernel), "source": kernel.source.replace(old, new)})


def test_explain_names_the_rule() -> None:
    edges = [edge for edge in explain(plan_apart(squeeze_and_excitation())) if edge.target.startswith("reducemean")]
    assert [(edge.fused, edge.rule) for edge in edges] == [(True, RULE)]
