"""Measuring tiles: the cost model's best candidates of every problem, on the device itself.

The network is planned with every kernel in a launch of its own. Variant ``n`` of the plan gives every problem its
candidate ``n``; all variants are compiled. A candidate takes part when no kernel of it spills or is too large, and when
its result is within the rounding of float64 on random data (`convc.analysis.kernel_check`). Only then is it timed:
every candidate of a problem in turn, several rounds, each a graph of the same launch in a row; the median counts.
Results go into a table that planning reads (`convc.targets.tuned`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .. import errors
from ..api import targets_of
from ..codegen.cache import KernelCache
from ..codegen.fingerprint import fingerprint
from ..codegen.packed import open_cache
from ..codegen.pool import Job, compile_kernels
from ..codegen.worker import Compiled
from ..compiler import compile_plan, job_of, settled, suits
from ..ir.digest import problem_digest
from ..ir.plan import Tile
from ..ir.problem import Problem
from ..passes import Launch, Switches
from ..passes.im2col_tiles import candidates
from ..passes.slices import GROUPING
from ..planner import assemble, make_plan
from ..program import Plan
from ..runtime.artifact import write_file
from ..runtime.engine import Engine
from ..runtime.executor import Executor
from ..runtime.network import CompiledNetwork
from ..targets import Target
from ..targets.tuned import Entry, Table, measured_of, read_table, schedule_of, tables_of, user_directory
from .ablate import DEFAULT_TARGET
from .arrays import random_inputs
from .devices import gpu_name, resolved_device, target_for
from .kernel_check import check_kernels
from .models import Choices, Progress, read_graph

CANDIDATES, ROUNDS, REPEATS = 8, 7, 20

Place = Callable[[CompiledNetwork], str | Executor]
"""Where a network runs: a device by its name, or an executor."""


@dataclass
class Candidate:
    """One schedule of a problem. dropped: why it is not timed. times: microseconds, one of each round."""

    tile: Tile
    dropped: str = ""
    times: list[float] = field(default_factory=list)

    @property
    def microseconds(self) -> float:
        return statistics.median(self.times)


@dataclass
class Tuned:
    """A problem of the network, and its candidates, the cost model's first choice first. launches: where it occurs."""

    digest: str
    problem: Problem
    launches: list[int]
    candidates: list[Candidate]

    @property
    def best(self) -> Candidate | None:
        """The fastest; the cost model's order decides between equals. None where none could be timed."""
        return min((c for c in self.candidates if c.times), key=lambda c: c.microseconds, default=None)

    def entry(self) -> Entry | None:
        """What a table says of it."""
        timed, best = [c for c in self.candidates if c.times], self.best
        if best is None:
            return None
        return Entry(schedule_of(best.tile), best.microseconds, timed[0].microseconds, len(timed))

    def as_json(self) -> dict[str, Any]:
        best = self.best
        return {
            "digest": self.digest,
            "equation": self.problem.equation,
            "launches": self.launches,
            "chosen": self.candidates.index(best) if best else None,
            "candidates": [
                {
                    "tile": schedule_of(c.tile),
                    "predicted_us": c.tile.predicted_us,
                    "microseconds": c.microseconds if c.times else None,
                    "dropped": c.dropped or None,
                }
                for c in self.candidates
            ],
        }


def plan_for(model: str, choices: Choices, target: str) -> Plan:
    """The network with every kernel in a launch of its own, under the cost model's tiles."""
    switches = choices.switches
    apart = Switches(switches.opt, tuple(sorted({*switches.disable, *GROUPING})), switches.only, switches.enable)
    options = choices.options(target, "fp16", targets=(target,), switches=apart, tuned=False)
    return make_plan(read_graph(model, choices.batch, choices.dims), options)


def problems_of(plan: Plan, most: int = CANDIDATES, known: Mapping[str, Entry] | None = None) -> list[Tuned]:
    """The distinct problems of a plan that have a choice of tiles and are not ``known`` yet."""
    program, found = plan.programs[0], dict[str, Tuned]()
    for number, launch in enumerate(program.launches):
        (problem,) = launch.problems
        digest = problem_digest(problem)
        if digest in found:
            found[digest].launches.append(number)
        elif digest not in (known or {}):
            tiles = candidates(problem, program.target)[:most]
            found[digest] = Tuned(digest, problem, [number], [Candidate(tile) for tile in tiles])
    return [tuned for tuned in found.values() if len(tuned.candidates) > 1]


def variant(plan: Plan, problems: Sequence[Tuned], number: int) -> Plan:
    """The plan with candidate ``number`` of every problem that has it; the first for others."""
    program = plan.programs[0]
    chosen = {
        launch: tuned.candidates[number].tile
        for tuned in problems
        if number < len(tuned.candidates) and not tuned.candidates[number].dropped
        for launch in tuned.launches
    }
    numbers = count()
    schedule = [
        _with_tile(entry, chosen.get(next(numbers))) if isinstance(entry, Launch) else entry
        for entry in program.schedule
    ]
    made = assemble(schedule, plan.layouts, program.target, plan.options, program.declines)
    return replace(plan, programs=(made,))


