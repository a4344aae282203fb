"""Running passes: each is a frozen record with a name and a ``run``; after each, the invariants of its stage hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .. import errors
from ..ir import Graph
from ..ir.invariants import check
from ..ir.journal import Journal
from .switches import Switches


@dataclass(frozen=True)
class Pass:
    """A named rewrite of a graph in place.

    run: returns whether anything changed. rule: the switch that turns it off, if it has one. ensures: the
    stage that the graph is in afterwards, if it moves on. outside: whether it is a rule from outside, which is always
    checked.
    """

    name: str
    run: Callable[[Graph], bool]
    rule: str | None = None
    ensures: str | None = None
    outside: bool = False


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
        PassError: where invariants are checked and a pass broke one; always where it came from outside.
    """
    for step in passes:
        if step.rule is not None and not context.switches.on(step.rule):
            continue
        interface = _interface(graph)
        with context.journal.record(step.name, graph) as entry:
            entry.changed = step.run(graph)
            graph.prune()
        if step.ensures:
            graph.stage = step.ensures
        if step.outside:
            _check_outside(step.name, graph, interface)
        elif context.verify:
            check(graph)
        if context.after:
            context.after(step.name, graph)
    return graph


def _interface(graph: Graph) -> list[tuple[str, object]]:
    """Names and types of the inputs and outputs, which no rewrite may change."""
    return [(node.attributes["name"], node.outputs[0]) for node in graph.graph_inputs] + [
        (node.attributes["name"], graph.type(graph.inputs(node)[0])) for node in graph.graph_outputs
    ]


def _check_outside(name: str, graph: Graph, interface: list[tuple[str, object]]) -> None:
    try:
        check(graph)
    except errors.PassError as error:
        raise errors.rule_broke(name, error.message, error.node) from error
    if _interface(graph) != interface:
        raise errors.rule_broke(name, "expected the inputs and outputs that the network had; found others", None)
