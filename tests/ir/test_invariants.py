"""Each invariant finds the damage that it is there for."""

from __future__ import annotations

from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest

from convc.errors import PassError, UsageError
from convc.ir import DType, Graph, Payload, TensorType, Use, Value
from convc.ir.invariants import INVARIANTS, STAGES, check

IMAGE = TensorType(DType.FP32, (2, 4))


def healthy() -> Graph:
    """x → Add(ones) → Relu → y, and Add → Exp → z; values 2, 3 and 5."""
    graph = Graph("healthy")
    x, ones = graph.add_input("x", IMAGE), graph.add_constant(np.ones(4, np.float32))
    total = graph.add("Add", [x, ones], origins=["add"])
    graph.add_output("y", graph.add("Relu", [total], origins=["relu"]))
    graph.add_output("z", graph.add("Exp", [total], origins=["exp"]))
    return graph


ADD, RELU, EXP = 2, 3, 5


def cycle(graph: Graph) -> None:
    graph.rewire(Use(ADD, 1), Value(RELU))


def unconnected(graph: Graph) -> None:
    graph.networkx.remove_edge(0, ADD, key=0)


def read_output(graph: Graph) -> None:
    graph.rewire(Use(EXP, 0), Value(4))


def fed_input(graph: Graph) -> None:
    extra = graph.add_constant(np.ones((2, 4), np.float32))
    graph._connect(extra, Use(0, 0))


def wrong_edge_type(graph: Graph) -> None:
    graph.networkx.edges[ADD, RELU, 0]["type"] = TensorType(DType.FP16, (2, 4))


def wrong_output_number(graph: Graph) -> None:
    graph.networkx.edges[ADD, RELU, 0]["output"] = 1


def unknown_attribute(graph: Graph) -> None:
    graph.update(graph.node(RELU), attributes={"alpha": 1.0})


def stale_type(graph: Graph) -> None:
    wrong = TensorType(DType.FP32, (2, 5))
    graph.update(graph.node(RELU), outputs=(wrong,))
    graph.networkx.edges[RELU, 4, 0]["type"] = wrong
    graph.update(graph.node(4), outputs=(wrong,))


def misfit(graph: Graph) -> None:
    graph.rewire(Use(ADD, 1), graph.add_constant(np.ones(3, np.float32)))


def lost_data(graph: Graph) -> None:
    graph.update(graph.node(1), payload=None)


def data_on_an_operator(graph: Graph) -> None:
    graph.update(graph.node(RELU), payload=Payload(np.ones(1)))


def data_of_another_type(graph: Graph) -> None:
    graph.update(graph.node(1), payload=Payload(np.ones(4)))


def same_name(graph: Graph) -> None:
    graph.add_output("y", Value(EXP))


def no_name(graph: Graph) -> None:
    graph.add_input("", IMAGE)


def no_output(graph: Graph) -> None:
    graph.remove(4)
    graph.remove(6)


def high_rank(graph: Graph) -> None:
    graph.add_output("r", graph.add("Reshape", [Value(ADD)], {"shape": (2, 4, *[1] * 7)}))


def dead(graph: Graph) -> None:
    graph.add("Neg", [Value(ADD)])


def foldable(graph: Graph) -> None:
    graph.rewire(Use(ADD, 1), graph.add("Neg", [Value(1)]))


def constant_in_region(graph: Graph) -> None:
    graph.update(graph.node(1), region=0)


def entangled_regions(graph: Graph) -> None:
    again = graph.add("Neg", [Value(RELU)])
    graph.add_output("w", again)
    for id, region in ((ADD, 1), (RELU, 2), (again.node, 1)):
        graph.update(graph.node(id), region=region)


DAMAGE: list[tuple[str, Callable[[Graph], None], str]] = [
    ("imported", cycle, "no cycles; found a cycle"),
    ("imported", unconnected, "node 'add'.*input position.*found input positions \\[1\\]"),
    ("imported", read_output, "an Output that is read"),
    ("imported", fed_input, "Input with inputs"),
    ("imported", wrong_edge_type, "node 'relu'.*an edge of fp16\\[2, 4\\] from an output of fp32\\[2, 4\\]"),
    ("imported", wrong_output_number, "output 1 of a node that has 1"),
    ("imported", unknown_attribute, "attributes alpha of Relu"),
    ("imported", stale_type, "fp32\\[2, 5\\] where Relu gives fp32\\[2, 4\\]"),
    ("imported", misfit, "node 'add'.*broadcast"),
    ("imported", lost_data, "Constant without data"),
    ("imported", data_on_an_operator, "Relu with data"),
    ("imported", data_of_another_type, "data of fp64\\[4\\] in a constant of fp32\\[4\\]"),
    ("imported", same_name, "2 outputs named 'y'"),
    ("imported", no_name, "an input without a name"),
    ("imported", no_output, "no output"),
    ("canonical", high_rank, "rank 8 at most"),
    ("canonical", dead, "Neg that no output depends on"),
    ("canonical", foldable, "Neg of constants"),
    ("fused", constant_in_region, "Constant in region 0"),
    ("fused", entangled_regions, "that wait for each other"),
]


@pytest.mark.parametrize("stage", STAGES)
def test_a_healthy_graph_passes_every_stage(stage: str) -> None:
    check(healthy(), stage)


@pytest.mark.parametrize(("stage", "damage", "message"), DAMAGE, ids=lambda value: getattr(value, "__name__", None))
def test_damage_is_found_from_its_stage_on(stage: str, damage: Callable[[Graph], None], message: str) -> None:
    graph = healthy()
    damage(graph)
    position = STAGES.index(stage)
    if position:
        check(graph, STAGES[position - 1])
    for later in STAGES[position:]:
        with pytest.raises(PassError, match=message):
            check(graph, later)


def test_every_invariant_has_damage_that_it_finds() -> None:
    found = set()
    for _, damage, _ in DAMAGE:
        graph = healthy()
        damage(graph)
        for invariant in INVARIANTS:
            try:
                broken = next(iter(invariant.violations(graph)), None)
            except (nx.NetworkXUnfeasible, KeyError, IndexError):
                continue
            found |= {invariant.expected} if broken else set()
    assert found == {invariant.expected for invariant in INVARIANTS}


def test_the_graphs_own_stage_is_the_default() -> None:
    graph = healthy()
    dead(graph)
    check(graph)
    graph.stage = "canonical"
    with pytest.raises(PassError):
        check(graph)
    with pytest.raises(UsageError, match="nonesuch"):
        check(graph, "nonesuch")
