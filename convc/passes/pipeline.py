"""Running passes: each is a frozen record with a name and a ``run``; after each, the invariants of its stage hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..ir import Graph
from ..ir.invariants import check
from ..ir.journal import Journal
from .rules import Switches


@dataclass(frozen=True)
class Pass:
    """A named rewrite of a graph in place.

    run: returns whether anything changed. rule: the switch that turns it off, if it has one. ensures: the
    stage that the graph is in afterwards, if it moves on.
    """

    name: str
    run: Callable[[Graph], bool]
    rule: str | None = None
    ensures: str | None = None


@dataclass
class Context:
    """What passes share: the switches, whether to check invariants after every pass, and the journal."""

    switches: Switches = field(default_factory=Switches)
    verify: bool = False
    journal: Journal = field(default_factory=Journal)
    after: Callable[[str, Graph], None] | None = None


def run_passes(graph: Graph, passes: Sequence[Pass], context: Context) -> Graph:
    """Runs the passes that are switched on, in order, on ``graph`` itself.

    Raises:
        PassError: where invariants are checked and a pass broke one.
    """
    for step in passes:
        if step.rule is not None and not context.switches.on(step.rule):
            continue
        with context.journal.record(step.name, graph) as entry:
            entry.changed = step.run(graph)
            graph.prune()
        if step.ensures:
            graph.stage = step.ensures
        if context.verify:
            check(graph)
        if context.after:
            context.after(step.name, graph)
    return graph
