"""What became of every edge: the kernel that it was fused into and by which rule, or the nearest rule and its reason.

`_QUESTIONS` is a table of questions, each about one kind of edge; the first that has an answer is believed. Where the
fusion pass itself declined (`convc.ir.plan.Decline`), its reason is taken unless the kinds of the two operators say
more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from .. import errors
from ..ir import Graph, Kind, Node, Value
from ..ir.journal import Journal
from ..ir.plan import Decline, Region
from ..passes import RULES, Switches
from ..passes.fusion import rule_of
from ..passes.launches import LAST_BLOCK
from ..passes.shuffles import READER_RULE as READS
from ..passes.shuffles import RULE as SHUFFLES
from ..planner import Plan
from .models import Choices, is_compiled, make_plan
from .placements import in_place, zero_borders


@dataclass(frozen=True)
class Edge:
    """One edge between two nodes of the user. kernel: of the first target. rule: that fused it, or came nearest."""

    source: str
    target: str
    fused: bool
    kernel: str | None
    rule: str | None
    reason: str | None
    source_origins: tuple[str, ...]
    target_origins: tuple[str, ...]


@dataclass(frozen=True)
class _Answer:
    """Verdict on an edge. region: whose kernel it went into, where it is fused."""

    reason: str | None = None
    rule: str | None = None
    region: Region | None = None


class _Facts:
    """What a plan says about nodes, looked up once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.regions = plan.fused.region_of()
        launches = plan.programs[0].launches
        self.kernels = {region.id: launch.kernel.name for launch in launches for region in launch.regions}
        self.launches = {region.id: number for number, launch in enumerate(launches) for region in launch.regions}
        self.declines: dict[int, list[Decline]] = {}
        self.launch_declines = {(d.source, d.target): d for d in plan.programs[0].declines if d.rule == LAST_BLOCK}
        for decline in plan.fused.declines:
            self.declines.setdefault(decline.source, []).append(decline)

    def nearest(self, node: Node) -> str | None:
        """The rule that would take what follows a node into its kernel."""
        region = self.regions.get(node.id)
        if region is None:
            return None
        graph = self.plan.graph
        return rule_of(graph.node(region.head))


@dataclass(frozen=True)
class _Case:
    """One edge under question."""

    facts: _Facts
    value: Value
    target: Node
    position: int

    @property
    def graph(self) -> Graph:
        return self.facts.plan.graph

    @property
    def switches(self) -> Switches:
        return self.facts.plan.options.switches

    @cached_property
    def source(self) -> Node:
        return self.graph.producer(self.value)

    @cached_property
    def source_region(self) -> Region | None:
        return self.facts.regions.get(self.source.id)

    @cached_property
    def target_region(self) -> Region | None:
        return self.facts.regions.get(self.target.id)

    @property
    def anchor(self) -> Node | None:
        """The anchor of the kernel that makes the value; None for elementwise chains."""
        region = self.source_region
        return None if region is None or region.anchor is None else self.graph.node(region.anchor)

    def switched_off(self, rule: str) -> str | None:
        """That and how a rule is switched off; None where it is on."""
        if self.switches.on(rule):
            return None
        if rule in self.switches.disable:
            return "the rule is switched off by --disable"
        if self.switches.only is not None and rule not in self.switches.only:
            return "the rule is switched off by --only"
        return f"the rule is switched off: it runs from --opt {RULES[rule].level}"


# -- questions --------------------------------------------------------------------------------------------------------
def _same_kernel(case: _Case) -> _Answer | None:
    region = case.target_region
    if region is None or region is not case.source_region:
        return None
    return _Answer(None, _rule_inside(case, region), region)


