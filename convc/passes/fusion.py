"""Fusion: dividing the graph into regions that one kernel computes each.

A region grows from an anchor (convolution, matrix product, pooling, reduction) over the elementwise operators behind
it, by kinds of operators rather than by pairs. It has one value that leaves it, so it can never form a cycle with the
rest of the graph: whatever else a region reads cannot depend on anything inside it. A global pooling of that value may
be a second one, taken in when all kernels have grown: it reads nothing else. Where an operator is not taken,
the rule says why (`Decline`). What else a kernel may take in, in front of its anchor and behind it, is found by
proposers, one for each rule, and a policy chooses among what they offer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import networkx as nx

from ..ir import Graph, Kind, Node, Value
from ..ir.plan import Decline, FusedGraph, Region
from ..targets import GPUS
from . import back_to_back, expansion, global_pool, pool_conv, pooling, prologue, separable, softmax
from .choice import Choice, CostModel, Policy
from .element_types import odd_type, odd_type_in_fp32
from .extensions import Propose, from_outside
from .hosted import leaving, steps
from .offers import check_offer
from .switches import Switches

LAST: tuple[tuple[str, Propose], ...] = ((prologue.RULE, prologue.propose),)
"""Proposers that are asked about grown kernels, for operators in front of them that nobody took."""
ENDINGS: tuple[tuple[str, Propose], ...] = (
    (global_pool.RULE, global_pool.propose),
    (softmax.RULE, softmax.propose),
)
"""Proposers that are asked when every node belongs to a kernel: for kernels that can end another one."""

MAX_EXTERNAL_OPERANDS = 12
"""Most tensors that one fused kernel reads besides its anchor's. A guess, not measured."""

