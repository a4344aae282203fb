"""A policy and a rule of one's own, beside what convc does by itself.

    python examples/fusion_policy.py [NETWORK]

The rule swaps an average pooling with the 1x1 convolution in front of it: both are linear and the one works on
channels, the other on positions, so the convolution can run behind the pooling, on a quarter of the positions. The
policy takes a fusion only where it saves as many bytes as it is asked for. Nothing in convc knows of either.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import convc
from convc.ir import Graph, Node, Value

NETWORK = "densenet121"


@dataclass(frozen=True)
class SavesAtLeast:
    """Takes a legal fusion where it saves ``nbytes`` bytes of memory traffic."""

    nbytes: int

    @property
    def name(self) -> str:
        return f"saves-{self.nbytes}"

    def refusal(self, choice: convc.Choice, graph: Graph) -> str | None:
        if choice.saved_bytes >= self.nbytes:
            return None
        return f"it saves {choice.saved_bytes} bytes, and {self.nbytes} are asked for"


def pool_first(graph: Graph) -> bool:
    """average_pool(conv1x1(x, w)) → conv1x1(average_pool(x), w), where nobody else reads the convolution's result."""
    changed = False
    for pool in list(graph.of_kind("AveragePool")):
        conv = graph.producer(graph.inputs(pool)[0])
        if not swappable(graph, conv, pool):
            continue
        x, *weights = graph.inputs(conv)
        pooled = graph.add("AveragePool", [x], pool.attributes, origins=pool.origins)
        result = graph.add("Conv", [pooled, *weights], conv.attributes, origins=conv.origins)
        graph.replace(Value(pool.id), result)
        changed = True
    return changed


def swappable(graph: Graph, conv: Node, pool: Node) -> bool:
    """Whether the convolution sees single positions, and the pooling nothing but them."""
    if conv.op != "Conv" or len(graph.users(Value(conv.id))) > 1:
        return False
    kernel = graph.type(graph.inputs(conv)[1]).shape[2:]
    single = set(kernel) == {1} and set(conv.attributes["strides"]) == {1} and not any(conv.attributes["pads"])
    return single and not any(pool.attributes["pads"]) and not pool.attributes["ceil_mode"]


RULE = convc.Extension(
    convc.Rule("pool-before-conv", "fold", "average_pool(conv1x1(x, w)) → conv1x1(average_pool(x), w)"),
    rewrite=pool_first,
)


def report(name: str, plan: convc.Plan) -> None:
    (program,) = plan.programs
    moved = (program.traffic.activations + program.traffic.weights) / 1e6
    macs = sum(launch.macs for launch in program.launches) / 1e6
    print(f"{name:28}{len(program.launches):9}{moved:9.1f}{macs:9.0f}{program.predicted_us:9.0f}")


def main(network: str = NETWORK) -> None:
    model = convc.zoo.build(network)
    print(f"{network}, fp16, batch 1, planned for sm_90; times are predicted\n")
    print(f"{'':28}{'launches':>9}{'MB':>9}{'Mmacs':>9}{'us':>9}")
    for policy in ("never", "cost-model", "always", SavesAtLeast(200_000)):
        report(policy if isinstance(policy, str) else policy.name, convc.plan(model, policy=policy))
    with convc.registered(RULE):
        plan = convc.plan(model)
        report(f"cost-model, {RULE.rule.name}", plan)
    print(f"\n{RULE.rule.name} rewrote:")
    for record in plan.journal:
        if record.name == RULE.rule.name:
            print("  " + "\n  ".join(" + ".join(entry.origins) for entry in record.added if entry.op == "Conv"))


if __name__ == "__main__":
    main(*sys.argv[1:2])
