"""What the commands report, as plain dictionaries, from compiled networks and their runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import errors
from ..runtime.check import host_bytes
from ..runtime.engine import Engine
from ..runtime.manifest import HostStepSpec, ProgramSpec
from ..runtime.network import CompiledNetwork, Kernel, predicted_us, traffic_bytes, warn_of_host_steps
from .models import Choices, Progress, compile_network, is_compiled, load_compiled, make_plan

if TYPE_CHECKING:
    from ..program import Plan
    from ..specialise import OpenNetwork


def compiled(network: CompiledNetwork) -> dict[str, Any]:
    """Figures of a compiled network: those of the first target, and of each under ``programs``."""
    manifest = network.artifact.manifest
    programs = [program_figures(program) for program in network.programs]
    first = {key: value for key, value in programs[0].items() if key != "target"}
    return {
        **first,
        "dtype": manifest.dtype,
        "opt": manifest.opt,
        "disabled": list(manifest.disabled),
        "enabled": list(manifest.enabled),
        "policy": manifest.policy,
        "weight_bytes": manifest.weights_bytes,
        "targets": [program.target for program in network.programs],
        "programs": programs,
    }


def batch_of(plan: Plan) -> dict[str, Any]:
    """The batch of a plan: a number, or ``dynamic`` with its maximum."""
    if plan.images is None:
        return {"batch": plan.options.batch}
    return {"batch": "dynamic", "max_batch": plan.options.batch}


def left_open(network: OpenNetwork) -> dict[str, Any]:
    """Of a network whose sizes are open: their names, and figures of what is compiled, which is nothing."""
    manifest = network.artifact.manifest
    assert manifest.open is not None
    counts = ("kernels", "launches", "arena_bytes", "arena_lower_bound", "weight_bytes", "traffic_bytes")
    batch = {"batch": "dynamic", "max_batch": manifest.open.batch} if manifest.open.dynamic else {}
    return {
        "open": list(network.sizes),
        "targets": list(manifest.open.targets),
        "dtype": manifest.dtype,
        "opt": manifest.opt,
        **dict.fromkeys(counts, 0),
        **batch,
    }


def program_figures(program: ProgramSpec) -> dict[str, Any]:
    """Counts and bytes of the launches for one target; spills are summed over its kernels."""
    binaries = [kernel.binary for kernel in program.kernels if kernel.binary is not None]
    return {
        "target": program.target,
        "kernels": len(program.kernels),
        "launches": len(program.launches),
        "arena_bytes": program.arena_bytes,
        "arena_lower_bound": program.arena_lower_bound,
        "traffic_bytes": sum(traffic_bytes(launch) for launch in program.launches),
        "spill_bytes": sum(binary.spill_bytes for binary in binaries),
        "predicted_us": predicted_us(program),
        "host_steps": [host_row(step) for step in program.host_steps],
    }


def host_row(step: HostStepSpec) -> dict[str, Any]:
    """A step of the host as JSON. copied_bytes: from the GPU's memory and to it. predicted_us: of waits and copies."""
    return {
        "behind_launches": step.before,
        "origins": list(step.origins),
        "reasons": list(step.reasons),
        "copied_bytes": sum(end - begin for begin, end in map(host_bytes, (*step.reads, *step.writes))),
        "predicted_us": step.predicted_us,
    }


