"""A compiled network as its user holds it: callable, savable, and open about its kernels."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .. import errors
from .artifact import Artifact
from .engine import Engine
from .executor import Executor
from .manifest import Binary, HostStepSpec, LaunchSpec, ProgramSpec, TensorSpec

log = logging.getLogger("convc")


@dataclass(frozen=True)
class Kernel:
    """A distinct kernel of a compiled network.

    origins: the user's nodes that its launches stand for. rules: the fusion rules that made it. equation: what it
    computes. tile: how, and why so. source: Triton source. targets: target name → registers, shared memory, spills and
    tensor-core instructions of the compiled code (none for the interpreter).
    """

    name: str
    origins: tuple[str, ...]
    rules: tuple[str, ...]
    equation: str
    tile: str
    launches: int
    source: str
    targets: Mapping[str, dict[str, int]]

    def listing(self) -> str:
        """The source behind a header that names the user's layers."""
        layers = [f"#   {printable(name)}" for name in self.origins]
        head = ["# Layers:", *layers, f"# Rules: {', '.join(self.rules) or 'none'}", f"# Tile: {self.tile}"]
        return "\n".join([*head, "", self.source])


def printable(name: str) -> str:
    """A name of the user's model on one line of ASCII, so that it cannot end a comment."""
    return name.encode("unicode_escape").decode("ascii")[:200]


class CompiledNetwork:
    """A compiled network.

    Call it with one array per input, by position or by name; NumPy arrays give NumPy arrays, arrays on the GPU (DLPack
    or ``__cuda_array_interface__``) give arrays there. It runs on the GPU that it was compiled for where there is one,
    otherwise in Triton's interpreter; `engine` chooses another device.
    """

    def __init__(self, artifact: Artifact, device: str = "auto", target: str | None = None) -> None:
        self.artifact = artifact
        self._device, self._target = device, target
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    def __call__(self, /, *arrays: Any, **named: Any) -> Any:
        """The output, or the outputs by name where there are several. Raises `InputError`, `DeviceError`."""
        return self._ready()(*arrays, **named)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name for inputs by name."""
        return self._ready().run(inputs)

    def stream(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Outputs by name of one batch after the other, copies overlapping the computation; see `Engine.stream`."""
        return self._ready().stream(batches)

    def engine(self, device: str | Executor = "auto", target: str | None = None) -> Engine:
        """A new engine on a device: ``cuda``, ``interpreter``, ``numpy``, ``auto``, or an own executor. The caller
        closes it."""
        if device == "auto" and all(program.target == "interpreter" for program in self.programs):
            device = "interpreter"
        return Engine(self.artifact, device, target)

    def sized(self, inputs: Mapping[str, Any]) -> CompiledNetwork:
        """The network for the sizes of these arrays: itself, where none are open."""
        return self

    def _ready(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self.engine(self._device, self._target)
            return self._engine

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the artifact: the whole file or nothing. Raises `OutputError`."""
        self.artifact.save(path)

    def close(self) -> None:
        """Gives back what running it took. It can be called again afterwards."""
        with self._lock:
            if self._engine is not None:
                self._engine.close()
                self._engine = None

    def __enter__(self) -> CompiledNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.artifact.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.artifact.manifest.outputs

    @property
    def programs(self) -> tuple[ProgramSpec, ...]:
        return self.artifact.manifest.programs

    @property
    def plan(self) -> ProgramSpec:
        """Launches, grids, arguments and arena of the first target. Raises `UsageError` where there is none."""
        if not self.programs:
            raise errors.no_target(self.artifact.file)
        return self.programs[0]

    @property
    def kernels(self) -> list[Kernel]:
        """The distinct kernels of all targets, in order of first use; equal ones of two targets count once."""
        found: dict[str, Kernel] = {}
        for program in self.programs:
            for index, spec in enumerate(program.kernels):
                launches = [launch for launch in program.launches if launch.kernel == index]
                if not launches:
                    continue
                known = found.get(spec.name)
                targets = dict(known.targets) if known else {}
                if spec.binary is not None:
                    targets[program.target] = _figures(spec.binary)
                found[spec.name] = Kernel(
                    name=spec.name,
                    origins=tuple(dict.fromkeys(o for launch in launches for o in launch.origins)),
                    rules=launches[0].rules,
                    equation=launches[0].equation,
                    tile=known.tile if known else launches[0].tile,
                    launches=known.launches if known else len(launches),
                    source=self.artifact.text(spec.source),
                    targets=targets,
                )
        return list(found.values())

    def report(self) -> str:
        """A table of the launches of the first target, with totals."""
        lines = [f"{self.artifact.manifest.model}: {self.artifact.manifest.dtype}, {self.plan.target}"]
        lines.append(f"{'launch':>6}  {'kernel':32} {'kB':>9} {'MMAC':>9} {'us':>7}  computes")
        lines += [_row(number, launch, self.plan) for number, launch in enumerate(self.plan.launches)]
        lines += [f"behind {step.before} launches: {host_text(step)}" for step in self.plan.host_steps]
        moved = sum(traffic_bytes(launch) for launch in self.plan.launches)
        lines.append(
            f"{len(self.plan.launches)} launches of {len(self.plan.kernels)} kernels, {moved / 1e6:.1f} MB of traffic, "
            f"arena {self.plan.arena_bytes / 1e6:.2f} MB (at least {self.plan.arena_lower_bound / 1e6:.2f}), "
            f"predicted {predicted_us(self.plan):.0f} us (not measured)"
        )
        return "\n".join(lines)


def _figures(binary: Binary) -> dict[str, int]:
    return {
        "registers": binary.registers,
        "shared_bytes": binary.shared_bytes,
        "spill_bytes": binary.spill_bytes,
        "tensor_core_instructions": binary.tensor_core_instructions,
    }


def _row(number: int, launch: LaunchSpec, program: ProgramSpec) -> str:
    name = program.kernels[launch.kernel].name
    size = f"{traffic_bytes(launch) / 1e3:9.1f} {launch.macs / 1e6:9.1f} {launch.predicted_us:7.1f}"
    return f"{number:6}  {name:32} {size}  {launch.equation}"


def traffic_bytes(launch: LaunchSpec) -> int:
    """Distinct bytes of activations and weights that a launch asks of memory."""
    return launch.activation_bytes + launch.weight_bytes


def predicted_us(program: ProgramSpec) -> float:
    """The launches, and the waits and copies of the host's steps; what NumPy takes there is not predicted."""
    return sum(launch.predicted_us for launch in program.launches) + sum(s.predicted_us for s in program.host_steps)


def host_text(step: HostStepSpec) -> str:
    """What the host does in a step, and why."""
    layers, reasons = ", ".join(map(printable, step.origins)), "; ".join(map(printable, step.reasons))
    return f"{layers} on the host, in NumPy ({reasons})"


def warn_of_host_steps(network: CompiledNetwork) -> None:
    """Says in the log ``convc`` what of a network runs on the host."""
    steps = network.plan.host_steps if network.programs else ()
    for step in steps:
        log.warning("between launches: %s", host_text(step))
