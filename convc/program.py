"""What planning gives: options, launches with their kernels, one program per target, the plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from . import errors
from .codegen.emit import EmittedKernel
from .codegen.group import Part, equation_of
from .ir import Graph, Value
from .ir.images import Independent
from .ir.journal import Journal
from .ir.plan import Decline, FusedGraph, HostStep, Layouts, PackedWeight, Region
from .ir.problem import Problem
from .passes import Arena, Step, Switches
from .passes.choice import CostModel, Policy
from .passes.layout import STORAGE
from .passes.policies import policy_of
from .passes.slices import Entry
from .passes.traffic import Traffic
from .targets import Target, target


@dataclass(frozen=True)
class Options:
    """What to plan for.

    targets: names of `convc.targets`. dtype: fp32, tf32, fp16 or bf16: how fp32 tensors are stored and multiplied; sums
    are kept in fp32. batch: size of a symbolic first dimension. dynamic: whether that is the most that it may be, and a
    run may have fewer images. switches: optimisation level and rules. policy: decides
    among legal fusions, by its name or itself; by default the cost model, for the targets. tuned: whether tiles that
    were measured on a GPU are used; see `convc.targets.tuned`.
    """

    targets: tuple[str, ...] = ("sm_90",)
    dtype: str = "fp16"
    batch: int = 1
    switches: Switches = field(default_factory=Switches)
    verify_passes: bool = False
    policy: Policy | str = CostModel.name
    tuned: bool = True
    dynamic: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in STORAGE:
            raise errors.one_of(self.dtype, STORAGE, "dtype")
        for name in self.targets:
            target(name)
        policy_of(self.policy, self.targets)

    @property
    def chooser(self) -> Policy:
        """The policy itself."""
        return policy_of(self.policy, self.targets)

    @property
    def policy_name(self) -> str:
        """What `--policy` would take for it."""
        return self.policy if isinstance(self.policy, str) else self.policy.name


@dataclass(frozen=True)
class Scheduled:
    """One launch: its steps with their problems and tiles, the rules that brought several together, its kernel, the
    bytes that it moves and the time that is predicted for it, in microseconds."""

    steps: tuple[Step, ...]
    rules: tuple[str, ...]
    kernel: EmittedKernel
    traffic: Traffic
    predicted_us: float

    @property
    def problems(self) -> tuple[Problem, ...]:
        return tuple(step.work.problem for step in self.steps)

    @property
    def regions(self) -> tuple[Region, ...]:
        return tuple(step.work.region for step in self.steps)

    @property
    def all_rules(self) -> tuple[str, ...]:
        """The rules of its regions and of the launch, each once."""
        return tuple(dict.fromkeys([*(rule for region in self.regions for rule in region.rules), *self.rules]))

    @property
    def equation(self) -> str:
        return equation_of([Part(step.work.problem, step.tile, step.alone) for step in self.steps])

    @property
    def tile_reason(self) -> str:
        """The tiles and why."""
        return "; ".join(step.tile.reason for step in self.steps)

    @property
    def macs(self) -> int:
        return sum(problem.macs for problem in self.problems)


@dataclass(frozen=True)
class TargetPlan:
    """The launches for one target, in order, the arena that they share, why launches were not brought together, and the
    schedule that the launches are written out from. host_steps: what the host does, each with the number of launches in
    front of it, in order."""

    target: Target
    launches: tuple[Scheduled, ...]
    arena: Arena
    counter_bytes: int
    declines: tuple[Decline, ...] = ()
    schedule: tuple[Entry, ...] = ()
    host_steps: tuple[tuple[int, HostStep], ...] = ()

    @property
    def problems(self) -> list[Problem]:
        """The problems of all launches, in order."""
        return [problem for launch in self.launches for problem in launch.problems]

    @property
    def kernels(self) -> dict[str, EmittedKernel]:
        """The distinct kernels by name, in order of first use."""
        return {launch.kernel.name: launch.kernel for launch in self.launches}

    @property
    def traffic(self) -> Traffic:
        """Sum over all launches."""
        parts = [launch.traffic for launch in self.launches]
        return Traffic(
            sum(part.activations for part in parts),
            sum(part.weights for part in parts),
            sum(part.workspace for part in parts),
        )

    @property
    def predicted_us(self) -> float:
        """All launches, and the waits and copies of the host's steps."""
        return sum(launch.predicted_us for launch in self.launches) + self.host_us

    @property
    def host_us(self) -> float:
        """The waits and copies of the host's steps; what NumPy takes is not predicted."""
        return sum(step.predicted_us for _, step in self.host_steps)


@dataclass(frozen=True)
class Plan:
    """A network ready to be compiled: the fused graph, its layouts, and one plan per target. images: how inputs and
    outputs hold the images of a batch, where that is dynamic. held: the values whose first dimension holds them."""

    options: Options
    fused: FusedGraph
    layouts: Layouts
    programs: tuple[TargetPlan, ...]
    journal: Journal
    images: Independent | None = None
    held: frozenset[Value] = frozenset()

    @property
    def graph(self) -> Graph:
        return self.fused.graph

    def origins(self, launch: Scheduled) -> tuple[str, ...]:
        """The user's nodes that a launch stands for."""
        return tuple(dict.fromkeys(origin for region in launch.regions for origin in self.origins_of(region)))

    def reasons_of(self, region: Region) -> tuple[str, ...]:
        """Why the nodes of a region run on the host; nothing where a kernel computes it."""
        return tuple(dict.fromkeys(self.fused.hosted[id] for id in region.nodes if id in self.fused.hosted))

    def origins_of(self, region: Region) -> tuple[str, ...]:
        """The user's nodes that a region stands for."""
        nodes = (self.graph.node(id) for id in region.nodes)
        return tuple(dict.fromkeys(origin for node in nodes for origin in node.origins))


def packed_weights(plan: Plan) -> list[PackedWeight]:
    """Every constant as some kernel reads it, each once, in order of first use."""
    found: dict[PackedWeight, None] = {}
    for program in plan.programs:
        for launch in program.launches:
            for problem in launch.problems:
                sources = (operand.source for operand in problem.reads)
                found |= dict.fromkeys(source for source in sources if isinstance(source, PackedWeight))
    return list(found)
