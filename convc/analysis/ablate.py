"""Ablation: what each rule is worth, by planning a network with and without it.

Configurations are made from `RULES`, so a new rule appears by itself. Nothing is timed unless a GPU is there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from .. import errors
from ..api import targets_of
from ..ir import Graph, print_graph
from ..passes import RULES, Switches
from ..planner import bind_batch, make_plan
from ..program import Plan
from ..targets import Target, target
from .arrays import random_inputs
from .comparison import compare
from .devices import resolved_device, target_for
from .models import Choices, Progress, compile_network, is_compiled, read_graph
from .verify import reference_model, reference_outputs

DEFAULT_TARGET = "sm_90"
REPEATS = 50
"""Runs of which the measured time is the median."""
DECIMALS = 3
"""Of microseconds: a nanosecond is finer than what the cost model can tell apart."""


@dataclass(frozen=True)
class Configuration:
    """Rules that are switched together; ``rule`` is the one that it is about, where it is about one."""

    name: str
    switches: Switches
    rule: str | None = None

    @property
    def disabled(self) -> list[str]:
        """The rules that do not run."""
        return [name for name in RULES if not self.switches.on(name)]


def configurations() -> list[Configuration]:
    """``none``, ``fold``, ``all``, ``nothing`` (not one rule), then every rule left out and every rule alone."""
    return [
        Configuration("none", Switches("none")),
        Configuration("fold", Switches("fold")),
        Configuration("all", Switches("fuse")),
        Configuration("nothing", Switches("fuse", only=())),
        *(Configuration(f"without {name}", Switches("fuse", disable=(name,)), name) for name in RULES),
        *(Configuration(f"only {name}", Switches("fuse", only=(name,)), name) for name in RULES),
    ]


@dataclass(frozen=True)
class Row:
    """One configuration's figures.

    kernels: distinct ones. traffic_bytes: activations and weights, each distinct byte once a launch. macs:
    multiply-adds, those of padding by merged groups included, each once. recomputed_macs: those that are done again.
    predicted_us: of the cost model.
    measured_us: median on a GPU, None without one. max_error: largest absolute difference to ONNX Runtime, None
    where no device was asked for.
    """

    configuration: str
    disabled: list[str]
    kernels: int
    launches: int
    traffic_bytes: int
    arena_bytes: int
    macs: int
    recomputed_macs: int
    predicted_us: float
    measured_us: float | None = None
    max_error: float | None = None


@dataclass(frozen=True)
class Worth:
    """What a rule saves in launches, bytes, arena and predicted microseconds, with all others on and with none."""

    rule: str
    launches: int
    traffic_bytes: int
    arena_bytes: int
    predicted_us: float
    alone_launches: int
    alone_traffic_bytes: int
    alone_arena_bytes: int
    alone_predicted_us: float
    measured_us: float | None = None

    @property
    def matters(self) -> bool:
        """Whether the rule changes any of these figures."""
        return any(value for name, value in vars(self).items() if name not in ("rule", "measured_us"))


@dataclass(frozen=True)
class Ablation:
    """The rows of a network for one target; ``plan`` is that with all rules."""

    model: str
    target: Target
    dtype: str
    batch: int
    device: str | None
    rows: tuple[Row, ...]
    plan: Plan

    @property
    def by_name(self) -> dict[str, Row]:
        return {row.configuration: row for row in self.rows}

    @property
    def measured(self) -> bool:
        """Whether times were measured."""
        return any(row.measured_us is not None for row in self.rows)

    @property
    def worth(self) -> list[Worth]:
        """Every rule, the one that saves most predicted time first, then bytes, arena, and its worth alone."""
        found = [_worth(name, self.by_name) for name in RULES]
        return sorted(found, key=lambda w: (-w.predicted_us, -w.traffic_bytes, -w.arena_bytes, -w.alone_predicted_us))

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "target": self.target.name,
            "dtype": self.dtype,
            "batch": self.batch,
            "policy": self.plan.options.policy_name,
            "device": self.device,
            "rows": [asdict(row) for row in self.rows],
            "worth": [asdict(worth) for worth in self.worth],
        }


def _worth(rule: str, rows: Mapping[str, Row]) -> Worth:
    whole, nothing = rows["all"], rows["nothing"]
    without, only = rows[f"without {rule}"], rows[f"only {rule}"]
    measured = None
    if without.measured_us is not None and whole.measured_us is not None:
        measured = round(without.measured_us - whole.measured_us, DECIMALS)
    return Worth(
        rule,
        without.launches - whole.launches,
        without.traffic_bytes - whole.traffic_bytes,
        without.arena_bytes - whole.arena_bytes,
        round(without.predicted_us - whole.predicted_us, DECIMALS),
        nothing.launches - only.launches,
        nothing.traffic_bytes - only.traffic_bytes,
        nothing.arena_bytes - only.arena_bytes,
        round(nothing.predicted_us - only.predicted_us, DECIMALS),
        measured,
    )


def ablate(
    model: str, choices: Choices, device: str | None = None, seed: int = 0, progress: Progress | None = None
) -> Ablation:
    """Plans a network in every configuration; with a device also runs it, and with a GPU also times it.

    device: ``numpy``, ``interpreter``, ``cuda`` or ``auto``: where the results are compared with ONNX Runtime;
    None compares nothing. Times are measured where the GPU that is present is the target.

    Raises:
        UsageError: a compiled network, or several targets. Others as `convc.plan`.
    """
    if is_compiled(model):
        raise errors.compiled_already(model)
    device = resolved_device(device) if device is not None else None
    machine = _one_target(choices.target, device)
    options = choices.options(machine.name, "fp16", targets=(machine.name,))
    graph = read_graph(model, choices.batch, choices.dims)
    trial = Trial(model, graph, options.batch, options.dtype, device, machine, seed)
    rows, plans = [], {}
    wanted = configurations()
    for done, configuration in enumerate(wanted):
        if progress:
            progress(done, len(wanted))
        plan = make_plan(graph, replace(options, switches=configuration.switches))
        plans[configuration.name] = plan
        rows.append(trial.row(configuration, plan))
    return Ablation(model, machine, options.dtype, options.batch, device, tuple(rows), plans["all"])


def _one_target(given: str | None, device: str | None) -> Target:
    """The target asked for; else that of the GPU asked for, of the one that is present, or the default."""
    if given is None:
        found = target_for(device if device is not None and device.startswith("cuda") else "auto")
        return target(DEFAULT_TARGET if found == "interpreter" else found)
    names = targets_of(given)
    if len(names) != 1:
        raise errors.one_target(names)
    return target(names[0])


@dataclass
class Trial:
    """Runs configurations of one network; those whose plans are the same run once."""

    model: str
    graph: Graph
    batch: int
    dtype: str
    device: str | None
    target: Target
    seed: int
    _known: dict[object, tuple[float | None, float | None]] = field(default_factory=dict)
    _expected: dict[str, np.ndarray] | None = None

    def row(self, configuration: Configuration, plan: Plan) -> Row:
        """The figures of a plan; measured time and error where there is a device for them."""
        program = plan.programs[0]
        measured, error = self._ran(plan)
        steps = [step for launch in program.launches for step in launch.steps]
        return Row(
            configuration=configuration.name,
            disabled=configuration.disabled,
            kernels=len(program.kernels),
            launches=len(program.launches),
            traffic_bytes=program.traffic.activations + program.traffic.weights,
            arena_bytes=program.arena.nbytes,
            macs=sum(launch.macs for launch in program.launches),
            recomputed_macs=sum(step.work.problem.recomputed_macs(step.tile) for step in steps),
            predicted_us=round(program.predicted_us, DECIMALS),
            measured_us=measured,
            max_error=error,
        )

    def _devices(self) -> Iterator[str]:
        """Where to run: the device asked for, and the GPU where it is the target's."""
        if self.device is not None:
            yield self.device
        timed = self.device is not None and self.device.startswith("cuda")
        if not timed and not self.target.is_interpreter and target_for("cuda") == self.target.name:
            yield "cuda"

    def _ran(self, plan: Plan) -> tuple[float | None, float | None]:
        devices = list(self._devices())
        if not devices:
            return None, None
        launches = tuple(launch.kernel.name for launch in plan.programs[0].launches)
        key = (print_graph(plan.graph), launches, plan.programs[0].arena.nbytes)
        if key not in self._known:
            measured = error = None
            for device in devices:
                time, difference = self._run(plan, device)
                measured = time if time is not None else measured
                error = difference if device == self.device else error
            self._known[key] = measured, error
        return self._known[key]

    def _run(self, plan: Plan, device: str) -> tuple[float | None, float | None]:
        """Measured microseconds and the largest error on a device."""
        name = target_for(device) or "interpreter"
        if name != plan.options.targets[0]:
            plan = make_plan(self.graph, replace(plan.options, targets=(name,)))
        network = compile_network(plan)
        inputs = random_inputs(network.inputs, self.seed)
        with network.engine(device) as engine:
            error = self._error(inputs, engine.run(inputs)) if device == self.device else None
            on_gpu = device.startswith("cuda") and name == self.target.name
            measured = statistics.median(engine.measure(inputs, REPEATS)) if on_gpu else None
        return measured, error

    def _error(self, inputs: dict[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
        if self._expected is None:
            reference = reference_model(self.model, bind_batch(self.graph, self.batch))
            self._expected = reference_outputs(reference, inputs)
        checks = [compare(name, found[name], expected, np.inf) for name, expected in self._expected.items()]
        return max(check.max_abs for check in checks)