def _with_tile(launch: Launch, tile: Tile | None) -> Launch:
    (step,) = launch.steps
    return launch if tile is None else replace(launch, steps=(replace(step, tile=tile),))


# -- compiling --------------------------------------------------------------------------------------------------------
def compile_candidates(
    plan: Plan, problems: Sequence[Tuned], cache: KernelCache | None = None, progress: Progress | None = None
) -> int:
    """Compiles every candidate, and drops those whose code does not suit the target; how many kernels there are.

    Afterwards they are in the cache, so that this can be done on a machine without a GPU.
    """
    target, jobs = plan.programs[0].target, list[tuple[Candidate, Job]]()
    if target.is_interpreter:
        return 0
    for number in range(_most(problems)):
        launches = variant(plan, problems, number).programs[0].launches
        for tuned in problems:
            if number < len(tuned.candidates):
                job = job_of(plan, launches[tuned.launches[0]], target.capability)
                jobs.append((tuned.candidates[number], job))
    cache = cache or open_cache()
    for (candidate, _), compiled in zip(jobs, _compiled([job for _, job in jobs], cache, progress), strict=True):
        if not isinstance(compiled, Compiled):
            candidate.dropped = str(compiled)
        elif not suits(compiled, target):
            candidate.dropped = "the compiled code spills, waits or needs more shared memory than there is"
    return len(jobs)


def _compiled(
    jobs: Sequence[Job], cache: KernelCache, progress: Progress | None
) -> Sequence[Compiled | errors.CompileError]:
    """All at once; where one cannot be compiled, one by one, and its error."""
    try:
        return compile_kernels(jobs, cache, progress)
    except errors.CompileError:
        return [_compiled_alone(job, cache) for job in jobs]


def _compiled_alone(job: Job, cache: KernelCache) -> Compiled | errors.CompileError:
    try:
        return compile_kernels([job], cache)[0]
    except errors.CompileError as error:
        return error


def _most(problems: Sequence[Tuned]) -> int:
    return max((len(tuned.candidates) for tuned in problems), default=0)


