"""What `explain` says of edges, against the plan, and each kind of reason on a graph made for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compiled import Builder, conv
from small_networks import NETWORKS, POOL, inside, weights

from convc.analysis.explain import Edge, counts, explain, folded
from convc.ir import Graph
from convc.passes import RULES, Switches
from convc.planner import make_plan
from convc.program import Options, Plan


def plan_of(graph: Graph, opt: str = "fuse", disable: str = "", only: str | None = None) -> Plan:
    """A plan in which every region has a launch of its own, unless ``only`` says otherwise."""
    disabled = f"{disable},last-block,sibling-convolutions"
    return make_plan(graph, Options(("sm_90",), "fp16", 1, Switches.parse(opt, disabled, only)))


@pytest.mark.parametrize("opt", ["none", "fold", "fuse"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_edge_is_accounted_for(name: str, opt: str) -> None:
    plan = plan_of(NETWORKS[name](), opt)
    edges = explain(plan)
    graph = plan.graph
    expected = [
        (graph.producer(value).label, node.label)
        for node in graph.nodes()
        for value in graph.inputs(node)
        if graph.producer(value).op != "Constant"
    ]
    assert [(edge.source, edge.target) for edge in edges] == expected
    layers = {launch.kernel.name: plan.origins(launch) for launch in plan.programs[0].launches}
    for edge in edges:
        if not edge.fused:
            assert edge.reason and edge.kernel is None
            continue
        assert edge.rule in RULES
        if edge.rule == "concat-in-place":
            assert edge.kernel is None or set(edge.source_origins) <= set(layers[edge.kernel])
        else:
            assert {*edge.source_origins, *edge.target_origins} <= set(layers[edge.kernel or ""])
    found = counts(edges)
    assert sum(sum(table.values()) for table in found.values()) == len(edges)


def test_edges_inside_regions_are_the_fused_ones() -> None:
    plan = plan_of(NETWORKS["residual_block"]())
    regions = plan.fused.region_of()
    inside_one = sum(
        regions.get(source) is not None and regions.get(source) is regions.get(target)
        for source, target in plan.graph.networkx.edges()
    )
    assert inside_one > 0
    assert sum(edge.fused for edge in explain(plan)) == inside_one


def edge_of(b: Builder, source: str, target: str, **switches: str) -> Edge:
    """The first edge between two nodes whose labels begin so."""
    edges = explain(plan_of(b.graph, **switches))
    return next(edge for edge in edges if edge.source.startswith(source) and edge.target.startswith(target))


def _conv_relu(b: Builder) -> None:
    y = conv(b, b.input(weights(1, 8, 6, 6)), weights(8, 8, 3, 3))
    b.output(b.add("Relu", y))


def _conv_conv(b: Builder) -> None:
    y = conv(b, b.input(weights(1, 8, 9, 9)), weights(16, 8, 3, 3))
    b.output(conv(b, y, weights(8, 16, 3, 3)))


def _conv_grouped(b: Builder) -> None:
    y = conv(b, b.input(weights(1, 8, 6, 6)), weights(64, 8, 3, 3))
    b.output(conv(b, y, weights(8, 32, 1, 1), groups=2))


def _conv_pool(b: Builder) -> None:
    y = conv(b, b.input(weights(1, 8, 9, 9)), weights(16, 8, 3, 3))
    b.output(b.add("LRN", y, size=5, alpha=1e-4, beta=0.75, bias=1.0))


def _residual(b: Builder) -> None:
    x = conv(b, b.input(weights(1, 8, 6, 6)), weights(8, 8, 1, 1))
    y = conv(b, x, weights(8, 8, 3, 3), pads=(1,) * 4)
    b.output(b.add("Add", x, y))


def _broadcast(b: Builder) -> None:
    y = conv(b, b.input(weights(1, 8, 1, 1)), weights(8, 8, 1, 1))
    b.output(b.add("Add", y, b.input(weights(1, 8, 5, 5))))


def _shared(b: Builder) -> None:
    y = conv(b, b.input(weights(1, 8, 6, 6)), weights(8, 8, 1, 1))
    b.output(b.add("Relu", y))
    b.output(conv(b, y, weights(8, 8, 3, 3)))


def _before_a_pool(b: Builder) -> None:
    b.output(b.add("MaxPool", b.add("Exp", b.input(weights(1, 8, 9, 9))), **POOL))


def _before_a_padded_conv(b: Builder) -> None:
    exp = b.add("Exp", b.add("Add", inside(b, 1, 16, 9, 9), inside(b, 1, 16, 9, 9)))
    b.output(conv(b, exp, weights(8, 16, 3, 3), pads=(1,) * 4))


def _free_view(b: Builder) -> None:
    y = b.add("Transpose", inside(b, 4, 6), perm=(1, 0))
    b.output(b.add("Softmax", y, axis=1))


def _copying_view(b: Builder) -> None:
    x = inside(b, 2, 6, 4, 5)
    b.output(b.add("ReduceMax", x, axes=(2, 3), keepdims=True))
    y = b.add("Reshape", x, shape=(12, 20))
    b.output(b.add("MatMul", y, b.input(weights(20, 3))))


def _copied_input(b: Builder) -> None:
    y = b.add("Transpose", b.input(weights(4, 6)), perm=(1, 0))
    b.output(b.add("Softmax", b.add("Reshape", y, shape=(3, 8)), axis=1))


def _concat(b: Builder) -> None:
    parts = [conv(b, b.input(weights(1, 8, 5, 5)), weights(8, 8, 3, 3)) for _ in range(2)]
    b.output(b.add("Relu", b.add("Concat", *parts, axis=1)))


def _concat_odd(b: Builder) -> None:
    """Operands of every kind that cannot be written in place."""
    x = b.input(weights(1, 8, 5, 5), "x")
    twice = b.add("Abs", x)
    also_output = b.output(b.add("Exp", x))
    view = b.add("Slice", b.add("Ceil", x), starts=(0, 2, 0, 0), sizes=(1, 4, 5, 5), steps=(1,) * 4)
    whole = b.add("Concat", x, twice, twice, also_output, view, axis=1)
    other = b.add("Concat", b.add("Tanh", x), twice, axis=1)
    b.output(b.add("Neg", whole))
    b.output(b.add("Neg", other))


CASES: dict[str, tuple[Callable[[Builder], object], str, str, str | None, str]] = {
    # case: (graph, source, target, rule, reason)
    "graph input": (_conv_relu, "x0", "conv", None, "a graph input"),
    "graph output": (_conv_relu, "relu", "y0", "conv-epilogue", "a graph output"),
    "two anchors": (_conv_conv, "conv", "conv", "back-to-back", "every position of the window would compute it again"),
    "no rule": (_conv_grouped, "conv", "conv", "conv-epilogue", "both are anchors (Conv and Conv)"),
    "reduction": (_conv_pool, "conv", "lrn", "conv-epilogue", "LRN"),
    "residual": (_residual, "conv", "add", "conv-epilogue", "the other operand of the sum was fused"),
    "broadcast": (_broadcast, "conv", "add", "conv-epilogue", "broadcast to a larger shape"),
    "several readers": (_shared, "conv", "relu", "conv-epilogue", "several operators read it"),
    "chain into pool": (_before_a_pool, "exp", "maxpool", "elementwise-chain", "while MaxPool reads its windows"),
    "two tensors under windows": (_before_a_padded_conv, "exp", "conv", "conv-prologue", "two tensors that vary"),
    "free view": (_free_view, "neg", "transpose", None, "a view: costs no kernel"),
    "out of a view": (_free_view, "transpose", "softmax", None, "read through a view"),
    "copying view": (_copying_view, "neg", "reshape", "shuffle-in-writer", "a copy: something else reads it"),
    "copied input": (_copied_input, "transpose", "reshape", None, "a copy: strides cannot express it"),
    "out of a copy": (_copying_view, "reshape", "matmul", None, "a copy in another order"),
    "out of a concatenation": (_concat, "concat", "relu", None, "written by several kernels"),
    "concat of an input": (_concat_odd, "x", "concat", "concat-in-place", "copied: it is a graph input"),
    "concat of an output": (_concat_odd, "exp", "concat", "concat-in-place", "copied: it is also a graph output"),
    "concat of a view": (_concat_odd, "slice", "concat", "concat-in-place", "copied: it is a view"),
}


@pytest.mark.parametrize("case", CASES)
def test_reasons(case: str) -> None:
    build, source, target, rule, reason = CASES[case]
    b = Builder("case")
    build(b)
    edge = edge_of(b, source, target)
    assert (edge.fused, edge.kernel, edge.rule) == (False, None, rule)
    assert reason in (edge.reason or ""), edge


def test_operands_of_two_concatenations_and_twice_in_one() -> None:
    b = Builder("concat")
    _concat_odd(b)
    edges = [edge for edge in explain(plan_of(b.graph)) if edge.source.startswith("abs")]
    assert sorted((edge.reason or "", edge.fused) for edge in edges) == [
        ("copied: it is already at home in another concatenation", False),
        ("copied: it is in this concatenation twice, and has a place for one", False),
        ("written in place into its slice", True),
    ]


def test_concatenation_in_place_is_fused_into_its_producers() -> None:
    b = Builder("concat")
    _concat(b)
    plan = plan_of(b.graph)
    kernels = [launch.kernel.name for launch in plan.programs[0].launches]
    edges = [edge for edge in explain(plan) if edge.target.startswith("concat")]
    assert [(edge.fused, edge.rule) for edge in edges] == [(True, "concat-in-place")] * 2
    assert [edge.kernel for edge in edges] == kernels[:2]


@pytest.mark.parametrize(
    ("switches", "how"),
    [
        ({"disable": "conv-epilogue"}, "by --disable"),
        ({"only": "concat-in-place"}, "by --only"),
        ({"opt": "fold"}, "it runs from --opt fuse"),
    ],
)
def test_rules_that_are_off_say_so(switches: dict[str, str], how: str) -> None:
    b = Builder("off")
    _conv_relu(b)
    edge = edge_of(b, "conv", "relu", **switches)
    assert (edge.fused, edge.rule) == (False, "conv-epilogue")
    assert (edge.reason or "").endswith(how)


def test_concatenation_switched_off() -> None:
    b = Builder("off")
    _concat(b)
    edge = edge_of(b, "conv", "concat", disable="concat-in-place")
    assert (edge.fused, edge.reason) == (False, "copied: the rule is switched off by --disable")


def test_a_prologue_and_what_it_reads() -> None:
    b = Builder("prologue")
    pooled = b.add("MaxPool", b.input(weights(1, 32, 9, 9)), **POOL)
    scaled = b.add("Mul", pooled, b.input(weights(1, 32, 1, 1)))
    b.output(b.add("LRN", scaled, size=5, alpha=1e-4, beta=0.75, bias=1.0))
    edge = edge_of(b, "maxpool", "mul")
    assert (edge.fused, edge.rule) == (True, "pool-epilogue")
    b = Builder("prologue")
    x = b.add("LRN", b.input(weights(1, 32, 5, 5)), size=5, alpha=1e-4, beta=0.75, bias=1.0)
    scaled = b.add("Exp", b.add("Concat", x, b.input(weights(1, 32, 5, 5)), axis=1))
    b.output(conv(b, scaled, weights(32, 64, 1, 1)))
    edge = edge_of(b, "exp", "conv")
    assert (edge.fused, edge.rule) == (True, "conv-prologue")
    assert "while Conv loads it" in (edge_of(b, "concat", "exp").reason or "")


def test_folded_rewrites_name_the_users_nodes() -> None:
    plan = plan_of(NETWORKS["residual_block"]())
    rewrites = folded(plan.journal)
    assert {"rule": "fold-batch-norm", "nodes": ["conv1", "batch_norm1"]} in rewrites
    assert len(rewrites) == 4 == sum(entry["rule"] == "fold-batch-norm" for entry in rewrites)
    assert folded(plan_of(NETWORKS["residual_block"](), "none").journal) == []


def test_multiplying_a_value_by_itself_gives_two_edges() -> None:
    b = Builder("square")
    y = conv(b, b.input(weights(1, 8, 6, 6)), weights(8, 8, 3, 3))
    b.output(b.add("Mul", y, y))
    edges = [edge for edge in explain(plan_of(b.graph)) if edge.target.startswith("mul")]
    assert [(edge.fused, edge.rule) for edge in edges] == [(True, "conv-epilogue")] * 2
    assert np.unique([edge.kernel for edge in edges]).size == 1
