"""What compiled kernels are checked for: each check with its limit, its findings and their remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..codegen.cubin import CubinKernel
from ..codegen.sass import Code, Loop
from ..ir.plan import POINTERS
from ..runtime.encoding import ALIGNMENT, BYTES
from ..runtime.manifest import Binary, KernelSpec, StepSpec
from ..runtime.tensor_maps import descriptor_type
from ..targets import Target

REGISTER_FILE = 65536
"""Registers of a multiprocessor, and so the most that a block can take."""
REGISTER_STEP = 8
"""Registers are given out to threads in steps of so many."""
MOST_INSTRUCTIONS = 14.0
"""In the main loop, for each product of 64 rows and `LARGE_TILE` columns on tensor cores, where descriptors fetch tiles
of `LARGE_TILE` rows and columns or more, of `MANY_CHANNELS`."""
LARGE_TILE = 128
MANY_CHANNELS = 64


@dataclass(frozen=True)
class Subject:
    """A kernel as compiled for one target. origins: the user's nodes that its launches, so many, stand for."""

    target: Target
    spec: KernelSpec
    origins: tuple[str, ...]
    launches: int
    cubin: CubinKernel
    code: Code

    @property
    def binary(self) -> Binary:
        assert self.spec.binary is not None
        return self.spec.binary

    @property
    def form(self) -> str:
        """What it does, in words; of a group, of each step that differs."""
        return "; ".join(dict.fromkeys(step.form for step in self.spec.steps))

    @property
    def tile(self) -> str:
        return "; ".join(dict.fromkeys(f"{step.rows}x{step.cols}x{step.depth}" for step in self.spec.steps))

    def as_json(self) -> dict[str, Any]:
        """Figures of the machine code."""
        loop = self.code.main_loop
        return {
            "instructions": self.code.instructions,
            "static_shared_bytes": self.cubin.static_shared_bytes,
            "counts": dict(self.code.counts),
            "accesses": {name: {str(width): n for width, n in w.items()} for name, w in self.code.widths.items()},
            "loop_instructions": loop.instructions if loop else None,
            "loop_tensor_core_instructions": loop.tensor_core if loop else None,
            "instructions_per_tensor_core_instruction": loop.ratio if loop else None,
            "steps": [{field: getattr(step, field) for field in step.__struct_fields__} for step in self.spec.steps],
        }


@dataclass(frozen=True)
class Finding:
    """A check that does not hold. check: its name. found, limit: in words. remedy: what to do."""

    check: str
    target: str
    kernel: str
    origins: tuple[str, ...]
    found: str
    limit: str
    remedy: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"origins": list(self.origins)}


# -- what is checked --------------------------------------------------------------------------------------------------
Outcome = tuple[str, str, str]
"""What was found, its limit, and the remedy."""


def _spills(subject: Subject) -> Iterator[Outcome]:
    if subject.binary.spill_bytes:
        yield (
            f"{subject.binary.spill_bytes} bytes of registers kept in memory",
            "0 bytes",
            "a smaller tile, or fewer values kept through the main loop",
        )


