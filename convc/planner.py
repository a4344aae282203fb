"""From a graph to a plan: every stage up to the kernels' text, for the targets asked.

This is the pipeline; the stages themselves live in `convc.passes` and `convc.codegen`. Nothing is compiled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from . import errors
from .codegen.cache import KernelCache
from .codegen.emit import EmittedKernel, emit, is_aligned
from .codegen.fingerprint import fingerprint
from .codegen.group import Part, emit_group
from .codegen.packed import open_cache
from .ir import Graph, Node, Value
from .ir.dims import Dim, DimLike
from .ir.images import Independent, Mixing, batch_symbols, images_of, outermost
from .ir.journal import Journal
from .ir.plan import Decline, FusedGraph, HostStep, Layouts
from .ir.problem import Operand
from .passes import (
    Context,
    Launch,
    arrange,
    canonical_passes,
    fuse,
    has_kernel,
    lower,
    place,
    plan_arena,
    run_passes,
    traffic,
)
from .passes.hosted import hosted_nodes
from .passes.im2col_tiles import walking
from .passes.launches import predicted_us
from .passes.lowering import Item, Lowered
from .passes.measured import with_measured_tiles
from .passes.memory import Repeated
from .passes.slices import RULE as SLICES
from .passes.slices import Entry, Stage, slice_stages
from .program import Options, Plan, Scheduled, TargetPlan
from .targets import Target, target
from .targets.tuned import Measured, measured_of, tables_of

Progress = Callable[[str, int, int], None]


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
    unbound = bound.symbols - {str(size) for node in bound.nodes() for size in _found_sizes(node)}
    if unbound:
        raise errors.unbound_dimensions(sorted(unbound))
    return bound


def _held(graph: Graph, canonical: Graph, options: Options) -> frozenset[Value]:
    """The values whose first dimension holds the images of a dynamic batch, where it can be told."""
    other = replace(options, batch=options.batch + 1, dynamic=False)
    return outermost(canonical, optimise(graph, other)[0], (options.batch, other.batch))


def require_independent(graph: Graph, options: Options) -> Independent | None:
    """How a network holds the images of a dynamic batch; None where it is not dynamic.

    Raises `UsageError` where its batch is fixed, `DependentImagesError` where images depend on each other.
    """
    if not options.dynamic:
        return None
    if not batch_symbols(graph):
        fixed = [node.outputs[0].shape[0] for node in graph.graph_inputs if node.outputs[0].shape]
        raise errors.fixed_batch(graph.name, fixed[0] if fixed else 1, "dynamic")
    found = images_of(graph)
    if isinstance(found, Mixing):
        raise errors.images_mixed(found.node.label, found.reason, options.batch)
    return found


def _found_sizes(node: Node) -> list[Dim]:
    """Sizes that only the run of a node finds out."""
    count = node.attributes.get("count")
    return [count] if isinstance(count, Dim) else []


def _found_size_refusals(graph: Graph) -> dict[int, str]:
    """What kernels cannot be planned for, where sizes are not known before the graph runs: the nodes that find them,
    and the operators that have no kernel anyway. Nothing where all sizes are known."""
    found = {node.id: errors.FORM_COUNT for node in graph.nodes() if _found_sizes(node)}
    without = {node.id: errors.FORM_NO_KERNEL for node in graph.nodes() if not has_kernel(node.operator)}
    return {id: f"{graph.node(id).op}: {reason}" for id, reason in sorted((without | found).items())} if found else {}


def optimise(
    graph: Graph, options: Options, after: Callable[[str, Graph], None] | None = None
) -> tuple[Graph, Journal]:
    """The canonical graph of a network for a batch size, and what the passes did. ``graph`` is not changed."""
    bound = bind_batch(graph, options.batch)
    context = Context(options.switches, options.verify_passes, after=after)
    if after:
        after("import", bound)
    return run_passes(bound, canonical_passes(), context), context.journal


def divide(canonical: Graph, options: Options) -> FusedGraph:
    """The regions of a canonical graph, chosen by the policy, whether or not all of them have kernels."""
    if not options.switches.feature("host-steps"):
        return fuse(canonical, options.switches, options.chooser)
    return _divided(canonical, options)[0]


def _divided(canonical: Graph, options: Options) -> tuple[FusedGraph, Layouts, list[Item]]:
    """The regions with their layouts and problems. What turns out to have no kernel runs on the host, and the rest is
    divided again; for no target nothing does.

    Raises:
        UnsupportedModelError: operators without a kernel, where host steps are switched off.
    """
    if not options.targets:
        return fuse(canonical, options.switches, options.chooser), Layouts(), []
    lowered, graph = Lowered(refused=_found_size_refusals(canonical)), canonical
    refused: dict[int, str] = {}
    while True:
        # A prologue may hold copies of nodes; what is refused in a copy is refused in the node itself, too.
        found = {id: what for id, what in lowered.refused.items() if id in canonical}
        if not options.switches.feature("host-steps") or found.keys() <= refused.keys():
            lowered.require(graph)
        refused |= found
        fused = fuse(canonical, options.switches, options.chooser, hosted_nodes(canonical, refused))
        layouts, graph = place(fused, options.dtype, options.switches, options.chooser), fused.graph
        lowered = lower(fused, layouts, options.dtype)
        if not lowered.refused:
            return fused, layouts, lowered.items


def make_plan(graph: Graph, options: Options, cache: KernelCache | None = None) -> Plan:
    """All stages up to kernel text; for no target, as the numpy executor needs it, those up to the fused graph.

    cache: where the kernels will come from, by default the user's; measured tiles hold for its version of Triton.

    Raises:
        UnsupportedModelError: operators without a kernel, where host steps are switched off. ShapeError: unbound
            dimensions. UsageError: a dynamic batch for a network that mixes images.
    """
    images = require_independent(graph, options)
    canonical, journal = optimise(graph, options)
    with journal.record("fuse", canonical):
        fused, layouts, work = _divided(canonical, options)
    if not options.targets:
        return Plan(options, fused, layouts, (), journal, images)
    machines = (options.switches.machine(target(name)) for name in options.targets)
    programs = tuple(_plan_target(work, fused, layouts, machine, options, cache) for machine in machines)
    held = _held(graph, canonical, options) if images else frozenset()
    return Plan(options, fused, layouts, programs, journal, images, held)


def _measured(machine: Target, options: Options, cache: KernelCache | None) -> Measured | None:
    """The measured tiles that a target's plan is to use."""
    tables = tables_of(machine) if options.tuned else []
    if not tables:
        return None
    try:
        triton = (cache or open_cache()).triton
    except (errors.CompileError, errors.UsageError):
        return None  # without Triton, or with a broken pack, nothing is compiled here: compiling says so
    return measured_of(machine, tables, triton, fingerprint())


