"""Questions about an edge: which kernel it was fused into and by which rule, or the nearest rule and its reason.

`_QUESTIONS` is a table of questions, each about one kind of edge; the first that has an answer is believed. Where the
fusion pass itself declined (`convc.ir.plan.Decline`), its reason is taken unless the kinds of the two operators say
more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ..ir import Graph, Kind, Node, Value
from ..ir.plan import Decline, Region
from ..passes import RULES, Switches
from ..passes.fusion import rule_of
from ..passes.launches import LAST_BLOCK
from ..passes.shuffles import READER_RULE as READS
from ..passes.shuffles import RULE as SHUFFLES
from ..program import Plan
from .placements import in_place


@dataclass(frozen=True)
class Answer:
    """Verdict on an edge. region: whose kernel it went into, where it is fused."""

    reason: str | None = None
    rule: str | None = None
    region: Region | None = None


class Facts:
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
class Case:
    """One edge under question."""

    facts: Facts
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
def _on_host(case: Case) -> Answer | None:
    """One end of the edge, or both, are no kernels at all."""
    hosted = case.facts.plan.fused.hosted
    for node, what in ((case.target, "reads"), (case.source, "makes")):
        if node.id in hosted:
            same = node is case.target and case.source_region is case.target_region
            how = "both in one step of the host" if same else f"the host {what} it"
            return Answer(f"{how}, in NumPy: {hosted[node.id]}")
    return None


def _same_kernel(case: Case) -> Answer | None:
    region = case.target_region
    if region is None or region is not case.source_region:
        return None
    return Answer(None, _rule_inside(case, region), region)


def _rule_inside(case: Case, region: Region) -> str | None:
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


def _level(case: Case, region: Region) -> int:
    """How many anchors of a prologue are still to come where an edge leads: each rule reads through the one before."""
    if case.target.id not in region.prologue:
        return 0
    behind = region.prologue[region.prologue.index(case.target.id) :]
    return sum(case.graph.node(id).kind is not Kind.ELEMENTWISE for id in behind)


def _same_launch(case: Case) -> Answer | None:
    """The last block of the producer's launch computes the consumer."""
    source, target = case.source_region, case.target_region
    if source is None or target is None:
        return None
    launches = case.facts.launches
    if source.id not in launches or launches[source.id] != launches.get(target.id):
        return None
    return Answer("computed by the last block of the same launch, from memory", LAST_BLOCK, target)


