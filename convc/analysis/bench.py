"""Times of a network on a device, beside what the cost model predicts and what the machine allows.

Only a GPU's times say something about a GPU. On other devices the rows hold predictions in columns of their own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import errors
from ..passes import Switches
from ..planner import make_plan
from ..program import Options
from ..runtime.devices import parse_device
from ..runtime.engine import Engine
from ..runtime.network import CompiledNetwork
from ..targets import TARGETS, Target, target
from . import figures, reports
from .ablate import DECIMALS, DEFAULT_TARGET
from .arrays import random_inputs
from .devices import resolved_device, target_for
from .figures import Launch
from .models import DEFAULT_POLICY, Progress, compile_network, is_compiled, load_compiled, read_graph

REPEATS = {"cuda": 200, "interpreter": 3, "numpy": 10}


@dataclass(frozen=True)
class Case:
    """What one row is about: a compiled network, and its launches as planned for a GPU (none are known of an artifact
    without a program for one). host_us: what the waits and copies of the host's steps are predicted to take."""

    opt: str
    batch: int
    dtype: str
    network: CompiledNetwork
    launches: Sequence[Launch]
    target: Target | None
    host_us: float = 0.0


@dataclass(frozen=True)
class Request:
    """The lists of the command line; ``target`` is what times are predicted for where no GPU runs."""

    model: str
    opts: Sequence[str] | None
    batches: Sequence[int] | None
    dtypes: Sequence[str] | None
    target: str | None
    device: str
    repeats: int | None
    per_kernel: bool
    seed: int = 0
    policy: str | None = None
    dims: Mapping[str, int] | None = None


def bench(request: Request, progress: Progress | None = None) -> dict[str, Any]:
    """The rows of a request as JSON: for each batch and numeric mode, one for each optimisation level.

    Raises:
        UsageError: options that a compiled network has decided. DeviceError: no such device.
    """
    device = resolved_device(request.device)
    rows = [_row(case, device, request) for case in _cases(request, device, progress)]
    _compare(rows)
    predicted = next((row["target"] for row in rows if row["target"]), None)
    return {"model": request.model, "device": device, "target": predicted, "rows": rows}


def _cases(request: Request, device: str, progress: Progress | None) -> Iterator[Case]:
    if is_compiled(request.model):
        yield _compiled_case(request, device)
        return
    for batch in request.batches or (None,):
        graph = read_graph(request.model, batch, request.dims)
        for dtype in request.dtypes or ("fp16",):
            for opt in request.opts or ("fuse",):
                runs_on, planned_for = _targets(request, device)
                policy = request.policy or DEFAULT_POLICY
                options = Options((planned_for,), dtype, batch or 1, Switches(opt), policy=policy)
                plan = make_plan(graph, options)
                launches = figures.planned(plan, plan.programs[0])
                host_us = plan.programs[0].host_us
                if runs_on != planned_for:
                    plan = make_plan(graph, replace(options, targets=(runs_on,)))
                network = compile_network(plan, progress)
                yield Case(opt, batch or 1, dtype, network, launches, target(planned_for), host_us)


def _targets(request: Request, device: str) -> tuple[str, str]:
    """What to compile for, and what to predict for: the GPU itself where one runs."""
    if device.startswith("cuda"):
        return target_for(device), target_for(device)
    return "interpreter", request.target or DEFAULT_TARGET


def _compiled_case(request: Request, device: str) -> Case:
    given: list[tuple[str, object]] = [
        ("opt", request.opts),
        ("batch", request.batches),
        ("dtype", request.dtypes),
        ("target", request.target),
    ]
    given += [("policy", request.policy), ("dims", request.dims)]
    for name, value in given:
        if value:
            raise errors.decided_already(f"--{name}", request.model)
    network = load_compiled(request.model)
    manifest = network.artifact.manifest
    programs = {program.target: program for program in network.programs if program.target in TARGETS}
    gpus = [name for name in programs if not target(name).is_interpreter]
    chosen = target_for(device) if device.startswith("cuda") else next(iter(gpus), None)
    launches = figures.stored(programs[chosen]) if chosen in programs else []
    batch = next((spec.shape[0] for spec in manifest.inputs if spec.shape), 1)
    machine = target(chosen) if chosen in programs else None
    host_us = sum(step.predicted_us for step in programs[chosen].host_steps) if chosen in programs else 0.0
    return Case(manifest.opt, batch, manifest.dtype, network, launches, machine, host_us)


def _row(case: Case, device: str, request: Request) -> dict[str, Any]:
    inputs = random_inputs(case.network.inputs, request.seed)
    on_gpu = device.startswith("cuda")
    with case.network.engine(device) as engine:
        repeats = request.repeats or REPEATS[parse_device(device)[0]]
        times = engine.measure(inputs, repeats) if on_gpu else _wall_clock(engine, inputs, repeats)
        kernels = _kernels(case, engine, inputs) if request.per_kernel else None
    median = statistics.median(times)
    low, high = np.percentile(times, [10, 90])
    total = sum(launch.predicted_us for launch in case.launches) + case.host_us
    predicted = round(total, DECIMALS) if case.launches else None
    row = {
        "opt": case.opt,
        "batch": case.batch,
        "dtype": case.dtype,
        "device": engine.device,
        "median_us": median,
        "p10_us": float(low),
        "p90_us": float(high),
        "roofline_fraction": _fraction(case, median) if on_gpu else None,
        "repeats": repeats,
        "times_mean_a_gpu": on_gpu,
        "target": case.target.name if case.target else None,
        "launches": len(case.launches) or None,
        "predicted_us": predicted,
        "predicted_roofline_fraction": _fraction(case, predicted) if predicted else None,
    }
    return row if kernels is None else row | {"kernels": kernels}


def _wall_clock(engine: Engine, inputs: Mapping[str, np.ndarray], repeats: int) -> list[float]:
    """Microseconds of each of some runs, after one that is not counted."""
    engine.run(inputs)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        engine.run(inputs)
        times.append(1e6 * (time.perf_counter() - started))
    return times


def _fraction(case: Case, microseconds: float) -> float | None:
    if case.target is None or not case.launches or not microseconds:
        return None
    return figures.roofline_fraction(case.launches, case.target, case.dtype, microseconds)


def _kernels(case: Case, engine: Engine, inputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each launch that was planned; ``measured_us`` where a GPU ran these very launches."""
    measured: list[float | None] = [None] * len(case.launches)
    if engine.device.startswith("cuda"):
        found = [row["microseconds"] for row in reports.profiled(engine, inputs)]
        measured = [*found] if len(found) == len(case.launches) else measured
    return [
        {
            "kernel": launch.kernel,
            "origins": list(launch.origins),
            "measured_us": time,
            "predicted_us": launch.predicted_us,
            "roofline_us": figures.roofline_us(launch, case.target, case.dtype) if case.target else None,
            "traffic_bytes": launch.nbytes,
            "macs": launch.macs,
        }
        for launch, time in zip(case.launches, measured, strict=True)
    ]


def _compare(rows: Sequence[dict[str, Any]]) -> None:
    """Speed-up of every row against the first of its batch and numeric mode: measured on a GPU, and predicted."""
    first: dict[tuple[int, str], dict[str, Any]] = {}
    for row in rows:
        base = first.setdefault((row["batch"], row["dtype"]), row)
        row["speedup"] = base["median_us"] / row["median_us"] if row["times_mean_a_gpu"] else None
        known = base["predicted_us"] and row["predicted_us"]
        row["predicted_speedup"] = base["predicted_us"] / row["predicted_us"] if known else None
