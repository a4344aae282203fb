"""Rules from outside: switched, explained and ablated like others, and checked where they are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
from compiled import Builder, conv, integers, run, same
from test_policies import supply

import convc
from convc.analysis.ablate import ablate
from convc.analysis.explain import explain, folded
from convc.analysis.models import Choices
from convc.ir import Graph, Node, Value
from convc.passes import extensions
from convc.program import Plan

RULE = convc.Rule("half-chain", "fuse", "y = f(x); z = g(y) → z = g(f(x))")
REWRITE = convc.Rule("double-relu", "fold", "relu(relu(x)) → relu(x)")
Offer = Callable[[Graph, Node, Mapping[int, int]], object]


def double_relu(graph: Graph) -> bool:
    changed = False
    for node in graph.of_kind("Relu"):
        (x,) = graph.inputs(node)
        if graph.producer(x).op == "Relu":
            graph.add_origins(x, node.origins)
            graph.replace(Value(node.id), x)
            changed = True
    return changed


def chain(graph: Graph, node: Node, taken: Mapping[int, int]) -> convc.Choice | str | None:
    """Takes a ReLU and the operator behind it into a kernel that ends there."""
    if node.op != "Relu":
        return None
    following = [use.node for use in graph.users(Value(node.id))]
    if len(following) != 1 or graph.node(following[0]).op != "Abs":
        return "no single Abs follows"
    return convc.Choice(RULE.name, (node.id, following[0]), node.id, open=False, saved_bytes=1)


def network() -> Builder:
    b = Builder()
    x = b.input(integers(np.random.default_rng(0), (1, 8, 4, 4)))
    y = conv(b, x, integers(np.random.default_rng(1), (8, 8, 1, 1)))
    y = b.add("Relu", b.add("Relu", y))
    b.output(b.add("Neg", b.add("Abs", y)))
    return b


def planned(graph: Graph, **options: object) -> Plan:
    return convc.plan(graph, target="interpreter", dtype="fp32", **options)


def count(plan: Plan, op: str) -> int:
    return len(list(plan.graph.of_kind(op)))


class TestRewrite:
    EXTENSION = convc.Extension(REWRITE, rewrite=double_relu)

    def test_runs_only_while_it_is_registered_and_on(self) -> None:
        graph = network().graph
        assert count(planned(graph), "Relu") == 2
        with convc.registered(self.EXTENSION):
            assert convc.RULES["double-relu"] is REWRITE
            plan = planned(graph)
            assert count(plan, "Relu") == 1
            assert [entry["rule"] for entry in folded(plan.journal)] == ["double-relu"]
            for off in ({"disable": "double-relu"}, {"only": "conv-epilogue"}, {"opt": "none"}):
                assert count(planned(graph, **off), "Relu") == 2
        assert "double-relu" not in convc.RULES
        with pytest.raises(convc.UsageError, match="unknown rule or feature 'double-relu'"):
            planned(graph, disable="double-relu")

    def test_what_it_makes_is_folded(self) -> None:
        def scaled(graph: Graph) -> bool:
            found = list(graph.of_kind("Neg"))
            for node in found:
                minus = graph.add("Neg", [graph.add_constant(np.float32(1))], {})
                graph.replace(Value(node.id), graph.add("Mul", [graph.inputs(node)[0], minus], {}))
            return bool(found)

        b = network()
        with convc.registered(convc.Extension(REWRITE, rewrite=scaled)):
            assert count(planned(b.graph), "Neg") == 0
            same(run(b.graph, b.inputs), run(b.graph, b.inputs, disable="double-relu"))

    def test_is_ablated(self, tmp_path: object) -> None:
        with convc.registered(self.EXTENSION):
            found = ablate("zoo:lenet5", Choices())
        assert {"without double-relu", "only double-relu"} <= {row.configuration for row in found.rows}

    def test_a_broken_graph_is_refused_whether_or_not_passes_are_verified(self) -> None:
        def breaks(graph: Graph) -> bool:
            node = next(graph.of_kind("Relu"))
            graph.update(node, outputs=(replace(node.outputs[0], shape=(1, 1)),))
            return True

        with (
            convc.registered(convc.Extension(REWRITE, rewrite=breaks)),
            pytest.raises(convc.PassError, match="rule 'double-relu', registered from outside, broke the graph"),
        ):
            planned(network().graph)

    def test_other_outputs_are_refused(self) -> None:
        def renames(graph: Graph) -> bool:
            (output,) = graph.graph_outputs
            graph.update(output, attributes={"name": "z"})
            return True

        with (
            convc.registered(convc.Extension(REWRITE, rewrite=renames)),
            pytest.raises(convc.PassError, match=r"'double-relu'.*inputs and outputs that the network had"),
        ):
            planned(network().graph)


class TestProposer:
    EXTENSION = convc.Extension(RULE, propose=chain)

    def test_is_asked_first_and_explained(self) -> None:
        b = network()
        with convc.registered(self.EXTENSION):
            plan = planned(b.graph)
            (region,) = [region for region in plan.fused.regions if RULE.name in region.rules]
            assert [plan.graph.node(id).op for id in region.nodes] == ["Relu", "Abs"]
            edges = {(e.source, e.target): e for e in explain(plan)}
            assert [e.rule for e in edges.values() if e.fused and e.rule == RULE.name] == [RULE.name]
            assert "no single Abs follows" in {d.reason for d in plan.fused.declines}
            same(run(b.graph, b.inputs), run(b.graph, b.inputs, disable=RULE.name))
            never = planned(b.graph, policy="never")
            assert not [region for region in never.fused.regions if RULE.name in region.rules]

    @pytest.mark.parametrize(
        ("offer", "message"),
        [
            (lambda g, n, t: 7, "a int; a proposer returns"),
            (lambda g, n, t: convc.Choice("other", (n.id,), n.id), "a choice of the rule 'other'"),
            (lambda g, n, t: convc.Choice(RULE.name, (10**6,), 10**6), "nodes that the graph does not have: 1000000"),
            (lambda g, n, t: convc.Choice(RULE.name, (n.id, n.id), n.id), "not in topological order"),
            (lambda g, n, t: convc.Choice(RULE.name, (), n.id), "not in topological order"),
            (lambda g, n, t: convc.Choice(RULE.name, (before(g, n), n.id), n.id), "an anchor or a prologue|open=True"),
            (lambda g, n, t: convc.Choice(RULE.name, (n.id,), before(g, n)), "an anchor or a prologue"),
            (lambda g, n, t: convc.Choice(RULE.name, (n.id,), n.id, pool=n.id), "a pooling of whole images"),
            (lambda g, n, t: convc.Choice(RULE.name, (0, n.id), n.id, open=False), "inputs, constants or outputs"),
        ],
    )
    def test_impossible_offers_are_refused(self, offer: Offer, message: str) -> None:
        def propose(graph: Graph, node: Node, taken: Mapping[int, int]) -> object:
            return offer(graph, node, taken) if node.op == "Abs" else None

        with (
            convc.registered(convc.Extension(RULE, propose=propose)),
            pytest.raises(
                convc.PassError, match=f"the rule 'half-chain', registered from outside, offered .*{message}"
            ),
        ):
            planned(network().graph)

    def test_nodes_of_another_kernel_are_refused(self) -> None:
        def again(graph: Graph, node: Node, taken: Mapping[int, int]) -> object:
            return convc.Choice("again", (node.id,), node.id, open=False) if node.op == "Abs" else None

        extension = convc.Extension(replace(RULE, name="again"), propose=again)
        with (
            convc.registered(self.EXTENSION, extension),
            pytest.raises(convc.PassError, match=r"'again'.*belong to another kernel already: abs"),
        ):
            planned(network().graph)

    def test_two_values_that_leave_are_refused(self) -> None:
        b = Builder()
        x = b.add("Relu", b.input(np.zeros((1, 8, 4, 4), np.float32)))
        b.output(b.add("Abs", x))
        b.output(b.add("Neg", x))

        def propose(graph: Graph, node: Node, taken: Mapping[int, int]) -> object:
            if node.op != "Abs":
                return None
            relu = before(graph, node)
            return convc.Choice(RULE.name, (relu, node.id), relu, open=False)

        with (
            convc.registered(convc.Extension(RULE, propose=propose)),
            pytest.raises(convc.PassError, match="more than one value that is read outside: those of relu"),
        ):
            planned(b.graph)

    def test_what_no_kernel_computes_is_refused(self) -> None:
        b = Builder()
        x_like = np.zeros((1, 8, 4, 4), np.float32)
        x = b.input(x_like)
        y = conv(b, b.add("Mul", x, b.input(x_like)), np.ones((8, 8, 3, 3), np.float32))
        b.output(conv(b, y, np.ones((8, 8, 1, 1), np.float32)))
        offers = {
            "only elementwise operators of its shape can follow": lambda first, second: convc.Choice(
                RULE.name, (first, second), first, open=False
            ),
            "which cannot have one: an operator in front of its windows": lambda first, second: convc.Choice(
                RULE.name, (before(b.graph, b.graph.node(first)), first), first, (before(b.graph, b.graph.node(first)),)
            ),
        }
        for message, offer in offers.items():

            def propose(graph: Graph, node: Node, taken: Mapping[int, int], offer: object = offer) -> object:
                first, second = (c.id for c in graph.of_kind("Conv"))
                return offer(first, second) if node.id == second else None  # type: ignore[operator]

            with (
                convc.registered(convc.Extension(RULE, propose=propose)),
                pytest.raises(convc.PassError, match=message),
            ):
                planned(b.graph)


def before(graph: Graph, node: Node) -> int:
    """The node in front of one."""
    return graph.inputs(node)[0].node


class TestRegistering:
    def test_names_are_unique_and_can_be_switched(self) -> None:
        with pytest.raises(convc.UsageError, match="'conv-pool' exists already"):
            convc.register(convc.Extension(replace(RULE, name="conv-pool"), propose=chain))
        for name in ("a,b", "", "Upper", "two words"):
            with pytest.raises(convc.UsageError, match="lower-case words"):
                convc.Extension(replace(RULE, name=name), propose=chain)
        with pytest.raises(convc.UsageError, match="unknown level of a rule 'all'"):
            convc.Extension(replace(RULE, level="all"), propose=chain)
        with pytest.raises(convc.UsageError, match="needs a rewrite or a proposer"):
            convc.Extension(RULE)

    def test_only_registered_rules_are_unregistered(self) -> None:
        convc.register(convc.Extension(RULE, propose=chain))
        convc.unregister(RULE.name)
        for name in (RULE.name, "conv-pool"):
            with pytest.raises(convc.UsageError, match="unknown registered rule"):
                convc.unregister(name)
        assert "conv-pool" in convc.RULES

    def test_a_block_that_fails_leaves_nothing_behind(self) -> None:
        twice = convc.Extension(RULE, propose=chain)
        with pytest.raises(convc.UsageError, match="exists already"), convc.registered(twice, twice):
            raise AssertionError("not reached")
        assert RULE.name not in convc.RULES

    def test_installed_packages_supply_rules(self, monkeypatch: pytest.MonkeyPatch) -> None:
        extensions.load_installed()
        supply(monkeypatch, "convc.rules", first=convc.Extension(RULE, propose=chain))
        try:
            extensions.load_installed.__wrapped__()
            assert RULE.name in convc.RULES
        finally:
            convc.unregister(RULE.name)
        supply(monkeypatch, "convc.rules", first=RULE)
        with pytest.raises(convc.UsageError, match=r"'first' of the group 'convc.rules'.*expected a convc.Extension"):
            extensions.load_installed.__wrapped__()