_ANCHOR_RULES: dict[str | Kind, str] = {
    **dict.fromkeys(("Conv", "ConvInteger"), "conv-epilogue"),
    "Pad": "pad-epilogue",
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
    policy: Policy
    position: dict[int, int]
    hosted: Mapping[int, str] = field(default_factory=dict)
    owner: dict[int, int] = field(default_factory=dict)
    members: dict[int, list[int]] = field(default_factory=dict)
    prologues: dict[int, list[int]] = field(default_factory=dict)
    pools: dict[int, int] = field(default_factory=dict)
    applied: dict[int, list[str]] = field(default_factory=dict)
    declines: list[Decline] = field(default_factory=list)
    complete: set[int] = field(default_factory=set)

    def settle(self, step: Sequence[int]) -> None:
        """Makes a region of what the host does in one step; nothing else joins it."""
        self.members[step[0]] = [*step]
        self.owner |= dict.fromkeys(step, step[0])
        self.complete.add(step[0])

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
            taken, reason, culprit = self._next(tail, set(region), seed)
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

    def _next(self, tail: Value, region: set[int], seed: Node) -> tuple[list[int], str | None, int | None]:
        """The nodes to absorb behind ``tail``, up to the next single value, or a reason and the node it is about."""
        users = sorted({use.node for use in self.graph.users(tail)}, key=self.position.__getitem__)
        if not users:
            return [], "nothing reads it", None
        shape = self.graph.type(tail).shape
        taken: list[int] = []
        frontier = list(users)
        while True:
            node = self.graph.node(frontier.pop(0))
            reason = self._refusal(node, shape, region | set(taken), seed)
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

    def _refusal(self, node: Node, shape: object, inside: set[int], seed: Node) -> str | None:
        if node.op == "Output":
            return "it is a graph output"
        if node.kind is not Kind.ELEMENTWISE:
            return f"{node.op} is not elementwise"
        if node.id in self.owner:
            return "it already belongs to another kernel"
        if node.outputs[0].shape != shape:
            return "the result is broadcast to a larger shape"
        if seed.kind is Kind.ELEMENTWISE:
            odd = odd_type(self.graph, node) or odd_type(self.graph, seed)
        else:
            moved = odd_type_in_fp32(self.graph, seed) if seed.kind is Kind.MOVEMENT else None
            odd = moved or odd_type_in_fp32(self.graph, node)
        if odd is not None:
            return f"its kernel cannot compute on {odd}"
        if len(self._externals([*inside, node.id])) > MAX_EXTERNAL_OPERANDS:
            return f"the kernel would read more than {MAX_EXTERNAL_OPERANDS} tensors"
        return None

    def _externals(self, nodes: Iterable[int]) -> set[Value]:
        inside = set(nodes)
        return {value for id in inside for value in self.graph.inputs(id) if value.node not in inside}

    def ask(self, rule: str, propose: Propose, node: Node, outside: bool = False) -> None:
        """Takes what a rule offers around ``node``, if it is switched on and the policy agrees.

        outside: whether the rule is one from outside, whose offers are checked and, where closed, left as they are.
        """
        if node.id in self.hosted:
            return
        offered = propose(self.graph, node, self.owner)
        if outside:
            check_offer(rule, offered, self.graph, self.owner)
        if offered is None:
            return
        reason = offered if isinstance(offered, str) else None
        if isinstance(offered, Choice) and not self.hosted.keys().isdisjoint(offered.nodes):
            reason = "what it would be fused with runs on the host"
        if not self.switches.on(rule):
            reason = reason or "the rule is switched off"
        if isinstance(offered, Choice):
            if any(id in self.prologues for id in offered.nodes if id != offered.anchor):
                reason = reason or "it already belongs to another kernel"
            reason = reason or self.policy.refusal(offered, self.graph)
        if reason is not None:
            self.declines.append(Decline(rule, self.graph.inputs(node)[0].node, node.id, reason))
        elif isinstance(offered, Choice):
            if outside and not offered.open:
                self.complete.add(offered.anchor)
            self._take(offered)
            for sharer in offered.sharers:
                self._take(self._for_sharer(offered, sharer))

    def _for_sharer(self, choice: Choice, sharer: int) -> Choice:
        """The choice with another anchor, which gets a prologue of its own: a copy in the graph."""
        copies: dict[int, int] = {}
        for id in choice.prologue:
            node = self.graph.node(id)
            inputs = [value._replace(node=copies.get(value.node, value.node)) for value in self.graph.inputs(id)]
            copy = self.graph.add(node.operator, inputs, node.attributes, origins=node.origins).node
            copies[id], self.position[copy] = copy, self.position[id]
            for use in self.graph.users(Value(id)):
                if use.node == sharer:
                    self.graph.rewire(use, Value(copy))
        prologue = tuple(copies.values())
        return replace(choice, nodes=(*prologue, sharer), anchor=sharer, prologue=prologue, sharers=())

    def _take(self, choice: Choice) -> None:
        seed = choice.anchor
        self.applied.setdefault(seed, []).append(choice.rule)
        self.prologues.setdefault(seed, []).extend(choice.prologue)
        grown = seed in self.members
        if grown or not choice.open:
            members = self.members.setdefault(seed, [])
            members.extend(id for id in choice.nodes if id not in members)
        taken = choice.nodes if grown or not choice.open else choice.prologue
        self.owner |= dict.fromkeys(taken, seed)
        if choice.pool is not None:
            self.pools[seed] = choice.pool
        for id in choice.nodes:
            if id != seed:
                self.members.pop(id, None)

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
            other not in self.complete
            and all(self.graph.node(id).kind is Kind.ELEMENTWISE for id in nodes)
            and self.graph.type(value).shape == self.graph.type(Value(seed)).shape
            and users <= set(self.members[seed])
            and len(self._externals([*nodes, *self.members[seed]])) <= MAX_EXTERNAL_OPERANDS
        )


def _first(switches: Switches) -> tuple[tuple[str, Propose], ...]:
    """Proposers that are asked before kernels grow, in this order."""
    gpus = [switches.machine(gpu) for gpu in GPUS]
    return (
        (separable.RULE, separable.propose),
        (pooling.RULE, pooling.propose),
        (pool_conv.RULE, pool_conv.propose),
        (expansion.RULE, expansion.propose),
        (back_to_back.RULE, partial(back_to_back.propose, gpus=gpus)),
    )


