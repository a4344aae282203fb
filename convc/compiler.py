"""From a plan to an artifact: weights packed, kernels compiled, launches written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from . import errors
from .codegen.cache import KernelCache
from .codegen.forms import contracted, form, multiplied
from .codegen.kernel import Argument as KernelArgument
from .codegen.packed import open_cache
from .codegen.pool import Job, compile_kernels
from .codegen.worker import Compiled, Request
from .ir import Node, Value, print_graph
from .ir.plan import HostStep, PackedWeight, Tile
from .ir.problem import Operand, Problem
from .packing import Weights, pack_constants
from .passes.fewer import fewer_programs
from .passes.retile import Shortage, with_smaller_tiles
from .planner import assemble
from .program import Plan, Scheduled, TargetPlan
from .runtime.artifact import Artifact, build
from .runtime.manifest import (
    FORMAT_MAJOR,
    FORMAT_MINOR,
    Argument,
    Binary,
    BufferArgument,
    HostStepSpec,
    HostTensor,
    IntegerArgument,
    KernelSpec,
    LaunchSpec,
    Manifest,
    Parameter,
    ProgramSpec,
    StepSpec,
    TensorMapArgument,
    TensorMapSpec,
    TensorSpec,
    written_sizes,
)
from .targets import Target
from .version import __version__

MAX_RETILES = 4

Progress = Callable[[int, int], None]


def compile_plan(plan: Plan, cache: KernelCache | None = None, progress: Progress | None = None) -> Artifact:
    """Packs the weights, compiles every kernel for its target and builds the artifact.

    Raises:
        CompileError: a kernel that Triton refuses, that no tile makes small enough, or that the cache, being a pack,
            does not hold.
    """
    cache = cache or open_cache()
    programs, binaries = compile_programs(plan, cache, progress)
    weights = pack_constants(plan)
    blobs: dict[str, bytes] = {"graph.txt": print_graph(plan.graph).encode(), "weights.safetensors": weights.blob}
    specs = []
    for program in programs:
        kernels, emitted = kernel_specs(program, binaries), program.kernels
        blobs |= {spec.source: emitted[spec.name].source.encode() for spec in kernels}
        found = {spec.binary.section: binaries[program.target.name, spec.name] for spec in kernels if spec.binary}
        blobs |= {section: compiled.cubin for section, compiled in found.items()}
        specs.append(_program_spec(plan, program, kernels, weights))
    manifest = Manifest(
        format=(FORMAT_MAJOR, FORMAT_MINOR),
        convc=__version__,
        triton=cache.triton,
        model=plan.graph.name,
        dtype=plan.options.dtype,
        opt=plan.options.switches.opt,
        disabled=plan.options.switches.off,
        enabled=plan.options.switches.enable,
        policy=plan.options.policy_name,
        inputs=_tensor_specs(plan.graph.graph_inputs, plan.images.inputs if plan.images else {}),
        outputs=_tensor_specs(plan.graph.graph_outputs, plan.images.outputs if plan.images else {}),
        weights=tuple(weights.specs.values()),
        weights_bytes=weights.nbytes,
        programs=tuple(specs),
        constants=weights.views(plan),
        graph="graph.txt",
        max_batch=plan.options.batch if plan.images else 0,
    )
    return build(manifest, blobs)


# -- kernels ----------------------------------------------------------------------------------------------------------
Binaries = dict[tuple[str, str], Compiled]


def settled(plan: Plan, cache: KernelCache | None = None, progress: Progress | None = None) -> Plan:
    """The plan as it is compiled: where compiled code asks for it with other tiles, and so with other places in memory.

    Who looks into memory between launches needs this plan. Raises `CompileError`.
    """
    programs, _ = compile_programs(plan, cache or open_cache(), progress)
    return replace(plan, programs=tuple(programs))


def compile_programs(
    plan: Plan, cache: KernelCache, progress: Progress | None = None
) -> tuple[list[TargetPlan], Binaries]:
    """Compiles all targets' kernels; tiles whose kernels spill registers, need more shared memory than there is or have
    products wait for each other are replaced by the next best.

    Raises:
        CompileError: as `compile_plan`.
    """
    programs = list(plan.programs)
    binaries: Binaries = {}
    _compile_missing(plan, programs, binaries, cache, progress)
    for _ in range(MAX_RETILES):
        smaller = [_retiled(plan, program, binaries) for program in programs]
        if all(new is old for new, old in zip(smaller, programs, strict=True)):
            break
        programs = smaller
        _compile_missing(plan, programs, binaries, cache, progress)
    for program in programs:
        _require_launchable(plan, program, binaries)
    return programs, binaries


def _compile_missing(
    plan: Plan,
    programs: Sequence[TargetPlan],
    binaries: Binaries,
    cache: KernelCache,
    progress: Progress | None,
) -> None:
    keys, jobs = [], []
    for program in programs:
        if program.target.is_interpreter:
            continue
        for launch in program.launches:
            key = (program.target.name, launch.kernel.name)
            if key not in binaries and key not in keys:
                keys.append(key)
                jobs.append(job_of(plan, launch, program.target.capability))
    for key, compiled in zip(keys, compile_kernels(jobs, cache, progress) if jobs else [], strict=True):
        binaries[key] = compiled


def _label(plan: Plan, launch: Scheduled) -> str:
    """What a launch is to the user."""
    return ", ".join(plan.origins(launch)) or launch.kernel.name


def job_of(plan: Plan, launch: Scheduled, capability: int) -> Job:
    """What is asked of the compiling processes for a launch."""
    kernel = launch.kernel
    asked = Request(kernel.name, kernel.source, kernel.parameters, capability, kernel.num_warps, kernel.num_stages)
    return Job(asked, _label(plan, launch))


def _retiled(plan: Plan, program: TargetPlan, binaries: Binaries) -> TargetPlan:
    """The same program with other tiles wherever the compiled kernel does not suit the target."""
    if program.target.is_interpreter:
        return program
    short = {
        launch.steps[0].work.region.id: lacking
        for launch in program.launches
        if (lacking := shortage(binaries[program.target.name, launch.kernel.name], program.target))
    }
    schedule = with_smaller_tiles(program.schedule, short, program.target)
    if all(new is old for new, old in zip(schedule, program.schedule, strict=True)):
        return program
    return assemble(schedule, plan.layouts, program.target, plan.options, program.declines)


def shortage(compiled: Compiled, target: Target) -> Shortage | None:
    """What a kernel needs more of than the target has: shared memory, so that no block can be launched, or registers,
    so that some are kept in memory or products wait for the ones before them; None where it suits the target."""
    if compiled.shared_bytes > target.shared_bytes:
        return Shortage.SHARED_MEMORY
    return Shortage.REGISTERS if compiled.spill_bytes or compiled.warnings else None


def suits(compiled: Compiled, target: Target) -> bool:
    """Whether no register is kept in memory, no product waits for the one before it, and a block can be launched."""
    return shortage(compiled, target) is None


def _require_launchable(plan: Plan, program: TargetPlan, binaries: Binaries) -> None:
    for launch in program.launches if not program.target.is_interpreter else ():
        needed, limit = binaries[program.target.name, launch.kernel.name].shared_bytes, program.target.shared_bytes
        if needed > limit:
            raise errors.too_much_shared(_label(plan, launch), launch.kernel.name, program.target.name, needed, limit)


def kernel_specs(program: TargetPlan, binaries: Binaries) -> tuple[KernelSpec, ...]:
    """What the manifest says of a program's distinct kernels, in order of first use. Only GPUs have binaries."""
    first: dict[str, Scheduled] = {}
    for launch in program.launches:
        first.setdefault(launch.kernel.name, launch)
    return tuple(
        _kernel_spec(launch, program.target.name, binaries.get((program.target.name, name)))
        for name, launch in first.items()
    )


