"""What became of every edge: the kernel that it was fused into and by which rule, or the nearest rule and its reason
(`convc.analysis.edge_questions`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .. import errors
from ..ir.journal import Journal
from ..passes import RULES
from ..program import Plan
from .edge_questions import Case, Facts, answered
from .models import Choices, is_compiled, make_plan
from .placements import zero_borders


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


def explain(plan: Plan) -> list[Edge]:
    """Every edge of the canonical graph, graph inputs and outputs included and constants left out, in running order."""
    facts = Facts(plan)
    return [_explained(case) for case in _cases(facts)]


def _cases(facts: Facts) -> Iterator[Case]:
    graph = facts.plan.graph
    for node in graph.nodes():
        for position, value in enumerate(graph.inputs(node)):
            if graph.producer(value).op != "Constant":
                yield Case(facts, value, node, position)


def _explained(case: Case) -> Edge:
    answer = answered(case)
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