# -- measuring --------------------------------------------------------------------------------------------------------
def measure(
    plan: Plan, problems: Sequence[Tuned], place: Place, seed: int = 0, progress: Progress | None = None
) -> str:
    """Checks the candidates and times those that are right; the name of the GPU. Raises `DeviceError`."""
    plans = [settled(variant(plan, problems, number)) for number in range(_most(problems))]
    networks = [CompiledNetwork(compile_plan(each)) for each in plans]
    total = 2 * len(plans)
    for number, (each, network) in enumerate(zip(plans, networks, strict=True)):
        inputs = random_inputs(network.inputs, seed)
        _drop_wrong(number, problems, each, network, place(network), inputs)
        if progress:
            progress(number + 1, total)
    engines: list[Engine] = []
    try:
        for number, network in enumerate(networks):
            try:
                engines.append(_engine(network, place(network)))
            except errors.DeviceError as error:
                if error.code != errors.OUT_OF_MEMORY or number < 2:
                    raise
                _drop_from(number, problems)
                break
            engines[-1].run(random_inputs(network.inputs, seed))
        for index, tuned in enumerate(problems):
            _time(tuned, engines)
            if progress:
                progress(len(plans) + len(plans) * (index + 1) // len(problems), total)
        return _gpu_name(engines[0], plan.programs[0].target)
    finally:
        for engine in engines:
            engine.close()


def _engine(network: CompiledNetwork, place: str | Executor) -> Engine:
    """Raises `DeviceError` for a device that cannot time single launches."""
    engine = network.engine(place)
    if not hasattr(engine.executor, "timer"):
        engine.close()
        raise errors.no_clock(engine.device)
    return engine


def _drop_from(number: int, problems: Sequence[Tuned]) -> None:
    """Drops candidates whose variants do not fit beside the others."""
    for candidate in (c for tuned in problems for c in tuned.candidates[number:]):
        candidate.dropped = candidate.dropped or "there is no memory left on the GPU to time it beside the others"


def _gpu_name(engine: Engine, target: Target) -> str:
    device = getattr(engine.executor, "device", None)
    return device.name if device is not None else target.device


def _drop_wrong(
    number: int,
    problems: Sequence[Tuned],
    plan: Plan,
    network: CompiledNetwork,
    place: str | Executor,
    inputs: Mapping[str, np.ndarray],
) -> None:
    """Drops candidates with a result that is not within its bound, before anything is timed."""
    taking_part = [tuned for tuned in problems if number < len(tuned.candidates)]
    owner = {tuned.launches[0]: tuned.candidates[number] for tuned in taking_part}
    compared = {launch for launch, candidate in owner.items() if not candidate.dropped}
    for check in check_kernels(plan, network, place, inputs, compared):
        if not check.ok:
            what = "overwrites others" if check.overwrites else f"off by {check.max_abs:.3g}, {check.bound:.3g} allowed"
            owner[check.launch].dropped = f"wrong: {what}"


def _time(tuned: Tuned, engines: Sequence[Engine]) -> None:
    """Every candidate once in every round, so that what slows the GPU down for a while slows all of them."""
    measured: list[tuple[Candidate, Callable[[], float]]] = []
    for candidate, engine in zip(tuned.candidates, engines, strict=False):
        if not candidate.dropped:
            timer = engine.executor.timer(tuned.launches[0], REPEATS)  # type: ignore[attr-defined]
            measured.append((candidate, timer))
    for _, timer in measured:
        timer()
    for _ in range(ROUNDS):
        for candidate, timer in measured:
            candidate.times.append(timer())


# -- the table --------------------------------------------------------------------------------------------------------
def stored(target: Target, directory: Path, gpu: str | None = None) -> Mapping[str, Entry]:
    """What a folder's tables know of a GPU, for the versions of now. gpu: its name; None: as planning chooses."""
    tables = [table for table in tables_of(target, [directory]) if gpu in (None, table.gpu)]
    measured = measured_of(target, tables, open_cache().triton, fingerprint())
    return measured.entries if measured is not None else {}


def store(plan: Plan, problems: Sequence[Tuned], gpu: str, directory: Path) -> Path:
    """Adds what was measured to the table of the GPU; entries of other versions go. Raises `OutputError`."""
    fresh = Table(plan.programs[0].target.name, gpu, open_cache().triton, fingerprint())
    path = directory / fresh.file_name
    old = read_table(path) if path.exists() else None
    same = old is not None and old.gpu == gpu and old.is_of(fresh.triton, fresh.templates)
    entries = dict(old.entries) if old is not None and same else {}
    entries |= {tuned.digest: entry for tuned in problems if (entry := tuned.entry()) is not None}
    table = msgspec.structs.replace(fresh, entries=dict(sorted(entries.items())))
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.not_written(path, error.strerror or error) from error
    write_file(path, [msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n"])
    return path


# -- the command ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Request:
    """What `convc tune` was asked. again: measure what the table knows already, too. prepare: compile only. directory:
    of the tables; None for the user's, where times of the interpreter are not kept."""

    model: str
    choices: Choices
    device: str
    target: str
    candidates: int = CANDIDATES
    seed: int = 0
    prepare: bool = False
    again: bool = False
    directory: Path | None = None


def place_and_target(device: str, target: str | None, prepare: bool) -> tuple[str, str]:
    """The device made concrete, and the one target that its kernels are compiled for.

    The interpreter is a device to tune on only by its own name.

    Raises:
        UsageError: several targets, or one that is not the device's. DeviceError: a device without kernels to time.
    """
    if prepare:
        names = targets_of(target or DEFAULT_TARGET)
        if len(names) != 1:
            raise errors.one_target(names)
        return device, names[0]
    own = target_for(device)
    if not own:
        raise errors.no_clock(device)
    if own == "interpreter" and device != "interpreter":
        raise errors.nothing_to_tune_on(device)
    device = resolved_device(device)
    if target not in (None, own):
        raise errors.other_target(target, own, device)
    return device, own


def tune(request: Request, progress: Progress | None = None, place: Place | None = None) -> dict[str, Any]:
    """Tunes a network as JSON: every problem with its candidates, and the table that holds the winners.

    Raises:
        DeviceError: no device that can time kernels. CompileError: no compiler. OutputError: a table that cannot be
        written. Others as `convc.plan`.
    """
    plan = plan_for(request.model, request.choices, request.target)
    directory = request.directory or user_directory()
    machine = plan.programs[0].target
    gpu = None if request.prepare else gpu_name(request.device) or machine.device
    known = {} if request.again else stored(machine, directory, gpu)
    problems = problems_of(plan, request.candidates, known)
    kernels = compile_candidates(plan, problems, progress=progress)
    report: dict[str, Any] = {"model": request.model, "target": request.target, "kernels": kernels}
    report |= {"device": None, "gpu": None, "table": None}
    if not request.prepare and problems:
        gpu = measure(plan, problems, place or (lambda _: request.device), request.seed, progress)
        report |= {"device": request.device, "gpu": gpu}
        if request.directory is not None or not machine.is_interpreter:
            report["table"] = str(store(plan, problems, gpu, directory))
    digests = {problem_digest(problem) for problem in plan.programs[0].problems}
    return report | {"known": len(digests & known.keys()), "problems": [tuned.as_json() for tuned in problems]}