def _plan_target(
    work: Sequence[Item],
    fused: FusedGraph,
    layouts: Layouts,
    machine: Target,
    options: Options,
    cache: KernelCache | None,
) -> TargetPlan:
    launches, declines = arrange(work, fused, machine, options.switches, options.chooser)
    schedule: list[Entry] = [*launches]
    if options.switches.on(SLICES):
        schedule, others = slice_stages(launches, fused.graph, layouts, machine, options.chooser)
        declines = [*declines, *others]
    if machine.has_im2col:
        schedule = walking(schedule, machine)
    if (measured := _measured(machine, options, cache)) is not None:
        schedule = with_measured_tiles(schedule, machine, measured)
    return assemble(schedule, layouts, machine, options, declines)


def assemble(
    schedule: Sequence[Entry],
    layouts: Layouts,
    machine: Target,
    options: Options,
    declines: Sequence[Decline] = (),
) -> TargetPlan:
    """Kernels and memory for launches whose tiles are chosen."""
    once, repeated = _once(schedule, machine)
    in_place = options.switches.on("update-in-place")
    workspaces = [entry.kernel.workspace_bytes if isinstance(entry, Scheduled) else 0 for entry in once]
    touching = [entry.problems if isinstance(entry, Scheduled) else entry for entry in once]
    arena = plan_arena(touching, layouts, workspaces, in_place, repeated)
    entries, scratch = _expanded(schedule, once, machine)
    launches = [entry for entry in entries if isinstance(entry, Scheduled)]
    scratch = [index for entry, index in zip(entries, scratch, strict=True) if isinstance(entry, Scheduled)]
    placed = {-1 - number: arena.offsets[-1 - index] for number, index in enumerate(scratch) if workspaces[index]}
    offsets = {block: offset for block, offset in arena.offsets.items() if block >= 0} | placed
    return TargetPlan(
        machine,
        tuple(launches),
        replace(arena, offsets=offsets),
        max((launch.kernel.counter_bytes for launch in launches), default=0),
        tuple(declines),
        tuple(schedule),
        tuple(_host_steps(entries)),
    )


