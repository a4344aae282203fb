"""Open questions about the driver that only a GPU can answer, each with a kernel of its own.

- **cubins**: does the driver load what the newest assembler makes (ELF ABI 8), and what an older one makes? Does every
  kernel of the pack load?
- **maps**: do copies through tensor maps bring what is there, for small arrays too, with rows outside as zeros, and for
  every element type?
- **edges**: does a kernel that begins before its predecessor has ended (programmatic launch) see what that one wrote?
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from convc import errors
from convc.codegen.cache import KernelCache
from convc.codegen.cubin import parse
from convc.codegen.packed import PackedKernels
from convc.runtime import manifest as m
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.targets import target

from .artifacts import OLDER, unpacked
from .cases import TARGET
from .device import opened_gpu
from .facts import IMAGE, RESULT
from .probes import COPY_COLUMNS, COPY_TYPES, PROBES, Launch, network
from .setting import Setting

ROWS = (1, 20, 64, 100, 1000, 1023, 1024, 4096, 100_000)
"""Rows of the copied arrays, of 128 bytes or less each: from under 128 KiB, where drivers up to 13.1 need a
correction of the map, to above."""
CHAIN = 64
ABI = 8
"""Byte of an ELF file that tells the version of its ABI; the one before it tells whose."""


def questions(setting: Setting) -> None:
    """All of them, each a row."""
    asked: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("cubin", partial(adds, setting.kernels)),
        ("cubin of the older assembler", lambda: adds(older(setting))),
        ("all cubins", partial(loads, setting.kernels)),
    ]
    asked += [
        (f"map {dtype} {rows} rows", partial(copies, setting.kernels, dtype, rows))
        for dtype in COPY_TYPES
        for rows in ROWS
    ]
    asked += [(f"edges{' programmatic' * flag}", partial(chained, setting.kernels, flag)) for flag in (False, True)]
    for key, question in asked:
        if setting.todo(key):
            with setting.measuring(key) as found:
                found |= question()


def older(setting: Setting) -> KernelCache:
    """The probes of the pack that the older assembler made."""
    if setting.pack is None:
        raise errors.UsageError("without a pack there are no kernels of the older assembler")
    return PackedKernels(unpacked(setting.pack, setting.folder, OLDER))


def adds(kernels: KernelCache) -> dict[str, Any]:
    """One small kernel is loaded, runs and is right."""
    probe = PROBES["probe_add"]
    compiled = probe.compiled(kernels)
    arguments = (m.BufferArgument("input:0"), m.BufferArgument("output:0"), m.IntegerArgument(IMAGE.shape[0]))
    x = np.random.default_rng(0).standard_normal(IMAGE.shape).astype(np.float32)
    (y,) = run(network(probe, compiled, [Launch(1, arguments)], [IMAGE], [RESULT]), [x])
    return {"abi": compiled.cubin[ABI], "os_abi": compiled.cubin[ABI - 1], "ok": bool((y == x + 1).all())}


def loads(kernels: KernelCache) -> dict[str, Any]:
    """Every kernel of the cache is loaded; which are refused, and why."""
    loaded, refused = 0, {}
    with opened_gpu() as gpu:
        for path in sorted(entries(kernels.directory)):
            compiled = kernels.get(path.name)
            if compiled is None or parse(compiled.cubin).sm != target(TARGET).capability:
                continue
            try:
                load(gpu.driver, compiled.cubin)
                loaded += 1
            except errors.DeviceError as error:
                refused[path.name[:16]] = str(error)[:200]
    return {"loaded": loaded, "refused": dict(list(refused.items())[:8]), "ok": loaded > 0 and not refused}


def load(driver: Driver, cubin: bytes) -> None:
    """Loads a cubin with its kernels, and lets go of them. Drivers leave the code aside until a kernel is asked for."""
    library = driver.load_library(cubin)
    try:
        for name in parse(cubin).kernels:
            driver.max_threads(driver.function(library, name))
    finally:
        driver.unload_library(library)


def entries(directory: Path) -> list[Path]:
    """The files of a cache's kernels."""
    return [path for path in directory.glob("??/*") if not path.name.startswith(".")]


def copies(kernels: KernelCache, dtype: str, rows: int) -> dict[str, Any]:
    """An array is copied block by block through tensor maps; its last block reaches over its end."""
    probe, kind = PROBES[f"probe_copy_{dtype}"], COPY_TYPES[dtype]
    shape = (rows, COPY_COLUMNS)
    maps = tuple(m.TensorMapArgument(buffer, 0, shape, (COPY_COLUMNS, 1)) for buffer in ("input:0", "output:0"))
    specs = [m.TensorSpec(name, dtype, shape) for name in ("x", "y")]
    launch = Launch(-(-rows // 64), maps)
    x = np.random.default_rng(rows).integers(1, 60_000, shape).astype(kind)
    (y,) = run(network(probe, probe.compiled(kernels), [launch], specs[:1], specs[1:]), [x])
    wrong = int((y.view(np.uint8).reshape(rows, -1) != x.view(np.uint8).reshape(rows, -1)).any(axis=1).sum())
    return {"bytes": x.nbytes, "wrong_rows": wrong, "ok": wrong == 0}


def chained(kernels: KernelCache, programmatic: bool) -> dict[str, Any]:
    """Dependent kernels: each adds one to what its predecessor wrote; a hundred runs of the chain."""
    count = 1 << 20
    spec = [m.TensorSpec(name, "fp32", (count,)) for name in ("x", "y")]
    probe = PROBES["probe_add_waiting" if programmatic else "probe_add"]
    places = [m.BufferArgument("input:0")]
    places += [m.BufferArgument("arena", (number % 2) * 4 * count) for number in range(CHAIN - 1)]
    places += [m.BufferArgument("output:0")]
    launches = [
        Launch(count // 1024, (source, result, m.IntegerArgument(count))) for source, result in pairwise(places)
    ]
    artifact = network(
        probe, probe.compiled(kernels), launches, spec[:1], spec[1:], arena_bytes=8 * count, programmatic=programmatic
    )
    x = np.random.default_rng(0).integers(0, 1000, count).astype(np.float32)
    wrong = sum(int((run_again != x + CHAIN).any()) for run_again in runs(artifact, x, 100))
    return {"kernels": CHAIN, "wrong_runs": wrong, "ok": wrong == 0}


def run(artifact: Any, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """One run on poisoned memory."""
    executor = CudaExecutor()
    try:
        executor.prepare(artifact, None)
        executor.poison()
        return executor.run(inputs)
    finally:
        executor.close()


def runs(artifact: Any, x: np.ndarray, count: int) -> list[np.ndarray]:
    executor = CudaExecutor()
    try:
        executor.prepare(artifact, None)
        return [executor.run([x])[0] for _ in range(count)]
    finally:
        executor.close()
