"""Padding with the elementwise operators behind it in one kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from compiled import Builder, conv, evaluate, planned, run_planned, same
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_checks import emitted, reasons
from small_networks import weights

from convc.analysis.explain import explain
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.ir import Value
from convc.ir.plan import Tile

RULE = "pad-epilogue"
FEW = settings(settings.get_profile("shared-process"), max_examples=12)


def padded(b: Builder, x: Value, mode: str, value: float = 0.0) -> Value:
    return b.add("Pad", x, pads=(0, 0, 1, 2, 0, 1 if mode == "constant" else 0, 2, 1), mode=mode, value=value)


def network(mode: str, value: float = 1.0, batch: int = 2, inside: bool = True) -> Builder:
    """relu(t - pad(x) + r) with t per channel and r a tensor."""
    b = Builder()
    x = b.input(weights(batch, 7, 5, 6))
    x = conv(b, x, weights(7, 7, 1, 1)) if inside else x
    y = padded(b, x, mode, value)
    shape = tuple(int(dim) for dim in b.graph.type(y).shape)
    y = b.add("Sub", b.constant(weights(shape[1], 1, 1)), y)
    b.output(b.add("Relu", b.add("Add", y, b.input(weights(*shape)))))
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@FEW
@given(st.sampled_from(["constant", "reflect", "edge"]), st.sampled_from([0.0, -2.5]), st.integers(1, 3), st.booleans())
def test_computes_what_the_operators_do(dtype: str, mode: str, value: float, batch: int, inside: bool) -> None:
    b = network(mode, value, batch, inside)
    plan = planned(b.graph, dtype=dtype)
    assert RULE in plan.fused.regions[-1].rules and len(plan.programs[0].launches) == 1 + inside
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def _into_windows(b: Builder, y: Value) -> Value:
    return conv(b, y, weights(4, int(b.graph.type(y).shape[1]), 3, 3))


@pytest.mark.parametrize(
    ("behind", "reason"),
    [(_into_windows, "Conv is not elementwise"), (lambda b, y: y, "it is a graph output")],
)
def test_declines_with_a_reason(behind: Callable[[Builder, Value], Value], reason: str) -> None:
    b = Builder()
    b.output(behind(b, padded(b, b.add("Neg", b.input(weights(1, 7, 5, 6))), "reflect")))
    plan = planned(b.graph)
    assert reason in reasons(plan.fused, RULE)


def test_explain_names_the_rule() -> None:
    edges = [edge for edge in explain(planned(network("edge").graph)) if edge.fused and edge.rule == RULE]
    assert [edge.source.rstrip("0123456789") for edge in edges] == ["pad", "sub", "add"]


def test_traffic_counts_what_is_inside() -> None:
    (launch,) = planned(network("constant", inside=False).graph, "sm_90", dtype="fp32").programs[0].launches
    stored = 2 * 8 * 8 * 9
    assert launch.traffic.activations == 4 * (2 * 7 * 5 * 6 + 2 * stored) and launch.traffic.weights == 4 * 8


def test_source(golden: Callable[[str, str], None]) -> None:
    (launch,) = planned(network("constant", 0.5, inside=False).graph, "sm_90", dtype="fp16").programs[0].launches
    (problem,) = launch.problems
    golden("kernels/pad_epilogue.py", emitted(problem, Tile(4, 64)).source)


def test_no_spills(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    plan = planned(network("reflect").graph, "sm_80", "sm_90", dtype="fp16")
    for program in compile_plan(plan, KernelCache(tmp_path)).manifest.programs:
        assert all(kernel.binary.spill_bytes == 0 for kernel in program.kernels)
