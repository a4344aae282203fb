"""Choices between legal fusions: what one saves and costs, and who decides whether it is taken.

A rule finds what is legal and offers it as a `Choice`; a policy takes it, or declines it with a reason. The default
policy, `CostModel`, weighs both sides in seconds, with C the multiply-adds done again, B bytes and L launches:

    saved = B_saved / DRAM bandwidth + L_saved · launch gap
    cost  = C_units · i / multiply-add rate + C_tensor / (tensor-core rate · f) + B_again / L2 bandwidth + S

with i instructions for each multiply-add on ordinary units and f the fraction of the tensor-core rate that is reached;
S is what a rule knows beyond that, from the times of tiles.
Where a plan is for several GPUs, or for none, fusion must pay on each of them, so that all its kernels compute alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from ..ir import Graph
from ..targets import GPUS, Target

ISSUED_PER_MAC = 3
"""Instructions per multiply-add on ordinary units: a load and a conversion stand beside each, vectorised."""
TENSOR_EFFICIENCY = 0.35
"""Fraction of the tensor-core rate that products done again reach: they are short loops."""
ELEMENT_BYTES = 2
"""Bytes of an element in the narrowest numeric mode: choices are made for it, so that all modes fuse alike."""


_INSTRUCTIONS = dict.fromkeys(
    ("Add", "Sub", "Mul", "Neg", "Abs", "Relu", "LeakyRelu", "PRelu", "Clip", "Min", "Max", "Cast", "Copy"), 1
) | dict.fromkeys(("Div", "Reciprocal", "Sqrt"), 6)
_TRANSCENDENTAL = 12
"""Instructions in whose time an operator with an exponential and a division is done: special units make both at an
eighth of the rate, in part beside the other instructions."""


def operator_instructions(operators: Iterable[str]) -> int:
    """Instructions on ordinary units for one element of what operators of these names compute."""
    return sum(_INSTRUCTIONS.get(name, _TRANSCENDENTAL) for name in operators)


@dataclass(frozen=True)
class Choice:
    """A legal fusion, as a rule offers it.

    rule: its name. nodes: every node that the kernel would compute, in topological order. anchor: the one that decides
    the kernel family. prologue: those of the nodes that the anchor reads through. open: whether elementwise operators
    may follow in the same kernel. sharers: further anchors that read through the same prologue; each computes a copy of
    it. saved_bytes, saved_launches: memory traffic and launches that would no longer happen.
    unit_macs, tensor_macs: multiply-adds that would be done again, on ordinary units and on tensor cores.
    again_bytes: bytes that would be read again, from L2. slower: seconds that the work would take longer on a GPU, by
    its name, launches and memory traffic left aside. gain_s: predicted seconds saved, all costs deducted, where a
    schedule is known that says more than these counts. why: what is done again, in words, for a decline. pool: the one
    of the nodes that pools the kernel's result over whole images, behind everything else.
    """

    rule: str
    nodes: tuple[int, ...]
    anchor: int
    prologue: tuple[int, ...] = ()
    open: bool = True
    sharers: tuple[int, ...] = ()
    saved_bytes: int = 0
    saved_launches: int = 1
    unit_macs: int = 0
    tensor_macs: int = 0
    again_bytes: int = 0
    slower: Mapping[str, float] = field(default_factory=dict)
    gain_s: float | None = None
    why: str = "computing it again"
    pool: int | None = None


class Policy(Protocol):
    """Decides among legal fusions. name: what artifacts record."""

    @property
    def name(self) -> str: ...

    def refusal(self, choice: Choice, graph: Graph) -> str | None:
        """None to take the choice; otherwise the reason to leave it, a sentence fragment for the user."""
        ...


@dataclass(frozen=True)
class CostModel:
    """Takes a choice where it saves at least the time that it costs on every GPU of ``targets`` (of all, if none)."""

    targets: tuple[str, ...] = ()
    name: ClassVar[str] = "cost-model"

    def refusal(self, choice: Choice, graph: Graph) -> str | None:
        if choice.gain_s is not None:
            longer = f"{choice.why} is predicted to take {-choice.gain_s * 1e6:.1f} us longer than it saves"
            return None if choice.gain_s >= 0 else longer
        worst = min(self._gpus(), key=lambda gpu: saved_seconds(choice, gpu) - cost_seconds(choice, gpu))
        saved, cost = saved_seconds(choice, worst), cost_seconds(choice, worst)
        if saved >= cost:
            return None
        if not (choice.saved_bytes or choice.saved_launches):
            return f"{choice.why} takes {cost * 1e6:.2f} us on {worst.name}"
        macs = (choice.unit_macs + choice.tensor_macs) / 1e6
        again = f"is {macs:.1f} million multiply-adds and {choice.again_bytes / 1e6:.1f} MB from L2 more, "
        longer = f"{cost * 1e6:.1f} us on {worst.name}"
        return (
            f"{choice.why} {f'takes {longer} more' if choice.slower else again + longer}, and saves "
            f"{choice.saved_bytes / 1e6:.1f} MB of memory traffic and {choice.saved_launches} "
            f"launch{'' if choice.saved_launches == 1 else 'es'}, {saved * 1e6:.1f} us"
        )

    def _gpus(self) -> Sequence[Target]:
        return [gpu for gpu in GPUS if gpu.name in self.targets] or GPUS


def saved_seconds(choice: Choice, gpu: Target) -> float:
    """Seconds that a choice saves: memory traffic and launches."""
    return choice.saved_bytes / gpu.dram_bytes_per_s + choice.saved_launches * gpu.launch_s


def cost_seconds(choice: Choice, gpu: Target) -> float:
    """Seconds that a choice costs: what is computed and read again."""
    units = choice.unit_macs * ISSUED_PER_MAC * 2 / gpu.fp32_flops
    tensor = choice.tensor_macs * 2 / (gpu.tensor_flops * TENSOR_EFFICIENCY)
    return units + tensor + choice.again_bytes / gpu.l2_bytes_per_s + choice.slower.get(gpu.name, 0.0)
