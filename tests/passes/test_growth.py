"""How kernels grow over elementwise operators behind their anchor, and each reason to stop, for every anchor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from compiled import Builder
from rule_cases import image, padded, pool, whole

from convc.analysis.explain import explain
from convc.ir import DType, Value
from convc.ir.plan import FusedGraph
from convc.passes import Switches
from convc.passes.fusion import _ANCHOR_RULES, MAX_EXTERNAL_OPERANDS, fuse
from convc.planner import make_plan
from convc.program import Options

ANCHORS: dict[str, Callable[[Builder, Value], Value]] = {
    "conv-epilogue": lambda b, x: padded(b, x, 6),
    "matmul-epilogue": lambda b, x: b.add("MatMul", x, b.input(whole(2, 6, 7, 7))),
    "pool-epilogue": lambda b, x: pool(b, x, 3, 1),
    "pad-epilogue": lambda b, x: b.add("Pad", x, pads=(0, 0, 1, 1, 0, 0, 1, 1), mode="edge"),
    "reduction-epilogue": lambda b, x: b.add("ReduceMax", x, axes=(1,), keepdims=True),
    "elementwise-chain": lambda b, x: b.add("Neg", x),
}
PLAIN = Switches(only=tuple(ANCHORS))
"""Epilogues alone, without rules that take two anchors into one kernel."""


def stop(b: Builder, y: Value) -> Value:
    """An operator that no epilogue takes."""
    return b.add("LRN", y, size=5, alpha=1e-4, beta=0.75, bias=1.0)


def _output(b: Builder, y: Value) -> Value:
    return y


def _not_elementwise(b: Builder, y: Value) -> Value:
    return stop(b, y)


def _larger(b: Builder, y: Value) -> Value:
    shape = tuple(map(int, b.graph.type(y).shape))
    return b.add("Add", y, b.input(whole(3, *shape)))


def _wider(b: Builder, y: Value) -> Value:
    return b.add("Cast", b.add("Cast", y, dtype=DType.FP64), dtype=DType.FP32)


def _one_cannot(b: Builder, y: Value) -> Value:
    return b.add("Add", b.add("Relu", y), stop(b, y))


def _far_apart(b: Builder, y: Value) -> Value:
    left = right = y
    for _ in range(MAX_EXTERNAL_OPERANDS // 2 + 1):
        left, right = b.add("Relu", left), b.add("Abs", right)
    return b.add("Add", left, right)


REASONS: dict[str, tuple[str, Callable[[Builder, Value], Value]]] = {
    "output": ("it is a graph output", _output),
    "another anchor": ("LRN is not elementwise", _not_elementwise),
    "a larger result": ("the result is broadcast to a larger shape", _larger),
    "fp64": ("its kernel cannot compute on fp64", _wider),
    "one of several": (
        "several operators read it, and one of them cannot be fused: LRN is not elementwise",
        _one_cannot,
    ),
    "several far apart": ("several operators read it and they do not meet again soon", _far_apart),
}


def divided(b: Builder) -> FusedGraph:
    return fuse(b.graph, PLAIN)


def said(fused: FusedGraph, value: Value) -> list[tuple[str, str]]:
    """Rules and reasons of the declines about what reads a value."""
    return [(decline.rule, decline.reason) for decline in fused.declines if decline.source == value.node]


def anchored(rule: str) -> tuple[Builder, Value]:
    b = Builder()
    return b, ANCHORS[rule](b, image(b))


def test_every_anchor_is_here() -> None:
    assert set(ANCHORS) == {*_ANCHOR_RULES.values(), "elementwise-chain"}


@pytest.mark.parametrize("case", REASONS)
@pytest.mark.parametrize("rule", ANCHORS)
def test_an_epilogue_ends_with_a_reason(rule: str, case: str) -> None:
    b, y = anchored(rule)
    reason, build = REASONS[case]
    b.output(build(b, y))
    fused = divided(b)
    assert said(fused, y) == [(rule, reason)]
    if rule != "elementwise-chain":  # a chain behind it may take it as a producer all the same
        assert fused.region_of()[y.node].nodes == (y.node,)


@pytest.mark.parametrize("rule", ANCHORS)
def test_integers_are_taken_by_chains_alone(rule: str) -> None:
    b, y = anchored(rule)
    b.output(b.add("Cast", b.add("Cast", y, dtype=DType.INT32), dtype=DType.FP32))
    chain = rule == "elementwise-chain"
    assert said(divided(b), y) == ([] if chain else [(rule, "its kernel cannot compute on int32")])


@pytest.mark.parametrize("rule", ANCHORS)
def test_one_of_two_kernels_takes_their_sum(rule: str) -> None:
    b, y = anchored(rule)
    other = ANCHORS[rule](b, b.input(whole(2, 6, 7, 7)))
    total = b.add("Add", y, other)
    b.output(stop(b, total))
    fused = divided(b)
    reasons = sorted(said(fused, y) + said(fused, other) + said(fused, total))
    assert reasons == [(rule, "LRN is not elementwise"), (rule, "it already belongs to another kernel")]
    together = rule == "elementwise-chain"  # where the sum's kernel takes the other operand too
    assert sorted(len(region.nodes) for region in fused.regions) == ([1, 3] if together else [1, 1, 2])


@pytest.mark.parametrize("rule", ANCHORS)
def test_a_kernel_reads_twelve_tensors_at_most(rule: str) -> None:
    b, y = anchored(rule)
    sums = [y]
    for _ in range(MAX_EXTERNAL_OPERANDS + 1):
        sums.append(b.add("Add", sums[-1], b.input(whole(1))))
    b.output(sums[-1])
    fused = divided(b)
    own = 2 if rule in ("conv-epilogue", "matmul-epilogue") else 1
    last = sums[MAX_EXTERNAL_OPERANDS - own]
    assert said(fused, last) == [(rule, f"the kernel would read more than {MAX_EXTERNAL_OPERANDS} tensors")]
    assert fused.region_of()[y.node].output == last


@pytest.mark.parametrize("rule", ANCHORS)
def test_a_rule_that_is_off_says_so(rule: str) -> None:
    b, y = anchored(rule)
    b.output(b.add("Relu", y))
    others = tuple(name for name in ANCHORS if name != rule)
    plan = make_plan(b.graph, Options(("interpreter",), switches=Switches(only=others)))
    assert plan.fused.region_of()[y.node].nodes == (y.node,)
    (edge,) = [edge for edge in explain(plan) if edge.target.startswith("relu")]
    assert (edge.fused, edge.rule, edge.reason) == (False, rule, "the rule is switched off by --only")


@pytest.mark.parametrize("rule", ANCHORS)
def test_several_readers_that_meet_are_taken_together(rule: str) -> None:
    b, y = anchored(rule)
    b.output(b.add("Add", b.add("Mul", y, b.add("Sigmoid", y)), y))
    (region,) = divided(b).regions
    assert len(region.nodes) == 4 and region.rules == (rule,)


# -- elementwise producers --------------------------------------------------------------------------------------------
def gated(b: Builder, gate: Value) -> Value:
    """A chain, and a second operand of it that other operators make."""
    return b.output(b.add("Mul", b.add("Relu", image(b)), gate))


def test_a_chain_takes_the_operators_that_make_its_other_operand() -> None:
    b = Builder()
    gated(b, b.add("Sigmoid", b.input(whole(2, 6, 7, 7))))
    assert [len(region.nodes) for region in divided(b).regions] == [3]


def _small(b: Builder) -> Value:
    return b.add("Sigmoid", b.input(whole(6, 1, 1)))


def _shared(b: Builder) -> Value:
    gate = b.add("Sigmoid", b.input(whole(2, 6, 7, 7)))
    b.output(stop(b, gate))
    return gate


def _many(b: Builder) -> Value:
    gate = b.input(whole(2, 6, 7, 7))
    for _ in range(MAX_EXTERNAL_OPERANDS - 1):
        gate = b.add("Add", gate, b.input(whole(1)))
    return gate


@pytest.mark.parametrize("build", [_small, _shared, _many], ids=["a smaller shape", "read elsewhere", "many tensors"])
def test_a_chain_leaves_producers(build: Callable[[Builder], Value]) -> None:
    b = Builder()
    gate = build(b)
    y = gated(b, gate)
    regions = divided(b).region_of()
    assert regions[gate.node] is not regions[y.node]
