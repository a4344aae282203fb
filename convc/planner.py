"""From a graph to a plan: every stage up to the kernels' text, for the targets asked.

This is the pipeline; the stages themselves live in `convc.passes` and `convc.codegen`. Nothing is compiled here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from . import errors
from .codegen.emit import EmittedKernel, emit, is_aligned
from .codegen.expressions import NoText
from .ir import Graph
from .ir.dims import DimLike
from .ir.journal import Journal
from .ir.plan import FusedGraph, Layouts, PackedWeight, Tile
from .ir.problem import Operand
from .passes import (
    CANONICAL_PASSES,
    Arena,
    Context,
    Switches,
    Work,
    choose,
    fuse,
    lower,
    place,
    plan_arena,
    run_passes,
    traffic,
)
from .passes.choice import CostModel, Policy
from .passes.layout import STORAGE
from .passes.traffic import Traffic
from .targets import Target, target

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What to plan for.

    targets: names of `convc.targets`. dtype: fp32, tf32, fp16 or bf16: how fp32 tensors are stored and multiplied; sums
    are kept in fp32. batch: size of a symbolic first dimension. switches: optimisation level and rules. policy: decides
    among legal fusions; by default the cost model, for the targets.
    """

    targets: tuple[str, ...] = ("sm_90",)
    dtype: str = "fp16"
    batch: int = 1
    switches: Switches = field(default_factory=Switches)
    verify_passes: bool = False
    policy: Policy | None = None

    def __post_init__(self) -> None:
        if self.dtype not in STORAGE:
            raise errors.one_of(self.dtype, STORAGE, "dtype")
        for name in self.targets:
            target(name)


@dataclass(frozen=True)
class Scheduled:
    """One launch: its problem, its tile and its kernel."""

    work: Work
    tile: Tile
    kernel: EmittedKernel
    traffic: Traffic


@dataclass(frozen=True)
class TargetPlan:
    """The launches for one target, in order, and the arena that they share."""

    target: Target
    launches: tuple[Scheduled, ...]
    arena: Arena
    counter_bytes: int

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
        return sum(launch.tile.predicted_us for launch in self.launches)


@dataclass(frozen=True)
class Plan:
    """A network ready to be compiled: the fused graph, its layouts, and one plan per target."""

    options: Options
    fused: FusedGraph
    layouts: Layouts
    programs: tuple[TargetPlan, ...]
    journal: Journal

    @property
    def graph(self) -> Graph:
        return self.fused.graph

    def origins(self, work: Work) -> tuple[str, ...]:
        """The user's nodes that a launch stands for."""
        nodes = (self.graph.node(id) for id in work.region.nodes)
        return tuple(dict.fromkeys(origin for node in nodes for origin in node.origins))


def bind_batch(graph: Graph, batch: int) -> Graph:
    """The graph with its symbolic batch fixed.

    Raises:
        ShapeError: other symbolic dimensions remain. UsageError: a batch for a network that has another, fixed one.
    """
    names: dict[str, DimLike] = {}
    for node in graph.graph_inputs:
        first = node.outputs[0].shape[:1]
        names |= {name: batch for dim in first if not isinstance(dim, int) for name in dim.symbols}
    fixed = [node.outputs[0].shape[0] for node in graph.graph_inputs if node.outputs[0].shape]
    if batch != 1 and not names and fixed and batch not in fixed:
        raise errors.fixed_batch(graph.name, fixed[0], batch)
    bound = graph.bind(names) if names else graph.copy()
    if bound.symbols:
        raise errors.unbound_dimensions(sorted(bound.symbols))
    return bound


def optimise(
    graph: Graph, options: Options, after: Callable[[str, Graph], None] | None = None
) -> tuple[Graph, Journal]:
    """The canonical graph of a network for a batch size, and what the passes did. ``graph`` is not changed."""
    bound = bind_batch(graph, options.batch)
    context = Context(options.switches, options.verify_passes, after=after)
    if after:
        after("import", bound)
    return run_passes(bound, CANONICAL_PASSES, context), context.journal


def divide(canonical: Graph, options: Options) -> FusedGraph:
    """The regions of a canonical graph, chosen by the policy."""
    return fuse(canonical, options.switches, options.policy or CostModel(options.targets))


def make_plan(graph: Graph, options: Options) -> Plan:
    """All stages up to kernel text.

    Raises:
        UnsupportedModelError: operators without a kernel. ShapeError: unbound dimensions.
    """
    canonical, journal = optimise(graph, options)
    with journal.record("fuse", canonical):
        fused = divide(canonical, options)
    layouts = place(fused, options.dtype, options.switches)
    work = lower(fused, layouts, options.dtype)
    programs = tuple(_plan_target(work, layouts, target(name), options) for name in options.targets)
    return Plan(options, fused, layouts, programs, journal)


def _plan_target(work: Sequence[Work], layouts: Layouts, machine: Target, options: Options) -> TargetPlan:
    tiles = [choose(item.problem, machine) for item in work]
    return assemble(work, tiles, layouts, machine, options)


def assemble(
    work: Sequence[Work], tiles: Sequence[Tile], layouts: Layouts, machine: Target, options: Options
) -> TargetPlan:
    """Kernels, memory and launches for chosen tiles."""
    launches = [_scheduled(item, tile) for item, tile in zip(work, tiles, strict=True)]
    in_place = options.switches.on("update-in-place")
    workspaces = [launch.kernel.workspace_bytes for launch in launches]
    arena = plan_arena([item.problem for item in work], layouts, workspaces, in_place)
    counters = max((launch.kernel.counter_bytes for launch in launches), default=0)
    return TargetPlan(machine, tuple(launches), arena, counters)


def _scheduled(work: Work, tile: Tile) -> Scheduled:
    try:
        kernel = emit(work.problem, tile, _is_aligned)
    except NoText as missing:
        entry = errors.Unsupported(f"{missing} with a computed operand", "", (f"%{work.region.output.node}",))
        raise errors.UnsupportedModelError([entry]) from None
    moved = traffic(work.problem, 2 * kernel.workspace_bytes)
    return Scheduled(work, tile, kernel, moved)


def _is_aligned(operand: Operand) -> bool:
    return isinstance(operand.source, PackedWeight) or is_aligned(operand.dtype.itemsize, operand.offset)


def packed_weights(plan: Plan) -> list[PackedWeight]:
    """Every constant as some kernel reads it, each once, in order of first use."""
    found: dict[PackedWeight, None] = {}
    for program in plan.programs:
        for launch in program.launches:
            for operand in launch.work.problem.reads:
                if isinstance(operand.source, PackedWeight):
                    found[operand.source] = None
    return list(found)