def _registers(subject: Subject) -> Iterator[Outcome]:
    each = -(-subject.binary.registers // REGISTER_STEP) * REGISTER_STEP
    if each * subject.binary.threads > REGISTER_FILE:
        yield (
            f"{subject.binary.registers} registers in each of {subject.binary.threads} threads",
            f"{REGISTER_FILE} in a block",
            "fewer warps or a smaller tile: the block cannot be launched",
        )


def _shared(subject: Subject) -> Iterator[Outcome]:
    total = subject.binary.shared_bytes + subject.cubin.static_shared_bytes
    if total > subject.target.shared_bytes:
        yield (
            f"{total} bytes of shared memory",
            f"{subject.target.shared_bytes} bytes on {subject.target.name}",
            "fewer stages or a smaller tile: the block cannot be launched",
        )


def _scratch(subject: Subject) -> Iterator[Outcome]:
    if subject.binary.global_scratch_bytes:
        yield (
            f"{subject.binary.global_scratch_bytes} bytes of global memory for each block",
            "0 bytes",
            "descriptors made by the host instead of the kernel",
        )


def _overlap(subject: Subject) -> Iterator[Outcome]:
    for warning in subject.binary.warnings:
        yield (
            f"ptxas: {warning}",
            "no warning C75xx: products of matrices then wait for each other",
            "tl.assume of a trip count above 0, and operands of products from shared memory",
        )


def _parameters(subject: Subject) -> Iterator[Outcome]:
    compiled = [(parameter.offset, parameter.size) for parameter in subject.cubin.parameters]
    expected = launch_record(subject.spec, subject.cubin.parameter_base)
    if compiled != expected:
        yield (
            f"parameters at (offset, size) {compiled}",
            f"{expected}, as the runtime passes them",
            "the version of Triton that this version of convc is made for",
        )
    if subject.cubin.threads != (subject.binary.threads, 1, 1):
        yield (
            f"threads {subject.cubin.threads}",
            f"{(subject.binary.threads, 1, 1)}, as it is launched",
            "the version of Triton that this version of convc is made for",
        )


def _tensor_cores(subject: Subject) -> Iterator[Outcome]:
    types = sorted({step.products for step in subject.spec.steps if step.products})
    if types and not subject.code.tensor_core:
        yield (
            f"products of {' and '.join(types)} on ordinary units",
            "instructions on tensor cores",
            "a tile of at least 16 rows, columns and elements of depth",
        )


def _main_loop(subject: Subject) -> Iterator[Outcome]:
    loop = subject.code.main_loop
    if loop is None or not is_limited(subject) or per_product(loop) <= MOST_INSTRUCTIONS:
        return
    yield (
        f"{per_product(loop):.1f} instructions in the main loop for a product of 64x{LARGE_TILE} ({quotient(loop)})",
        f"{MOST_INSTRUCTIONS:.0f}, of tiles from {LARGE_TILE}x{LARGE_TILE} on",
        "addresses that step by constants, fewer warps or a deeper tile",
    )


def per_product(loop: Loop) -> float:
    """Instructions for each product of 64 rows and `LARGE_TILE` columns: one of 256 columns takes tensor cores twice as
    long, and counts as two."""
    return loop.instructions * LARGE_TILE / loop.columns if loop.columns else loop.ratio


def quotient(loop: Loop) -> str:
    """Instructions over those on tensor cores."""
    return f"{loop.instructions}/{loop.tensor_core}"


def is_limited(subject: Subject) -> bool:
    """Whether the instructions of a kernel's main loop are limited: descriptors fetch large tiles of many channels, and
    whole warp groups multiply them."""
    products = [step for step in subject.spec.steps if step.products]
    return subject.target.instruction == "wgmma" and bool(products) and all(map(_is_limited, products))


def _is_limited(step: StepSpec) -> bool:
    large = min(step.rows, step.cols) >= LARGE_TILE and step.channels >= MANY_CHANNELS
    return step.access != POINTERS and large


CHECKS: dict[str, Callable[[Subject], Iterator[Outcome]]] = {
    "spills": _spills,
    "registers": _registers,
    "shared-memory": _shared,
    "scratch": _scratch,
    "overlap": _overlap,
    "parameters": _parameters,
    "tensor-cores": _tensor_cores,
    "main-loop": _main_loop,
}


def launch_record(spec: KernelSpec, base: int = 0) -> list[tuple[int, int]]:
    """(offset, size) in bytes of every parameter as Triton's calling convention has it: a descriptor is a tensor map,
    its shape and its strides; two pointers to scratch memory come last. base: where the parameter block begins in
    constant memory, in which alignments count."""
    found: list[tuple[int, int]] = []
    for parameter in spec.parameters:
        descriptor = descriptor_type(parameter.type)
        sizes = [4 if parameter.type == "i32" else 8]
        if descriptor is not None:
            rank = descriptor.rank
            sizes = [BYTES, *[4] * rank, *[8] * rank]
        for size in sizes:
            _append(found, size, base)
    for _ in range(2):
        _append(found, 8, base)
    return found


def _append(record: list[tuple[int, int]], size: int, base: int) -> None:
    """Adds a parameter at the next multiple of its own size; of a tensor map, of its alignment."""
    end = base + (sum(record[-1]) if record else 0)
    step = min(size, ALIGNMENT)
    record.append((-(-end // step) * step - base, size))


def findings(subjects: Sequence[Subject]) -> list[Finding]:
    """What does not hold, in the order of the kernels."""
    return [
        Finding(name, subject.target.name, subject.spec.name, subject.origins, *outcome)
        for subject in subjects
        for name, check in CHECKS.items()
        for outcome in check(subject)
    ]
