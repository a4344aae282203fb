"""Random networks: every optimisation level, rule and numeric mode computes the same numbers, exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from compiled import evaluate, run, same
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cnns import RandomCnn
from random_graphs import RandomNetwork

from convc import planner
from convc.analysis.kernel_check import check_kernels
from convc.compiler import compile_plan, settled
from convc.ir import Graph, Kind
from convc.ir.invariants import check
from convc.passes import RULES
from convc.passes.hosted import hosted_nodes
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.network import CompiledNetwork

pytestmark = pytest.mark.usefixtures("interpreters")
SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("opt", ["none", "fold", "fuse"])
@settings(settings.get_profile("shared-process"), max_examples=3)
@given(SEEDS)
def test_levels_and_modes_agree(opt: str, dtype: str, seed: int) -> None:
    network = RandomNetwork(seed, 24)
    same(run(network.graph, network.inputs, opt=opt, dtype=dtype), evaluate(network.graph, network.inputs))


@pytest.mark.parametrize("rule", RULES)
@settings(settings.get_profile("shared-process"), max_examples=2)
@given(SEEDS)
def test_without_one_rule(rule: str, seed: int) -> None:
    network = RandomNetwork(seed, 24)
    same(run(network.graph, network.inputs, disable=rule, dtype="fp16"), evaluate(network.graph, network.inputs))


@pytest.mark.parametrize("rule", RULES)
def test_with_one_rule_only(rule: str) -> None:
    network = RandomNetwork(len(rule), 24)
    same(run(network.graph, network.inputs, only=rule, dtype="fp16"), evaluate(network.graph, network.inputs))


@settings(settings.get_profile("shared-process"), max_examples=3)
@given(SEEDS)
def test_the_numpy_executor_agrees(seed: int) -> None:
    network = RandomNetwork(seed, 24)
    found = run(network.graph, network.inputs, device="numpy", dtype="bf16")
    same(found, evaluate(network.graph, network.inputs))


def hosting(seed: int, share: float) -> Callable[[Graph, Mapping[int, str]], dict[int, str]]:
    """What hosts a share of the nodes besides those that must be."""

    def hosted(graph: Graph, refused: Mapping[int, str]) -> dict[int, str]:
        random = np.random.default_rng(seed)
        computed = [node.id for node in graph.nodes() if node.kind is not Kind.STRUCTURAL]
        return hosted_nodes(graph, {**refused, **{id: "by chance" for id in computed if random.random() < share}})

    return hosted


@pytest.mark.parametrize(("dtype", "share"), [("fp32", 0.1), ("fp16", 0.3), ("bf16", 0.6), ("fp16", 1.0)])
@settings(settings.get_profile("shared-process"), max_examples=4)
@given(SEEDS)
def test_the_host_in_between(dtype: str, share: float, seed: int) -> None:
    """Whatever the host computes, in as many steps as it takes, and wherever its results lie."""
    network = RandomNetwork(seed, 24)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "hosted_nodes", hosting(seed, share))
        found = run(network.graph, network.inputs, dtype=dtype)
    same(found, evaluate(network.graph, network.inputs))


def test_checks_look_before_the_host_does() -> None:
    """A step of the host puts its result where that of a launch was, which the launch alone still read."""
    seed, blocks = 61123, ["pool_conv", "chain", "conv"]
    network = RandomCnn(seed, blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "hosted_nodes", hosting(seed, 0.05))
        plan = settled(make_plan(network.graph, Options(("interpreter",), "fp16")))
    assert len(plan.programs[0].host_steps) == 2
    checks = check_kernels(plan, CompiledNetwork(compile_plan(plan)), "interpreter", network.inputs)
    assert [check for check in checks if not check.ok] == []


@settings(settings.get_profile("shared-process"), max_examples=8)
@given(SEEDS)
def test_passes_keep_the_invariants_and_the_user_s_graph(seed: int) -> None:
    network = RandomNetwork(seed, 40)
    before = network.graph.copy()
    plan = make_plan(network.graph, Options(("interpreter",), "fp32", verify_passes=True))
    assert network.graph == before, "the graph that was given is not changed"
    check(plan.graph)
    covered = sorted(node for region in plan.fused.regions for node in region.nodes)
    computed = [n.id for n in plan.graph.nodes() if n.op not in ("Input", "Constant", "Output")]
    assert covered == sorted(computed), "every operator belongs to exactly one region"