def _kernel_spec(launch: Scheduled, target: str, compiled: Compiled | None) -> KernelSpec:
    kernel, place = launch.kernel, f"{target}/{launch.kernel.name}"
    parameters = tuple(_parameter(*parameter) for parameter in kernel.parameters)
    binary = binary_of(compiled, f"{place}.cubin", kernel.programmatic) if compiled is not None else None
    steps = tuple(_step_spec(step.work.problem, step.tile) for step in launch.steps)
    return KernelSpec(kernel.name, kernel.family, f"{place}.py", parameters, binary, steps)


def binary_of(compiled: Compiled, section: str, programmatic: bool) -> Binary:
    """What the manifest says of machine code. section: where in the artifact it lies. programmatic: whether the kernel
    waits by itself for the one in front of it."""
    return Binary(
        section=section,
        threads=compiled.threads,
        shared_bytes=compiled.shared_bytes,
        registers=compiled.registers,
        spill_bytes=compiled.spill_bytes,
        tensor_core_instructions=compiled.tensor_core_instructions,
        global_scratch_bytes=compiled.global_scratch_bytes,
        global_scratch_align=compiled.global_scratch_align,
        programmatic_launch=programmatic,
        warnings=compiled.warnings,
        tensor_maps=tuple(
            TensorMapSpec(found.swizzle, found.elem_size, found.elem_type, found.block_size)
            for found in compiled.tensor_maps
        ),
    )


def _step_spec(problem: Problem, tile: Tile) -> StepSpec:
    product = contracted(problem)
    return StepSpec(
        form(problem),
        tile.rows,
        tile.cols,
        tile.depth,
        channels=product.depth if product else 0,
        products=multiplied(product) if product else "",
        access=tile.access,
    )


def _parameter(name: str, type: str, aligned: bool) -> Parameter:
    """Kernels rely on aligned pointers; others may point at any element."""
    return Parameter(name, type) if aligned or not type.startswith("*") else Parameter(name, type, align=1)


