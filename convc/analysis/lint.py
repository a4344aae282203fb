"""Compiled kernels checked without running them: what their machine code must hold on every target.

Everything is read from the cubins and from what the manifest says of them. A check gives findings that name the kernel,
the user's nodes, what was found, its limit and the remedy. What has no limit is a figure of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..codegen.cache import KernelCache
from ..codegen.cubin import parse
from ..codegen.sass import disassemble, examine
from ..compiler import compile_programs, kernel_specs
from ..program import Plan
from ..runtime.artifact import Artifact
from ..runtime.manifest import KernelSpec, ProgramSpec
from ..runtime.network import Kernel
from ..targets import Target, target
from . import reports
from .lint_checks import CHECKS, Finding, Subject, findings
from .models import Choices, Progress, is_compiled


@dataclass(frozen=True)
class Report:
    """What a lint of a network gives: kernels with their listings, what their code is like, and what does not hold."""

    model: str
    kernels: tuple[Kernel, ...]
    subjects: tuple[Subject, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        figures = {(subject.spec.name, subject.target.name): subject.as_json() for subject in self.subjects}
        rows = [reports.kernel_row(kernel) for kernel in self.kernels]
        for row in rows:
            for target_name, known in row["targets"].items():
                known.update(figures[row["name"], target_name])
        found = [finding.as_json() for finding in self.findings]
        return {"model": self.model, "ok": not found, "findings": found, "checks": list(CHECKS), "kernels": rows}


def examine_artifact(artifact: Artifact) -> list[Subject]:
    """The compiled kernels of an artifact, target by target.

    Raises:
        CompileError: the machine code cannot be disassembled.
    """
    return [subject for program in artifact.manifest.programs for subject in _subjects(artifact, program)]


def _subjects(artifact: Artifact, program: ProgramSpec) -> list[Subject]:
    launches: dict[str, list[tuple[str, ...]]] = {}
    for launch in program.launches:
        launches.setdefault(program.kernels[launch.kernel].name, []).append(launch.origins)
    specs = [spec for spec in program.kernels if spec.binary is not None]
    cubins = [bytes(artifact.section(spec.binary.section)) for spec in specs if spec.binary]
    return _examined(target(program.target), specs, cubins, launches)


def examine_plan(plan: Plan, cache: KernelCache, progress: Progress | None = None) -> list[Subject]:
    """The kernels of a plan, compiled as for an artifact, which is not made: weights are not needed.

    Raises:
        CompileError: a kernel does not compile, or the machine code cannot be disassembled.
    """
    programs, binaries = compile_programs(plan, cache, progress)
    found = []
    for program in programs:
        launches: dict[str, list[tuple[str, ...]]] = {}
        for launch in program.launches:
            launches.setdefault(launch.kernel.name, []).append(plan.origins(launch))
        specs = kernel_specs(program, binaries)
        cubins = [binaries[program.target.name, spec.name].cubin for spec in specs]
        found += _examined(program.target, specs, cubins, launches)
    return found


def _examined(
    machine: Target, specs: Sequence[KernelSpec], images: Sequence[bytes], launches: Mapping[str, list[tuple[str, ...]]]
) -> list[Subject]:
    """launches: kernel → the origins of each of its launches."""
    cubins = [parse(image).kernels[spec.name] for spec, image in zip(specs, images, strict=True)]
    codes = disassemble([cubin.code for cubin in cubins], machine.capability)
    return [
        Subject(machine, spec, _each_once(launches[spec.name]), len(launches[spec.name]), cubin, examine(code))
        for spec, cubin, code in zip(specs, cubins, codes, strict=True)
    ]


def _each_once(origins: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for names in origins for name in names))


def lint_model(model: str, choices: Choices, default: str, name: str | None, progress: Progress | None) -> Report:
    """The kernels of a compiled network or of a model, which is compiled first; or just the one of a name.

    Raises:
        UsageError: no such kernel, no such target, or no GPU among the targets.
    """
    network = reports.open_kernels(model, choices, default, progress)
    kernels = reports.of_targets(network, choices, model) if is_compiled(model) else network.kernels
    named = reports.chosen(kernels, name)
    wanted = {(kernel.name, of) for kernel in named for of in kernel.targets}
    subjects = tuple(s for s in examine_artifact(network.artifact) if (s.spec.name, s.target.name) in wanted)
    if not subjects:
        raise errors.nothing_compiled([program.target for program in network.programs])
    return Report(model, tuple(named), subjects, tuple(findings(subjects)))