def _rule_inside(case: _Case, region: Region) -> str | None:
    """Which of a region's rules fused an edge inside it: that of what the edge leads from or to, else the anchor's."""
    after = case.facts.nearest(case.target)
    if case.source.id in region.prologue:
        word = "prologue"
    elif case.target.kind is Kind.ELEMENTWISE:
        word = after or "epilogue"
    else:
        word = {Kind.WINDOW: "pool", Kind.REDUCTION: "global-pool"}.get(case.target.kind, "")
    others = [rule for rule in region.rules if rule != after]
    fitting = [rule for rule in region.rules if word and word in rule] or others[_level(case, region) :]
    fitting = fitting or others or list(region.rules)
    return fitting[0] if fitting else after


def _level(case: _Case, region: Region) -> int:
    """How many anchors of a prologue are still to come where an edge leads: each rule reads through the one before."""
    if case.target.id not in region.prologue:
        return 0
    behind = region.prologue[region.prologue.index(case.target.id) :]
    return sum(case.graph.node(id).kind is not Kind.ELEMENTWISE for id in behind)


def _same_launch(case: _Case) -> _Answer | None:
    """The last block of the producer's launch computes the consumer."""
    source, target = case.source_region, case.target_region
    if source is None or target is None:
        return None
    launches = case.facts.launches
    if source.id not in launches or launches[source.id] != launches.get(target.id):
        return None
    return _Answer("computed by the last block of the same launch, from memory", LAST_BLOCK, target)


_COPIED: tuple[tuple[str, Callable[[_Case], bool]], ...] = (
    ("a graph input, which lies in memory of its own", lambda case: case.source.op == "Input"),
    ("a view, whose place follows from its operand", lambda case: case.source.kind is Kind.VIEW),
    (
        "also a graph output, which is stored by itself",
        lambda case: any(case.graph.node(use.node).op == "Output" for use in case.graph.users(case.value)),
    ),
    (
        "in this concatenation twice, and has a place for one",
        lambda case: case.value in case.graph.inputs(case.target)[: case.position],
    ),
    ("already at home in another concatenation", lambda case: True),
)
"""Why an operand of a concatenation is copied: it is …"""


def _concatenated(case: _Case) -> _Answer | None:
    rule = "concat-in-place"
    if case.target.op != "Concat":
        return None
    if in_place(case.graph, case.facts.plan.layouts, case.target, case.position):
        return _Answer("written in place into its slice", rule, case.source_region or case.target_region)
    why = case.switched_off(rule) or f"it is {next(text for text, holds in _COPIED if holds(case))}"
    return _Answer(f"copied: {why}", rule)


_THIN = ("it already belongs to another kernel", "it is a graph output")
"""Reasons of the fusion pass that say less than the edge itself does."""


def _declined_by_another_rule(case: _Case) -> _Answer | None:
    """A rule that is not the anchor's own epilogue looked at exactly this edge."""
    epilogue = case.facts.nearest(case.source)
    for decline in case.facts.declines.get(case.source.id, ()):
        other = decline.rule != epilogue or decline.rule == "elementwise-chain"
        if case.anchor is not None and "prologue" in decline.rule:
            continue  # an anchor computes it already: that the next one could not do so either explains nothing
        about = decline.target == case.target.id and decline.reason != f"{case.target.op} is not elementwise"
        if other and about and decline.reason not in _THIN:
            return _Answer(case.switched_off(decline.rule) or decline.reason, decline.rule)
    return None


def _leaves_the_network(case: _Case) -> _Answer | None:
    if case.target.op != "Output":
        return None
    return _Answer("a graph output: the caller reads it from memory", case.facts.nearest(case.source))


def _enters_the_network(case: _Case) -> _Answer | None:
    if case.source.op != "Input":
        return None
    return _Answer("a graph input: it is in memory already, no kernel makes it")


def _into_a_view(case: _Case) -> _Answer | None:
    if case.target.kind is not Kind.VIEW:
        return None
    layouts = case.facts.plan.layouts
    if case.target.id in layouts.shuffles:
        return _Answer("a view: the kernel in front stores in its order", SHUFFLES)
    if case.target.id in layouts.read_through:
        return _Answer("a view: what reads it steps through this tensor in its order", READS)
    for decline in layouts.declines:
        if decline.target == case.target.id:
            return _Answer(f"a copy: {decline.reason}", decline.rule)
    free = case.target.id in layouts.views
    return _Answer("a view: costs no kernel" if free else "a copy: strides cannot express it")