# -- launches ---------------------------------------------------------------------------------------------------------
def _program_spec(plan: Plan, program: TargetPlan, kernels: tuple[KernelSpec, ...], weights: Weights) -> ProgramSpec:
    index = {kernel.name: position for position, kernel in enumerate(kernels)}
    launches = tuple(
        _launch_spec(plan, program, number, index[launch.kernel.name], weights)
        for number, launch in enumerate(program.launches)
    )
    return ProgramSpec(
        target=program.target.name,
        kernels=kernels,
        launches=launches,
        arena_bytes=program.arena.nbytes,
        arena_lower_bound=program.arena.lower_bound,
        counter_bytes=program.counter_bytes,
        host_steps=tuple(_host_step_spec(plan, program, before, step) for before, step in program.host_steps),
    )


def _host_step_spec(plan: Plan, program: TargetPlan, before: int, step: HostStep) -> HostStepSpec:
    return HostStepSpec(
        before=before,
        nodes=step.region.nodes,
        reads=tuple(_host_tensor(plan, program, value) for value in step.reads),
        writes=tuple(_host_tensor(plan, program, value) for value in step.stores),
        origins=plan.origins_of(step.region),
        reasons=plan.reasons_of(step.region),
        predicted_us=step.predicted_us,
        region=step.region.id,
    )


def _host_tensor(plan: Plan, program: TargetPlan, value: Value) -> HostTensor:
    placed = plan.layouts.placements[value]
    block = plan.layouts.blocks[placed.block]
    base = program.arena.offsets.get(block.id, 0) if block.buffer == "arena" else 0
    pairs = [pair for parts in placed.all_parts for pair in parts]
    return HostTensor(
        node=value.node,
        output=value.output,
        buffer=block.buffer,
        offset=base + placed.offset * placed.dtype.itemsize,
        dtype=placed.dtype.value,
        extents=tuple(extent for extent, _ in pairs),
        strides=tuple(stride for _, stride in pairs),
    )


def _launch_spec(plan: Plan, program: TargetPlan, number: int, kernel: int, weights: Weights) -> LaunchSpec:
    launch = program.launches[number]
    return LaunchSpec(
        kernel=kernel,
        grid=launch.kernel.grid,
        arguments=tuple(_arguments(plan, program, number, weights)),
        origins=plan.origins(launch),
        rules=launch.all_rules,
        equation=launch.equation,
        tile=launch.tile_reason,
        activation_bytes=launch.traffic.activations,
        weight_bytes=launch.traffic.weights,
        workspace_bytes=launch.traffic.workspace,
        macs=launch.macs,
        predicted_us=launch.predicted_us,
        regions=tuple(region.id for region in launch.regions),
        fewer=_fewer(plan, program, launch),
    )


def _fewer(plan: Plan, program: TargetPlan, launch: Scheduled) -> tuple[tuple[int, int], ...]:
    """Programs that are enough for fewer images. Steps of the host work on all of them, and launches of several steps
    are counted on to run as a whole."""
    if not plan.held or len(launch.steps) > 1 or program.host_steps:
        return ()
    (step,) = launch.steps
    return fewer_programs(step.work.problem, step.tile, launch.kernel.grid, plan.layouts, plan.options.batch, plan.held)


def _arguments(plan: Plan, program: TargetPlan, number: int, weights: Weights) -> list[Argument]:
    arguments: list[Argument] = []
    for argument in program.launches[number].kernel.arguments:
        if argument.operand is not None:
            located = _located(plan, program, argument.operand, weights)
            arguments.append(_described(located, argument) if argument.kind == "descriptor" else located)
        elif argument.kind == "partial":
            arguments.append(BufferArgument("arena", program.arena.offsets[-1 - number] + argument.value))
        elif argument.kind == "counters":
            arguments.append(BufferArgument("counters", argument.value))
        else:
            arguments.append(IntegerArgument(argument.value))
    return arguments


def _described(located: BufferArgument, argument: KernelArgument) -> TensorMapArgument:
    found = argument.reads
    assert found is not None, "descriptors say what they read"
    walk = found.lower, found.upper, found.steps
    return TensorMapArgument(located.buffer, located.offset, found.shape, found.strides, *walk)


def _located(plan: Plan, program: TargetPlan, operand: Operand, weights: Weights) -> BufferArgument:
    within = operand.offset * operand.dtype.itemsize
    if isinstance(operand.source, PackedWeight):
        return BufferArgument("weights", weights.offset(operand.source) + within)
    placed = plan.layouts.placements[operand.source]
    block = plan.layouts.blocks[placed.block]
    base = program.arena.offsets[block.id] if block.buffer == "arena" else 0
    return BufferArgument(block.buffer, base + within)


def _tensor_specs(nodes: Sequence[Node], images: Mapping[str, int]) -> tuple[TensorSpec, ...]:
    """images: name → rows of each image in the first dimension."""
    specs = []
    for node in nodes:
        name, type = node.attributes["name"], node.outputs[0]
        specs.append(TensorSpec(name, type.dtype.value, written_sizes(type.shape), images.get(name, 0)))
    return tuple(specs)