def fuse(
    graph: Graph, switches: Switches, policy: Policy | None = None, hosted: Mapping[int, str] | None = None
) -> FusedGraph:
    """Divides a copy of ``graph`` into regions; without any fusion rule each operator is a region of its own.

    Nodes that several kernels compute are in it once for each. policy: decides among legal fusions; by default the cost
    model, for all GPUs. hosted: nodes that run on the host, and why; their regions are its steps. Anchors are taken
    from the deepest to the first, so that a residual sum goes to the longer branch and reads a tensor that already
    exists.
    """
    graph = graph.copy()
    nodes = graph.nodes()
    position = {node.id: index for index, node in enumerate(nodes)}
    fuser = _Fuser(graph, switches, policy or CostModel(), position, hosted or {})
    for step in steps(graph, fuser.hosted):
        fuser.settle(step)
    operators = [node for node in nodes if node.kind is not Kind.STRUCTURAL]
    for rule, propose in from_outside():
        for node in operators:
            fuser.ask(rule, propose, node, outside=True)
    for rule, propose in _first(switches):
        for node in nodes:
            fuser.ask(rule, propose, node)
    for node in _deepest_first(graph):
        if node.id in fuser.owner:
            continue
        if node.kind in (Kind.CONTRACTION, Kind.WINDOW, Kind.REDUCTION, Kind.VIEW, Kind.MOVEMENT, Kind.OPAQUE):
            fuser.grow(node)
    for rule, propose in LAST:
        for node in nodes:
            if fuser.owner.get(node.id) == node.id and not fuser.prologues.get(node.id):
                fuser.ask(rule, propose, node)
    for node in nodes:
        if node.kind is Kind.ELEMENTWISE and node.id not in fuser.owner:
            fuser.grow(node)
    if switches.on("elementwise-chain"):
        for node in reversed(nodes):
            if node.kind is Kind.ELEMENTWISE and node.id in fuser.members and node.id not in fuser.hosted:
                fuser.absorb_producers(node.id)
    for rule, propose in ENDINGS:
        for node in nodes:
            if node.id in fuser.members:
                fuser.ask(rule, propose, node)
    return _divided(graph, fuser)


def _deepest_first(graph: Graph) -> list[Node]:
    """All nodes by the length of the longest path that leads to them, the longest first."""
    depth: dict[int, int] = {}
    for node in graph.nodes():
        depth[node.id] = 1 + max((depth[value.node] for value in graph.inputs(node)), default=0)
    return sorted(reversed(graph.nodes()), key=lambda node: -depth[node.id])  # noqa: C414 (keeps later ones first)


def _divided(graph: Graph, fuser: _Fuser) -> FusedGraph:
    order = _region_order(graph, fuser)
    regions = []
    for index, seed in enumerate(order):
        region = _hosted(graph, fuser, index, seed) if seed in fuser.hosted else _region(graph, fuser, index, seed)
        regions.append(_pooled(graph, region, fuser.pools[seed]) if seed in fuser.pools else region)
        for id in regions[-1].nodes:
            graph.update(graph.node(id), region=index)
    graph.stage = "fused"
    return FusedGraph(graph, tuple(regions), tuple(fuser.declines), fuser.hosted)


def _hosted(graph: Graph, fuser: _Fuser, index: int, seed: int) -> Region:
    """A step of the host."""
    nodes = fuser.members[seed]
    results = leaving(graph, nodes)
    return Region(index, tuple(nodes), None, results[0], on_host=results)


def _region(graph: Graph, fuser: _Fuser, index: int, seed: int) -> Region:
    """The region of a seed, without the global pooling at its end."""
    members = set(fuser.members[seed]) - {fuser.pools.get(seed)}
    ids = tuple(sorted(members, key=fuser.position.__getitem__))
    node = graph.node(seed)
    anchor = None if node.kind is Kind.ELEMENTWISE else seed
    prologue = tuple(sorted(fuser.prologues.get(seed, ()), key=fuser.position.__getitem__))
    rule = rule_of(node) if seed not in fuser.complete else None
    followed = any(graph.node(id).kind is Kind.ELEMENTWISE for id in members - {seed, *prologue})
    rules = (rule,) if rule and followed else ()
    return Region(index, ids, anchor, Value(ids[-1]), (*fuser.applied.get(seed, ()), *rules), prologue)


def _pooled(graph: Graph, region: Region, pool: int) -> Region:
    """The region with a global pooling of its output, which leaves it too if something else reads it."""
    read = any(use.node != pool for use in graph.users(region.output))
    output, also = (region.output, Value(pool)) if read else (Value(pool), None)
    return replace(region, nodes=(*region.nodes, pool), output=output, pool=pool, also=also)


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
