"""Kernels that answer questions about the machine and the driver; they belong to no network.

Each becomes a network of its own, so that it is loaded, bound and launched by convc's runtime and by nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from convc.codegen.cache import KernelCache
from convc.codegen.pool import Job, compile_kernels
from convc.codegen.worker import Compiled, Request
from convc.compiler import binary_of
from convc.runtime import manifest as m
from convc.runtime.artifact import Artifact, build
from convc.targets import target

from .cases import TARGET

EMPTY = """\
import triton
import triton.language as tl


@triton.jit
def probe_empty(y):
    tl.store(y, 1.0)
"""

WAITING = """\
import triton
import triton.language as tl


@triton.jit
def probe_waiting(y):
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
    tl.store(y, 1.0)
"""

READ = """\
import triton
import triton.language as tl


@triton.jit
def probe_read(x, y, steps, loops):
    lane = tl.arange(0, 4096)
    total = tl.zeros([4096], tl.float32)
    for _ in range(loops):
        for step in range(steps):
            block = (tl.program_id(0) + step * tl.num_programs(0)).to(tl.int64)
            total += tl.load(x + block * 4096 + lane, cache_modifier=".cg")
    sum = tl.sum(total, axis=0)
    tl.store(y, sum, mask=sum == 1.0e30)
"""

ADD = """\
import triton
import triton.language as tl


@triton.jit
def probe_add(x, y, n):
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1.0, mask=i < n)
"""

ADD_WAITING = """\
import triton
import triton.language as tl


@triton.jit
def probe_add_waiting(x, y, n):
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1.0, mask=i < n)
"""

COPY_ROWS = """\
import triton
import triton.language as tl


@triton.jit
def probe_copy_TYPE(x, y):
    row = tl.program_id(0) * 64
    y.store([row, 0], x.load([row, 0]))
"""
COPY_TYPES: dict[str, np.dtype[Any]] = {
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(np.uint16),
    "fp32": np.dtype(np.float32),
}
COPY_COLUMNS = 32


@dataclass(frozen=True)
class Probe:
    """Source text and parameters of a kernel."""

    name: str
    source: str
    parameters: tuple[tuple[str, str, bool], ...]
    num_warps: int = 8

    @property
    def request(self) -> Request:
        return Request(self.name, self.source, self.parameters, target(TARGET).capability, self.num_warps, 1)

    def compiled(self, cache: KernelCache) -> Compiled:
        """From the cache. Raises `CompileError` where a pack does not hold it."""
        return compile_kernels([Job(self.request, self.name)], cache)[0]


def copy_probe(dtype: str) -> Probe:
    """Copies blocks of 64 rows through tensor maps."""
    kind = f"tensordesc<{dtype}[64,{COPY_COLUMNS}]>"
    source = COPY_ROWS.replace("TYPE", dtype)
    return Probe(f"probe_copy_{dtype}", source, (("x", kind, True), ("y", kind, True)), 4)


_Y = ("y", "*fp32", True)
_XY = (("x", "*fp32", True), _Y)
PROBES = {
    probe.name: probe
    for probe in (
        Probe("probe_empty", EMPTY, (_Y,), 4),
        Probe("probe_waiting", WAITING, (_Y,), 4),
        Probe("probe_read", READ, (*_XY, ("steps", "i32", False), ("loops", "i32", False))),
        Probe("probe_add", ADD, (*_XY, ("n", "i32", False)), 4),
        Probe("probe_add_waiting", ADD_WAITING, (*_XY, ("n", "i32", False)), 4),
        *(copy_probe(dtype) for dtype in COPY_TYPES),
    )
}


@dataclass(frozen=True)
class Launch:
    """A launch of a probe."""

    grid: int
    arguments: tuple[m.Argument, ...]


def network(
    probe: Probe,
    compiled: Compiled,
    launches: Sequence[Launch],
    inputs: Sequence[m.TensorSpec],
    outputs: Sequence[m.TensorSpec],
    arena_bytes: int = 0,
    programmatic: bool = False,
) -> Artifact:
    """A network of launches of one probe. programmatic: each may begin before the one in front of it has ended."""
    section = f"{TARGET}/{probe.name}.cubin"
    binary = binary_of(compiled, section, programmatic)
    parameters = tuple(m.Parameter(name, type) for name, type, _ in probe.parameters)
    kernel = m.KernelSpec(probe.name, "probe", f"{probe.name}.py", parameters, binary)
    program = m.ProgramSpec(
        target=TARGET,
        kernels=(kernel,),
        launches=tuple(m.LaunchSpec(0, (launch.grid, 1, 1), launch.arguments) for launch in launches),
        arena_bytes=arena_bytes,
        arena_lower_bound=arena_bytes,
    )
    manifest = m.Manifest(
        format=(m.FORMAT_MAJOR, m.FORMAT_MINOR),
        convc="",
        triton="",
        model=probe.name,
        dtype="fp32",
        opt="none",
        disabled=(),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        weights=(),
        weights_bytes=0,
        programs=(program,),
        graph="graph.txt",
    )
    blobs = {section: compiled.cubin, f"{probe.name}.py": probe.source.encode(), "graph.txt": b""}
    return build(manifest, blobs)