def _out_of_a_view(case: _Case) -> _Answer | None:
    if case.source.kind is not Kind.VIEW:
        return None
    if case.source.id in case.facts.plan.layouts.views:
        return _Answer("it is read through a view, which costs no kernel")
    return _Answer("it is a copy in another order; no rule fuses a copy with what reads it")


_RESULTS = {"Add": "sum", "Sub": "difference", "Mul": "product", "Div": "quotient"}


def _other_operand(case: _Case) -> _Answer | None:
    """A residual, a gate: the kernel that computes the consumer reads this operand from memory."""
    region = case.target_region
    if region is None or case.target.kind is not Kind.ELEMENTWISE:
        return None
    others = [value.node for value in case.graph.inputs(case.target) if value != case.value]
    if not any(node in region.nodes for node in others):
        return None
    what = _RESULTS.get(case.target.op, "operation")
    rule = case.facts.nearest(case.target)
    return _Answer(f"the other operand of the {what} was fused; this one is read from memory", rule)


def _read_by_a_prologue(case: _Case) -> _Answer | None:
    region = case.target_region
    if region is None or case.target.id not in region.prologue or case.target.kind is not Kind.ELEMENTWISE:
        return None
    anchor = case.graph.node(region.anchor).op if region.anchor is not None else "its anchor"
    rule = region.rules[0] if region.rules else None
    return _Answer(f"the consumer is computed while {anchor} loads it, from this tensor in memory", rule)


def _not_taken_in(case: _Case) -> _Answer | None:
    """An elementwise consumer that the producer's kernel did not take: the fusion pass says why, or it is off."""
    rule = case.facts.nearest(case.source)
    if rule is None or case.target.kind is not Kind.ELEMENTWISE:
        return None
    declines = [decline for decline in case.facts.declines.get(case.source.id, ()) if decline.rule == rule]
    if not declines:
        off = case.switched_off(rule)
        return _Answer(off, rule) if off else None
    decline = next((d for d in declines if d.target == case.target.id), declines[0])
    return _Answer(decline.reason, rule)


_BEHIND_AN_ANCHOR = {
    Kind.CONTRACTION: "both are anchors ({source} and {target}); no rule computes these two in one kernel",
    Kind.WINDOW: "{target} reads windows of neighbouring results; no rule computes it behind {source} here",
    Kind.REDUCTION: "{target} needs results of many tiles; no rule computes it behind {source}",
    Kind.MOVEMENT: "{target} moves elements; no rule lets {source} write them where they go",
    Kind.ELEMENTWISE: "no rule takes {target} behind {source}",
}
_BEHIND_A_CHAIN = {
    Kind.CONTRACTION: "no rule computes an elementwise operator here while {target} loads its operand",
    Kind.WINDOW: "no rule computes an elementwise operator while {target} reads its windows",
    Kind.REDUCTION: "no rule computes an elementwise operator while {target} reads its operand",
    Kind.MOVEMENT: "{target} moves elements; no rule lets an elementwise kernel write them where they go",
    Kind.ELEMENTWISE: "no rule takes both into one kernel",
}


def _not_by_the_last_block(case: _Case) -> _Answer | None:
    """A kernel of its own that the last block of the launch before it could have computed."""
    if case.target_region is None:
        return None
    decline = case.facts.launch_declines.get((case.source.id, case.target_region.head))
    return _Answer(decline.reason, decline.rule) if decline else None


