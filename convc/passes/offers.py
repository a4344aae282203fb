"""What a rule from outside offers to fuse, checked before it is taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .. import errors
from ..ir import Graph, Kind, Value
from . import prologue
from .choice import Choice


def check_offer(rule: str, offered: object, graph: Graph, taken: Mapping[int, int]) -> None:
    """Raises `PassError`, which names the rule, for anything but None, a reason, or a fusion that one kernel can be."""
    if offered is None or isinstance(offered, str):
        return
    if not isinstance(offered, Choice):
        raise errors.bad_offer(rule, f"a {type(offered).__name__}; a proposer returns a Choice, a reason or None")
    for problem in _problems(rule, offered, graph, taken):
        raise errors.bad_offer(rule, problem)


def _problems(rule: str, choice: Choice, graph: Graph, taken: Mapping[int, int]) -> Iterator[str]:
    """What is wrong with a choice; each check relies on those before it."""
    nodes, anchor = choice.nodes, choice.anchor
    if choice.rule != rule:
        yield f"a choice of the rule {choice.rule!r}"
    missing = [id for id in (*nodes, *choice.sharers) if id not in graph.networkx]
    if missing:
        yield f"nodes that the graph does not have: {_listed(missing)}"
    position = {node.id: index for index, node in enumerate(graph.nodes())}
    if not nodes or list(nodes) != sorted(set(nodes), key=position.__getitem__):
        yield "nodes that are not in topological order, each once"
    labels = {id: graph.node(id).label for id in (*nodes, *choice.sharers)}
    structural = [labels[id] for id in nodes if graph.node(id).kind is Kind.STRUCTURAL]
    if structural:
        yield f"inputs, constants or outputs of the graph: {_listed(structural)}"
    owned = [labels[id] for id in (*nodes, *choice.sharers) if id in taken]
    if owned:
        yield f"nodes that belong to another kernel already: {_listed(owned)}"
    if anchor not in nodes or not set(choice.prologue) <= set(nodes) - {anchor}:
        yield "an anchor or a prologue that is not among its nodes"
    if choice.open and set(nodes) != {*choice.prologue, anchor}:
        yield "nodes behind the anchor, where open=True leaves it to convc to take them; say open=False"
    if choice.pool is not None:
        yield "a pooling of whole images, which only convc's own rule places"
    leaving = _leaving(choice, graph)
    if leaving:
        yield f"more than one value that is read outside: those of {_listed(labels[id] for id in leaving)} too"
    yield from _without_kernel(choice, graph)


def _leaving(choice: Choice, graph: Graph) -> list[int]:
    """Nodes other than the last whose values somebody else reads.

    Where there are none the kernel cannot wait for itself: whatever is computed from its one value comes later than all
    that it reads.
    """
    inside = {*choice.nodes}
    found = []
    for id in choice.nodes[:-1]:
        allowed = inside | set(choice.sharers) if id in choice.prologue else inside
        outputs = [Value(id, index) for index in range(len(graph.node(id).outputs))]
        if any(use.node not in allowed for value in outputs for use in graph.users(value)):
            found.append(id)
    return found


def _without_kernel(choice: Choice, graph: Graph) -> Iterator[str]:
    """What no kernel family computes: operators around an anchor are elementwise, those in front a convolution's."""
    anchor = graph.node(choice.anchor)
    behind = [graph.node(id) for id in choice.nodes if id != anchor.id and id not in choice.prologue]
    for node in behind:
        if node.kind is not Kind.ELEMENTWISE or node.outputs[0].shape != anchor.outputs[0].shape:
            yield f"{node.label} behind {anchor.label}: only elementwise operators of its shape can follow an anchor"
    for reader in (anchor, *map(graph.node, choice.sharers)) if choice.prologue else ():
        reason = prologue.unfit(graph, reader, choice.prologue) if reader.op == "Conv" else "it is no convolution"
        if reason:
            yield f"a prologue of {reader.label}, which cannot have one: {reason}"
    for node in map(graph.node, choice.prologue):
        if node.kind is not Kind.ELEMENTWISE or node.outputs[0] != graph.type(graph.inputs(anchor)[0]):
            yield f"{node.label} in a prologue: only elementwise operators of the operand's type can be in one"


def _listed(items: object) -> str:
    return ", ".join(map(str, items))  # type: ignore[call-overload]