def _host_steps(entries: Sequence[Scheduled | HostStep]) -> Iterator[tuple[int, HostStep]]:
    """What the host does, with the number of launches in front of it."""
    before = 0
    for entry in entries:
        if isinstance(entry, HostStep):
            yield before, entry
        else:
            before += 1


def _once(schedule: Sequence[Entry], machine: Target) -> tuple[list[Scheduled | HostStep], list[Repeated]]:
    """The launches of a schedule, those of stages for their first part alone, and which launches are repeated."""
    once: list[Scheduled | HostStep] = []
    repeated: list[Repeated] = []
    for entry in schedule:
        if isinstance(entry, Stage):
            repeated.append(Repeated(len(once), len(once) + len(entry.launches) - 1, entry.parts, entry.kept))
            pairs = zip(entry.launches, entry.predicted_us, strict=True)
            once.extend(_scheduled(launch, machine, predicted) for launch, predicted in pairs)
        else:
            once.append(entry if isinstance(entry, HostStep) else _scheduled(entry, machine))
    return once, repeated


def _expanded(
    schedule: Sequence[Entry], once: Sequence[Scheduled | HostStep], machine: Target
) -> tuple[list[Scheduled | HostStep], list[int]]:
    """All launches in order, and for each the one of ``once`` that it repeats or is."""
    launches: list[Scheduled | HostStep] = []
    originals: list[int] = []
    start = 0
    for entry in schedule:
        if not isinstance(entry, Stage):
            launches.append(once[start])
            originals.append(start)
            start += 1
            continue
        for number in range(entry.parts):
            pairs = zip(entry.part(number), entry.predicted_us, strict=True)
            launches.extend(_scheduled(launch, machine, predicted) for launch, predicted in pairs)
            originals.extend(range(start, start + len(entry.launches)))
        start += len(entry.launches)
    return launches, originals


def _scheduled(launch: Launch, machine: Target, predicted: float | None = None) -> Scheduled:
    kernel = _emitted(launch, machine)
    moved = traffic(launch.problems, 2 * kernel.workspace_bytes)
    return Scheduled(launch.steps, launch.rules, kernel, moved, predicted or predicted_us(launch.steps, machine))


def _emitted(launch: Launch, machine: Target) -> EmittedKernel:
    programmatic = machine.has_programmatic_launch
    if len(launch.steps) == 1:
        return emit(launch.problems[0], launch.steps[0].tile, _is_aligned, programmatic)
    parts = [Part(step.work.problem, step.tile, step.alone) for step in launch.steps]
    return emit_group(parts, _is_aligned, programmatic)


def _is_aligned(operand: Operand) -> bool:
    return is_aligned(operand.dtype.itemsize, operand.offset)
