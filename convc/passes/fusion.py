"""Fusion: dividing the graph into regions that one kernel computes each.

A region grows from an anchor (convolution, matrix product, pooling, reduction) over the elementwise operators behind
it, by kinds of operators rather than by pairs. It has one value that leaves it, so it can never form a cycle with the
rest of the graph: whatever else a region reads cannot depend on anything inside it. Where an operator is not taken,
the rule says why (`Decline`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import networkx as nx

from ..ir import Graph, Kind, Node, Value
from ..ir.plan import Decline, FusedGraph, Region
from . import pooling, prologue, separable
from .rules import Switches

MAX_EXTERNAL_OPERANDS = 12
"""Most tensors that one fused kernel reads besides its anchor's."""

_ANCHOR_RULES = {
    "Conv": "conv-epilogue",
    Kind.CONTRACTION: "matmul-epilogue",
    Kind.WINDOW: "pool-epilogue",
    Kind.REDUCTION: "reduction-epilogue",
}


def rule_of(anchor: Node) -> str | None:
    """The name of the rule that fuses elementwise operators behind this node."""
    if anchor.kind is Kind.ELEMENTWISE:
        return "elementwise-chain"
    return _ANCHOR_RULES.get(anchor.op) or _ANCHOR_RULES.get(anchor.kind)


@dataclass
class _Fuser:
    graph: Graph
    switches: Switches
    position: dict[int, int]
    owner: dict[int, int] = field(default_factory=dict)
    members: dict[int, list[int]] = field(default_factory=dict)
    prologues: dict[int, list[int]] = field(default_factory=dict)
    applied: dict[int, list[str]] = field(default_factory=dict)
    declines: list[Decline] = field(default_factory=list)

    def grow(self, seed: Node) -> None:
        """Starts a region at ``seed`` and takes what can follow it."""
        region = [*self.prologues.get(seed.id, ()), seed.id]
        self.members[seed.id] = region
        self.owner[seed.id] = seed.id
        rule = rule_of(seed)
        if rule is None or len(seed.outputs) != 1:
            return
        tail = Value(seed.id)
        while True:
            taken, reason, culprit = self._next(tail, set(region))
            if reason is None and not self.switches.on(rule):
                reason = "the rule is switched off"
            if reason is not None:
                if culprit is not None:
                    self.declines.append(Decline(rule, tail.node, culprit, reason))
                return
            for id in taken:
                region.append(id)
                self.owner[id] = seed.id
            tail = Value(taken[-1])

    def _next(self, tail: Value, region: set[int]) -> tuple[list[int], str | None, int | None]:
        """The nodes to absorb behind ``tail``, up to the next single value, or a reason and the node it is about."""
        users = sorted({use.node for use in self.graph.users(tail)}, key=self.position.__getitem__)
        if not users:
            return [], "nothing reads it", None
        shape = self.graph.type(tail).shape
        taken: list[int] = []
        frontier = list(users)
        while True:
            node = self.graph.node(frontier.pop(0))
            reason = self._refusal(node, shape, region | set(taken), single=not frontier and not taken)
            if reason is not None:
                if taken or frontier:
                    reason = f"several operators read it, and one of them cannot be fused: {reason}"
                return [], reason, node.id
            taken.append(node.id)
            following = {use.node for use in self.graph.users(Value(node.id))} - set(frontier)
            if not frontier:
                return taken, None, None
            frontier = sorted({*frontier, *following}, key=self.position.__getitem__)
            if len(taken) > MAX_EXTERNAL_OPERANDS:
                return [], "several operators read it and they do not meet again soon", node.id

    def _refusal(self, node: Node, shape: object, inside: set[int], single: bool) -> str | None:
        if node.op == "Output":
            return "it is a graph output"
        if node.kind is not Kind.ELEMENTWISE:
            return f"{node.op} is not elementwise"
        if node.id in self.owner:
            return "it already belongs to another kernel"
        if node.outputs[0].shape != shape:
            return "the result is broadcast to a larger shape"
        if not node.outputs[0].dtype.is_float:
            return f"its result is {node.outputs[0].dtype}"
        if len(self._externals([*inside, node.id])) > MAX_EXTERNAL_OPERANDS:
            return f"the kernel would read more than {MAX_EXTERNAL_OPERANDS} tensors"
        return None

    def _externals(self, nodes: Iterable[int]) -> set[Value]:
        inside = set(nodes)
        return {value for id in inside for value in self.graph.inputs(id) if value.node not in inside}

    def take_prologue(self, conv: Node) -> None:
        """Lets a convolution compute the elementwise operators in front of it as it loads its operand."""
        nodes, reason = prologue.prologue_of(self.graph, conv, self.owner)
        if nodes and not self.switches.on(prologue.RULE):
            nodes, reason = [], "the rule is switched off"
        if reason:
            source = self.graph.inputs(conv)[0].node
            self.declines.append(Decline(prologue.RULE, source, conv.id, reason))
        if nodes:
            self.prologues[conv.id] = nodes
            self.applied[conv.id] = [prologue.RULE]
            self.members[conv.id] += nodes
            self.owner |= dict.fromkeys(nodes, conv.id)

    def take_depthwise(self, conv: Node) -> None:
        """Lets a 1x1 convolution compute the depthwise convolution in front of it."""
        nodes, reason = separable.separable_of(self.graph, conv)
        if nodes and not self.switches.on(separable.RULE):
            nodes, reason = [], "the rule is switched off"
        if reason:
            self.declines.append(Decline(separable.RULE, self.graph.inputs(conv)[0].node, conv.id, reason))
        if nodes:
            self.prologues[conv.id] = nodes
            self.applied[conv.id] = [separable.RULE]
            self.owner |= dict.fromkeys(nodes, conv.id)

    def take_pooling(self, pool: Node) -> None:
        """Lets a convolution end in the max pooling behind it."""
        nodes, reason = pooling.poolable(self.graph, pool)
        if nodes and any(id in self.owner for id in nodes):
            nodes, reason = [], "the convolution already belongs to another kernel"
        if nodes and not self.switches.on(pooling.RULE):
            nodes, reason = [], "the rule is switched off"
        if reason:
            self.declines.append(Decline(pooling.RULE, self.graph.inputs(pool)[0].node, pool.id, reason))
        if nodes:
            conv = nodes[0]
            self.members[conv] = [*nodes, pool.id]
            self.applied[conv] = [pooling.RULE]
            self.owner |= dict.fromkeys(self.members[conv], conv)

    def absorb_producers(self, seed: int) -> None:
        """Elementwise chains also take elementwise producers of their shape that nobody else reads."""
        region = self.members[seed]
        stack = list(region)
        while stack:
            for value in self.graph.inputs(stack.pop()):
                other = self.owner.get(value.node)
                if other is None or other == seed or not self._absorbable(other, value, seed):
                    continue
                stack.extend(self.members[other])
                region.extend(self.members.pop(other))
                for id in region:
                    self.owner[id] = seed

    def _absorbable(self, other: int, value: Value, seed: int) -> bool:
        nodes = self.members[other]
        users = {use.node for use in self.graph.users(value)}
        return (
            all(self.graph.node(id).kind is Kind.ELEMENTWISE for id in nodes)
            and self.graph.type(value).shape == self.graph.type(Value(seed)).shape
            and users <= set(self.members[seed])
            and len(self._externals([*nodes, *self.members[seed]])) <= MAX_EXTERNAL_OPERANDS
        )


