"""Whether a manifest holds together: every reference resolves, every offset lies inside its buffer.

The executors rely on this: they compute addresses from the manifest and check nothing again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from .dtypes import ITEMSIZE
from .manifest import (
    BufferArgument,
    IntegerArgument,
    KernelSpec,
    LaunchSpec,
    Manifest,
    Parameter,
    ProgramSpec,
    TensorSpec,
    ViewSpec,
    WeightSpec,
)
from .weights import ALIGN, SECTION, align

SECTION_NAME = re.compile(r"\w[\w.\-]*(/\w[\w.\-]*)*", re.ASCII)
SYMBOL = re.compile(r"[A-Za-z_]\w*", re.ASCII)
INTEGERS = {"i32": 1 << 31, "i64": 1 << 63}
GRID_LIMIT = (2**31 - 1, 65535, 65535)
THREAD_LIMIT = 1024


class Inconsistent(Exception):
    """What does not hold, in words."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Inconsistent(what)


def check_manifest(manifest: Manifest, *, newer: bool = False) -> None:
    """Raise `Inconsistent` where a manifest contradicts itself.

    newer: the manifest is of a newer minor version, whose unknown fields may refer to more sections.
    """
    _check_names("section", (section.name for section in manifest.sections))
    for section in manifest.sections:
        require(SECTION_NAME.fullmatch(section.name) is not None, f"section name {section.name!r} is not allowed")
    _check_references(manifest, newer)
    for role, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        _check_names(role, (spec.name for spec in specs))
        for spec in specs:
            require(spec.dtype in ITEMSIZE, f"{role} {spec.name!r} has the unknown dtype {spec.dtype!r}")
    _check_weights(manifest.weights, manifest.weights_bytes)
    _check_constants(manifest)
    _check_names("program", (program.target for program in manifest.programs))
    for program in manifest.programs:
        _check_program(manifest, program)


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of a dense input or output."""
    return math.prod(spec.shape) * ITEMSIZE[spec.dtype]


def buffer_sizes(manifest: Manifest, program: ProgramSpec) -> dict[str, int]:
    """Bytes of every buffer that a launch may name."""
    sizes = {"arena": program.arena_bytes, "weights": manifest.weights_bytes, "counters": program.counter_bytes}
    sizes |= {f"input:{i}": tensor_bytes(spec) for i, spec in enumerate(manifest.inputs)}
    return sizes | {f"output:{i}": tensor_bytes(spec) for i, spec in enumerate(manifest.outputs)}


def _check_names(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        require(name not in seen, f"{what} {name!r} is listed twice")
        seen.add(name)


def _check_references(manifest: Manifest, newer: bool) -> None:
    present = {section.name for section in manifest.sections}
    wanted = {kernel.source for program in manifest.programs for kernel in program.kernels}
    wanted |= {k.binary.section for program in manifest.programs for k in program.kernels if k.binary}
    wanted |= {manifest.graph} if manifest.graph else set()
    wanted |= {SECTION} if manifest.weights else set()
    for name in sorted(wanted - present):
        raise Inconsistent(f"section {name!r} is missing")
    for name in sorted(present - wanted - {SECTION}):
        require(newer, f"section {name!r} is not referred to")


def _check_weights(weights: Sequence[WeightSpec], total: int) -> None:
    """Weights lie in order, each at the next multiple of 256: a claimed size is never more than what is there."""
    _check_names("weight", (spec.name for spec in weights))
    end = 0
    for spec in weights:
        require(spec.offset == end, f"weight {spec.name!r} is at offset {spec.offset}, expected {end}")
        end = align(spec.offset + spec.nbytes, ALIGN)
    require(total == end, f"the weights buffer has {total} bytes, expected {end}")


def _check_constants(manifest: Manifest) -> None:
    sizes = {spec.name: spec.nbytes for spec in manifest.weights}
    for label, view in manifest.constants.items():
        require(view.weight in sizes, f"constant {label!r} is a view of the unknown weight {view.weight!r}")
        require(view.dtype in ITEMSIZE, f"constant {label!r} has the unknown dtype {view.dtype!r}")
        require(len(view.shape) == len(view.strides), f"constant {label!r} has {len(view.strides)} strides")
        first, last = _extent(view)
        inside = first >= 0 and last * ITEMSIZE[view.dtype] <= sizes[view.weight]
        require(inside, f"constant {label!r} reaches outside of weight {view.weight!r}")


def _extent(view: ViewSpec) -> tuple[int, int]:
    """The first element that a view touches, and one past the last."""
    if 0 in view.shape:
        return 0, 0
    reach = [(extent - 1) * stride for extent, stride in zip(view.shape, view.strides, strict=True)]
    return sum(min(r, 0) for r in reach), 1 + sum(max(r, 0) for r in reach)


def _check_program(manifest: Manifest, program: ProgramSpec) -> None:
    sizes = buffer_sizes(manifest, program)
    for kernel in program.kernels:
        _check_kernel(kernel, f"{program.target}: kernel {kernel.name!r}")
    for i, launch in enumerate(program.launches):
        where = f"{program.target}: launch {i}"
        require(launch.kernel < len(program.kernels), f"{where} names kernel {launch.kernel}, which is not there")
        _check_launch(launch, program.kernels[launch.kernel], sizes, where)


def _check_kernel(kernel: KernelSpec, where: str) -> None:
    require(SYMBOL.fullmatch(kernel.name) is not None, f"{where}: the name is not a symbol")
    for parameter in kernel.parameters:
        known = parameter.type.startswith("*") or parameter.type in INTEGERS
        require(known, f"{where}: parameter {parameter.name!r} has the unknown type {parameter.type!r}")
    if kernel.binary:
        threads = kernel.binary.threads
        require(threads <= THREAD_LIMIT and threads % 32 == 0, f"{where}: {threads} threads")


def _check_launch(launch: LaunchSpec, kernel: KernelSpec, sizes: dict[str, int], where: str) -> None:
    for extent, limit in zip(launch.grid, GRID_LIMIT, strict=True):
        require(extent <= limit, f"{where}: the grid {launch.grid} is larger than {GRID_LIMIT}")
    found, expected = len(launch.arguments), len(kernel.parameters)
    require(found == expected, f"{where}: {found} arguments for the {expected} parameters of {kernel.name!r}")
    for parameter, argument in zip(kernel.parameters, launch.arguments, strict=True):
        at = f"{where}: argument {parameter.name!r} of {kernel.name!r}"
        if isinstance(argument, BufferArgument):
            _check_pointer(parameter, argument, sizes, at)
        else:
            _check_integer(parameter, argument, at)


def _check_pointer(parameter: Parameter, argument: BufferArgument, sizes: dict[str, int], at: str) -> None:
    require(parameter.type.startswith("*"), f"{at} is a buffer, but the parameter is of type {parameter.type}")
    require(argument.buffer in sizes, f"{at} names the unknown buffer {argument.buffer!r}")
    size, offset = sizes[argument.buffer], argument.offset
    require(offset < size or offset == 0, f"{at}: offset {offset} in {argument.buffer!r} of {size} bytes")
    require(offset % parameter.align == 0, f"{at}: offset {offset} is not a multiple of {parameter.align}")


def _check_integer(parameter: Parameter, argument: IntegerArgument, at: str) -> None:
    require(parameter.type in INTEGERS, f"{at} is an integer, but the parameter is of type {parameter.type}")
    bound = INTEGERS[parameter.type]
    require(-bound <= argument.value < bound, f"{at}: {argument.value} does not fit {parameter.type}")