_COPIED: tuple[tuple[str, Callable[[Case], bool]], ...] = (
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


def _concatenated(case: Case) -> Answer | None:
    rule = "concat-in-place"
    if case.target.op != "Concat":
        return None
    if in_place(case.graph, case.facts.plan.layouts, case.target, case.position):
        return Answer("written in place into its slice", rule, case.source_region or case.target_region)
    why = case.switched_off(rule) or f"it is {next(text for text, holds in _COPIED if holds(case))}"
    return Answer(f"copied: {why}", rule)


_THIN = ("it already belongs to another kernel", "it is a graph output")
"""Reasons of the fusion pass that say less than the edge itself does."""


def _declined_by_another_rule(case: Case) -> Answer | None:
    """A rule that is not the anchor's own epilogue looked at exactly this edge."""
    epilogue = case.facts.nearest(case.source)
    for decline in case.facts.declines.get(case.source.id, ()):
        other = decline.rule != epilogue or decline.rule == "elementwise-chain"
        if case.anchor is not None and "prologue" in decline.rule:
            continue  # an anchor computes it already: that the next one could not do so either explains nothing
        about = decline.target == case.target.id and decline.reason != f"{case.target.op} is not elementwise"
        if other and about and decline.reason not in _THIN:
            return Answer(case.switched_off(decline.rule) or decline.reason, decline.rule)
    return None


def _leaves_the_network(case: Case) -> Answer | None:
    if case.target.op != "Output":
        return None
    return Answer("a graph output: the caller reads it from memory", case.facts.nearest(case.source))


def _enters_the_network(case: Case) -> Answer | None:
    if case.source.op != "Input":
        return None
    return Answer("a graph input: it is in memory already, no kernel makes it")


def _into_a_view(case: Case) -> Answer | None:
    if case.target.kind is not Kind.VIEW:
        return None
    layouts = case.facts.plan.layouts
    if case.target.id in layouts.shuffles:
        return Answer("a view: the kernel in front stores in its order", SHUFFLES)
    if case.target.id in layouts.read_through:
        return Answer("a view: what reads it steps through this tensor in its order", READS)
    for decline in layouts.declines:
        if decline.target == case.target.id:
            return Answer(f"a copy: {decline.reason}", decline.rule)
    free = case.target.id in layouts.views
    return Answer("a view: costs no kernel" if free else "a copy: strides cannot express it")


def _out_of_a_view(case: Case) -> Answer | None:
    if case.source.kind is not Kind.VIEW:
        return None
    if case.source.id in case.facts.plan.layouts.views:
        return Answer("it is read through a view, which costs no kernel")
    return Answer("it is a copy in another order; no rule fuses a copy with what reads it")


_RESULTS = {"Add": "sum", "Sub": "difference", "Mul": "product", "Div": "quotient"}


def _other_operand(case: Case) -> Answer | None:
    """A residual, a gate: the kernel that computes the consumer reads this operand from memory."""
    region = case.target_region
    if region is None or case.target.kind is not Kind.ELEMENTWISE:
        return None
    others = [value.node for value in case.graph.inputs(case.target) if value != case.value]
    if not any(node in region.nodes for node in others):
        return None
    what = _RESULTS.get(case.target.op, "operation")
    rule = case.facts.nearest(case.target)
    return Answer(f"the other operand of the {what} was fused; this one is read from memory", rule)


def _read_by_a_prologue(case: Case) -> Answer | None:
    region = case.target_region
    if region is None or case.target.id not in region.prologue or case.target.kind is not Kind.ELEMENTWISE:
        return None
    anchor = case.graph.node(region.anchor).op if region.anchor is not None else "its anchor"
    rule = region.rules[0] if region.rules else None
    return Answer(f"the consumer is computed while {anchor} loads it, from this tensor in memory", rule)


def _not_taken_in(case: Case) -> Answer | None:
    """An elementwise consumer that the producer's kernel did not take: the fusion pass says why, or it is off."""
    rule = case.facts.nearest(case.source)
    if rule is None or case.target.kind is not Kind.ELEMENTWISE:
        return None
    declines = [decline for decline in case.facts.declines.get(case.source.id, ()) if decline.rule == rule]
    if not declines:
        off = case.switched_off(rule)
        return Answer(off, rule) if off else None
    decline = next((d for d in declines if d.target == case.target.id), declines[0])
    return Answer(decline.reason, rule)


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


def _not_by_the_last_block(case: Case) -> Answer | None:
    """A kernel of its own that the last block of the launch before it could have computed."""
    if case.target_region is None:
        return None
    decline = case.facts.launch_declines.get((case.source.id, case.target_region.head))
    return Answer(decline.reason, decline.rule) if decline else None


def _by_kinds(case: Case) -> Answer | None:
    source = case.anchor
    rule = case.facts.nearest(case.source)
    if source is not None and source.kind is Kind.MOVEMENT:
        if source.op == "Concat":
            return Answer("a concatenation is written by several kernels: there is no one kernel to take it in")
        return Answer(f"no rule fuses {source.op} with what reads it")
    table = _BEHIND_A_CHAIN if source is None else _BEHIND_AN_ANCHOR
    text = table.get(case.target.kind)
    name = source.op if source is not None else case.source.op
    return Answer(text.format(source=name, target=case.target.op), rule) if text else None


def _anything_else(case: Case) -> Answer | None:
    return Answer(f"no rule fuses {case.source.op} with {case.target.op}", case.facts.nearest(case.source))


_QUESTIONS: tuple[Callable[[Case], Answer | None], ...] = (
    _on_host,
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


def answered(case: Case) -> Answer:
    """The verdict on an edge."""
    return next(found for question in _QUESTIONS if (found := question(case)) is not None)