def fuse(graph: Graph, switches: Switches) -> FusedGraph:
    """Divides ``graph`` into regions; without any fusion rule each operator is a region of its own.

    Anchors are taken from the last to the first, so that a residual sum goes to the kernel that ends later and reads a
    tensor that already exists.
    """
    nodes = graph.nodes()
    fuser = _Fuser(graph, switches, {node.id: index for index, node in enumerate(nodes)})
    for node in nodes:
        if node.op == "Conv":
            fuser.take_depthwise(node)
    for node in nodes:
        if node.op == "MaxPool":
            fuser.take_pooling(node)
    for node in reversed(nodes):
        if node.id in fuser.owner:
            continue
        if node.kind in (Kind.CONTRACTION, Kind.WINDOW, Kind.REDUCTION, Kind.VIEW, Kind.MOVEMENT):
            fuser.grow(node)
    for node in nodes:
        if node.op == "Conv" and fuser.owner.get(node.id) == node.id and node.id not in fuser.prologues:
            fuser.take_prologue(node)
    for node in nodes:
        if node.kind is Kind.ELEMENTWISE and node.id not in fuser.owner:
            fuser.grow(node)
    if switches.on("elementwise-chain"):
        for node in reversed(nodes):
            if node.kind is Kind.ELEMENTWISE and node.id in fuser.members:
                fuser.absorb_producers(node.id)
    return _divided(graph, fuser)


def _divided(graph: Graph, fuser: _Fuser) -> FusedGraph:
    order = _region_order(graph, fuser)
    fused = graph.copy()
    regions = []
    for index, seed in enumerate(order):
        ids = tuple(sorted(fuser.members[seed], key=fuser.position.__getitem__))
        node = graph.node(seed)
        anchor = None if node.kind is Kind.ELEMENTWISE else seed
        prologue = tuple(sorted(fuser.prologues.get(seed, ()), key=fuser.position.__getitem__))
        rule = rule_of(node)
        pooled = graph.node(ids[-1]).op == "MaxPool" and len(ids) > 1
        rules = (rule,) if rule and len(ids) > 1 + len(prologue) + pooled else ()
        regions.append(Region(index, ids, anchor, Value(ids[-1]), (*fuser.applied.get(seed, ()), *rules), prologue))
        for id in ids:
            fused.update(fused.node(id), region=index)
    fused.stage = "fused"
    return FusedGraph(fused, tuple(regions), tuple(fuser.declines))


def _region_order(graph: Graph, fuser: _Fuser) -> list[int]:
    """Seeds of the regions in an order in which they can run: by the position of the last node, where free."""
    quotient = nx.DiGraph()
    quotient.add_nodes_from(fuser.members)
    for source, target in graph.networkx.edges():
        a, b = fuser.owner.get(source), fuser.owner.get(target)
        if a is not None and b is not None and a != b:
            quotient.add_edge(a, b)
    last = {seed: max(fuser.position[id] for id in ids) for seed, ids in fuser.members.items()}
    return list(nx.lexicographical_topological_sort(quotient, key=last.__getitem__))