def _by_kinds(case: _Case) -> _Answer | None:
    source = case.anchor
    rule = case.facts.nearest(case.source)
    if source is not None and source.kind is Kind.MOVEMENT:
        if source.op == "Concat":
            return _Answer("a concatenation is written by several kernels: there is no one kernel to take it in")
        return _Answer(f"no rule fuses {source.op} with what reads it")
    table = _BEHIND_A_CHAIN if source is None else _BEHIND_AN_ANCHOR
    text = table.get(case.target.kind)
    name = source.op if source is not None else case.source.op
    return _Answer(text.format(source=name, target=case.target.op), rule) if text else None


def _anything_else(case: _Case) -> _Answer | None:
    return _Answer(f"no rule fuses {case.source.op} with {case.target.op}", case.facts.nearest(case.source))


_QUESTIONS: tuple[Callable[[_Case], _Answer | None], ...] = (
    _same_kernel,
    _same_launch,
    _concatenated,
    _into_a_view,
    _leaves_the_network,
    _read_by_a_prologue,
    _other_operand,
    _declined_by_another_rule,
    _enters_the_network,
    _out_of_a_view,
    _not_taken_in,
    _not_by_the_last_block,
    _by_kinds,
    _anything_else,
)


# -- the report -------------------------------------------------------------------------------------------------------
def explain(plan: Plan) -> list[Edge]:
    """Every edge of the canonical graph, graph inputs and outputs included and constants left out, in running order."""
    facts = _Facts(plan)
    return [_explained(case) for case in _cases(facts)]


def _cases(facts: _Facts) -> Iterator[_Case]:
    graph = facts.plan.graph
    for node in graph.nodes():
        for position, value in enumerate(graph.inputs(node)):
            if graph.producer(value).op != "Constant":
                yield _Case(facts, value, node, position)


def _explained(case: _Case) -> Edge:
    answer = next(found for question in _QUESTIONS if (found := question(case)) is not None)
    fused = answer.region is not None
    return Edge(
        source=case.source.label,
        target=case.target.label,
        fused=fused,
        kernel=case.facts.kernels.get(answer.region.id) if answer.region is not None else None,
        rule=answer.rule,
        reason=answer.reason,
        source_origins=case.source.origins,
        target_origins=case.target.origins,
    )


def explain_model(model: str, choices: Choices, target: str) -> dict[str, Any]:
    """The report of MODEL for its first target. Raises `UsageError` for a compiled network: it keeps no reasons."""
    if is_compiled(model):
        raise errors.compiled_already(model)
    plan = make_plan(model, choices, target, "fp16")
    edges = explain(plan)
    return {
        "model": model,
        "target": plan.programs[0].target.name,
        "dtype": plan.options.dtype,
        "opt": plan.options.switches.opt,
        "policy": plan.options.policy_name,
        "edges": [asdict(edge) for edge in edges],
        "folded": folded(plan.journal),
        "zero_borders": zero_borders(plan.graph, plan.layouts),
        **counts(edges),
    }


def folded(journal: Journal) -> list[dict[str, Any]]:
    """What the rewrites in front of fusion made: by the journal, the ``rule`` and the user's ``nodes`` that a new node
    stands for."""
    found: dict[tuple[str, tuple[str, ...]], None] = {}
    for record in journal:
        if record.name in RULES:
            for entry in (*record.added, *record.updated):
                if entry.op != "Constant" and entry.origins:
                    found[record.name, entry.origins] = None
    return [{"rule": rule, "nodes": list(nodes)} for rule, nodes in found]


def counts(edges: Sequence[Edge]) -> dict[str, dict[str, int]]:
    """Edges per rule that fused them, and per reason that left them alone, the most frequent first."""
    fused: dict[str, int] = {}
    left: dict[str, int] = {}
    for edge in edges:
        table, key = (fused, edge.rule or "") if edge.fused else (left, edge.reason or "")
        table[key] = table.get(key, 0) + 1
    order = {"fused": fused, "not_fused": left}
    return {name: dict(sorted(table.items(), key=lambda item: -item[1])) for name, table in order.items()}
