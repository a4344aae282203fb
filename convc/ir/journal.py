"""What each pass did to the graph."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .graph import Graph, Node


@dataclass(frozen=True)
class Entry:
    """A node that a pass added, removed or changed: its number, its operator and the user's nodes it stands for."""

    id: int
    op: str
    origins: tuple[str, ...]

    def __str__(self) -> str:
        names = f" ({', '.join(self.origins)})" if self.origins else ""
        return f"%{self.id} {self.op}{names}"


@dataclass
class Record:
    """One run of one pass. ``changed``: the pass says so, or the graph shows it; ``failed``: it raised."""

    name: str
    added: tuple[Entry, ...] = ()
    removed: tuple[Entry, ...] = ()
    updated: tuple[Entry, ...] = ()
    changed: bool = False
    seconds: float = 0.0
    failed: bool = False

    def __str__(self) -> str:
        outcome = "failed" if self.failed else "changed" if self.changed else "nothing to do"
        counts = f"+{len(self.added)} -{len(self.removed)} ~{len(self.updated)}"
        return f"{self.name}: {outcome}, {counts}, {1e3 * self.seconds:.1f} ms"


@dataclass
class Journal:
    """The passes that ran, in order; ``str`` gives one line for each."""

    records: list[Record] = field(default_factory=list)

    @contextmanager
    def record(self, name: str, graph: Graph) -> Iterator[Record]:
        """Compares ``graph`` before and after the body, which may set ``changed`` itself; also when the body raises."""
        record = Record(name)
        self.records.append(record)
        nodes, edges = _snapshot(graph)
        start = time.perf_counter()
        try:
            yield record
        except BaseException:
            record.failed = True
            raise
        finally:
            record.seconds = time.perf_counter() - start
            after, edges_after = _snapshot(graph)
            record.added = _entries(after[id] for id in after if id not in nodes)
            record.removed = _entries(nodes[id] for id in nodes if id not in after)
            record.updated = _entries(after[id] for id in after if id in nodes and after[id] is not nodes[id])
            record.changed |= bool(record.added or record.removed or record.updated) or edges != edges_after

    def made(self, id: int) -> Record | None:
        """The pass that added node ``id``; None where it came with the model."""
        return next((record for record in self.records if any(entry.id == id for entry in record.added)), None)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __str__(self) -> str:
        return "\n".join(map(str, self.records))


def _snapshot(graph: Graph) -> tuple[dict[int, Node], set[tuple[int, int, int, int]]]:
    nodes = {id: graph.node(id) for id in sorted(graph.networkx)}
    return nodes, set(graph.networkx.edges(keys=True, data="output"))


def _entries(nodes: Iterable[Node]) -> tuple[Entry, ...]:
    return tuple(Entry(node.id, node.op, node.origins) for node in nodes)