def outputs(results: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Shape, dtype, least, largest and mean element of each output; NaN where there is none."""
    return {name: _described(array) for name, array in results.items()}


def ran(engine: Engine, inputs: Mapping[str, Any], batches: int | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The outputs of a run, or of the last of several batches of the same inputs, and how long all of them took.

    The clock starts when the first batch is taken: what overlapping copies need is prepared before.
    """
    started = [time.perf_counter()]
    if batches is None:
        results = engine.run(inputs)
        return results, {"seconds": time.perf_counter() - started[0]}

    def source() -> Iterator[Mapping[str, Any]]:
        started[0] = time.perf_counter()
        yield from repeat(inputs, batches)

    for outputs in engine.stream(source()):
        results = outputs
    seconds = time.perf_counter() - started[0]
    shape = np.shape(inputs[engine.inputs[0].name]) if engine.inputs else ()
    images = batches * (shape[0] if shape else 1)
    return results, {"seconds": seconds, "batches": batches, "images": images, "images_per_second": images / seconds}


def _described(array: np.ndarray) -> dict[str, Any]:
    wide = array.astype(np.float64)
    with np.errstate(all="ignore"):
        figures = (wide.min(), wide.max(), wide.mean()) if wide.size else (np.nan,) * 3
    least, largest, mean = (float(figure) for figure in figures)
    return {"shape": list(array.shape), "dtype": array.dtype.name, "min": least, "max": largest, "mean": mean}


def profiled(engine: Engine, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Time of each launch of one run. Raises `DeviceError` on a device without launches."""
    if engine.device == "interpreter":
        ordered = [inputs[spec.name] for spec in engine.inputs]
        times = [1e6 * seconds for seconds in engine.executor.run_timed(ordered)[1]]  # type: ignore[attr-defined]
    else:
        times = engine.profile(inputs)
    program = engine.program
    assert program is not None
    return [
        {
            "launch": index,
            "kernel": program.kernels[launch.kernel].name,
            "origins": list(launch.origins),
            "microseconds": microseconds,
        }
        for index, (launch, microseconds) in enumerate(zip(program.launches, times, strict=True))
    ]


def find_kernels(
    model: str, choices: Choices, target: str, name: str | None, progress: Progress | None
) -> list[Kernel]:
    """The kernels of a compiled network or of a model, or just the one of that name.

    Of a kernel that the compiler refuses there is still the listing, when it is asked for by name.

    Raises:
        UsageError: no such kernel, or no such target.
    """
    if is_compiled(model):
        return chosen(of_targets(open_kernels(model, choices, target, progress), choices, model), name)
    plan = make_plan(model, choices, target, "fp16")
    try:
        network = compile_network(plan, progress)
    except errors.CompileError:
        if name is None:
            raise
        return chosen(planned_kernels(plan), name)
    warn_of_host_steps(network)
    return chosen(network.kernels, name)


def chosen(kernels: list[Kernel], name: str | None) -> list[Kernel]:
    """All kernels, or the one of that name. Raises `UsageError`."""
    if name is None:
        return kernels
    found = [kernel for kernel in kernels if kernel.name == name]
    if not found:
        raise errors.one_of(name, [kernel.name for kernel in kernels], "kernel")
    return found


def open_kernels(model: str, choices: Choices, target: str, progress: Progress | None) -> CompiledNetwork:
    """A compiled network, of which targets may be asked for, or a model compiled now (``target``: the default)."""
    if is_compiled(model):
        replace(choices, target=None).refuse(model)
        network = load_compiled(model)
    else:
        network = compile_network(make_plan(model, choices, target, "fp16"), progress)
    warn_of_host_steps(network)
    return network


def of_targets(network: CompiledNetwork, choices: Choices, file: str) -> list[Kernel]:
    """The kernels of a compiled network, of all its targets or of those asked for."""
    if choices.target is None:
        return network.kernels
    wanted = [name.strip() for name in choices.target.split(",")]
    present = {program.target: {kernel.name for kernel in program.kernels} for program in network.programs}
    for target in wanted:
        if target not in present:
            raise errors.one_of(target, present, "target of this file")
    names = set().union(*(present[target] for target in wanted))
    return [_only_for(kernel, wanted) for kernel in network.kernels if kernel.name in names]


def _only_for(kernel: Kernel, targets: Sequence[str]) -> Kernel:
    """A kernel with the figures of these targets alone."""
    return replace(kernel, targets={name: kernel.targets[name] for name in targets if name in kernel.targets})


def planned_kernels(plan: Plan) -> list[Kernel]:
    """The kernels of a plan as they are before they are compiled: without figures."""
    found: dict[str, Kernel] = {}
    for program in plan.programs:
        for launch in program.launches:
            kernel, rules = launch.kernel, launch.all_rules
            origins, runs = plan.origins(launch), 1
            if (known := found.get(kernel.name)) is not None:
                origins, runs = tuple(dict.fromkeys((*known.origins, *origins))), known.launches + 1
            equation, tile = launch.equation, launch.tile_reason
            found[kernel.name] = Kernel(kernel.name, origins, rules, equation, tile, runs, kernel.source, {})
    return list(found.values())


def kernel_row(kernel: Kernel) -> dict[str, Any]:
    """A kernel as JSON."""
    return {
        "name": kernel.name,
        "origins": list(kernel.origins),
        "rules": list(kernel.rules),
        "equation": kernel.equation,
        "tile": kernel.tile,
        "launches": kernel.launches,
        "source": kernel.source,
        "targets": {target: dict(figures) for target, figures in kernel.targets.items()},
    }
