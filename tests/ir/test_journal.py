"""The journal says what each pass did."""

from __future__ import annotations

import pytest
from test_invariants import ADD, EXP, RELU, healthy

from convc.ir import Use, Value
from convc.ir.journal import Entry, Journal


def test_added_removed_and_updated() -> None:
    graph, journal = healthy(), Journal()
    with journal.record("negate", graph):
        negated = graph.add("Neg", [Value(ADD)], origins=["minus"])
        graph.replace(Value(RELU), negated)
        graph.remove(RELU)
        graph.add_origins(Value(EXP), ["more"])
    (record,) = journal
    assert record.added == (Entry(negated.node, "Neg", ("minus",)),)
    assert record.removed == (Entry(RELU, "Relu", ("relu",)),)
    assert record.updated == (Entry(EXP, "Exp", ("exp", "more")),)
    assert record.changed
    assert record.seconds >= 0
    assert journal.made(negated.node) is record
    assert journal.made(ADD) is None
    assert str(record).startswith("negate: changed, +1 -1 ~1, ")
    assert str(record.added[0]) == f"%{negated.node} Neg (minus)"


def test_unchanged_rewired_and_reported() -> None:
    graph, journal = healthy(), Journal()
    with journal.record("nothing", graph):
        pass
    with journal.record("rewire", graph):
        graph.rewire(Use(EXP, 0), Value(0))
    with journal.record("says so", graph) as record:
        record.changed = True
    assert [record.changed for record in journal] == [False, True, True]
    assert len(journal) == 3
    assert str(journal).split("\n")[0].startswith("nothing: nothing to do")


def test_a_pass_that_raises_is_recorded() -> None:
    graph, journal = healthy(), Journal()
    with pytest.raises(RuntimeError), journal.record("broken", graph):
        graph.add("Neg", [Value(0)])
        raise RuntimeError
    (record,) = journal
    assert record.failed
    assert len(record.added) == 1
    assert "failed" in str(journal)
