"""What the machine is and can do: versions, clocks, copies, matrix products, reads from L2, gaps between kernels."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from typing import Any

import numpy as np

from convc.runtime import manifest as m
from convc.runtime.cuda import CudaExecutor

from .device import Gpu, nvidia_smi, opened_gpu
from .probes import PROBES, Launch, network
from .setting import Setting

PACKAGES = ("convc", "torch", "triton", "cuda-bindings", "numpy", "nvidia-cudnn-cu13")
ATTRIBUTES = ("MULTIPROCESSOR_COUNT", "L2_CACHE_SIZE", "CLOCK_RATE", "MEMORY_CLOCK_RATE", "GLOBAL_MEMORY_BUS_WIDTH")
COPY_BYTES = 1 << 30
MATRIX, MATRIX_TYPES = 8192, ("float16", "bfloat16", "float32")
READERS = 528
"""Blocks of the read probe: four on each of 132 multiprocessors, so that enough bytes are on their way."""
READ_BYTES = READERS * 4096 * 4
"""What all of them read in one step."""
READ_STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 32)
READ_TOTAL = 4 << 30
GAP_LAUNCHES = 500
IMAGE = m.TensorSpec("x", "fp32", (1024,))
RESULT = m.TensorSpec("y", "fp32", (1024,))
REPEATS = 15


def facts(setting: Setting) -> None:
    """All of them, each a row."""
    if setting.todo("versions"):
        with setting.measuring("versions") as found:
            found |= versions()
    with opened_gpu() as gpu:
        for key, measure in (("device", device), ("copy", copy)):
            if setting.todo(key):
                with setting.measuring(key) as found:
                    found |= measure(gpu)
    for steps in READ_STEPS:
        if setting.todo(key := f"read {steps * READ_BYTES / 1e6:.0f} MB"):
            with setting.measuring(key) as found:
                found |= read(setting, steps)
    for programmatic in (False, True):
        if setting.todo(key := f"gap{' programmatic' * programmatic}"):
            with setting.measuring(key) as found:
                found |= gap(setting, programmatic)
    for dtype in MATRIX_TYPES:
        if setting.todo(key := f"matmul {dtype}"):
            with setting.measuring(key) as found:
                found |= matmul(dtype)


def versions() -> dict[str, Any]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    smi = nvidia_smi("name", "driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit", "memory.total")
    return {"python": platform.python_version(), "cores": os.cpu_count(), "packages": found, "nvidia_smi": smi}


def device(gpu: Gpu) -> dict[str, Any]:
    handle = gpu.driver.device(gpu.device.ordinal)
    attributes = {name.lower(): gpu.driver.attribute(name, handle) for name in ATTRIBUTES}
    return {"name": gpu.device.name, "architecture": gpu.device.architecture, "cuda": gpu.driver.version, **attributes}


def copy(gpu: Gpu) -> dict[str, Any]:
    """A copy within device memory: bytes read plus bytes written a second."""
    source, target = (gpu.device.allocate(COPY_BYTES, "a buffer to copy") for _ in range(2))
    try:
        gpu.driver.fill(source, 1, COPY_BYTES, gpu.stream)
        times = []
        for _ in range(REPEATS):
            measured = gpu.timed(lambda: gpu.driver.on_device(target, source, COPY_BYTES, gpu.stream))
            gpu.synchronize()
            times.append(gpu.elapsed_us(measured))
    finally:
        gpu.driver.free(source)
        gpu.driver.free(target)
    return {"bytes": COPY_BYTES, "tb_per_s": 2 * COPY_BYTES / statistics.median(times) / 1e6}


def read(setting: Setting, steps: int) -> dict[str, Any]:
    """Reads of a working set again and again; from L2 as long as it fits in there."""
    nbytes = steps * READ_BYTES
    loops = max(2, READ_TOTAL // nbytes)
    probe = PROBES["probe_read"]
    arguments = (m.BufferArgument("arena"), m.BufferArgument("output:0"), m.IntegerArgument(steps))
    launch = Launch(READERS, (*arguments, m.IntegerArgument(loops)))
    artifact = network(probe, probe.compiled(setting.kernels), [launch], [IMAGE], [RESULT], arena_bytes=nbytes)
    return {"bytes": nbytes, "tb_per_s": nbytes * loops / _median_us(artifact) / 1e6}


def gap(setting: Setting, programmatic: bool) -> dict[str, Any]:
    """Time of a kernel that does nothing, one of many in a graph."""
    probe = PROBES["probe_waiting" if programmatic else "probe_empty"]
    launches = [Launch(1, (m.BufferArgument("output:0"),))] * GAP_LAUNCHES
    artifact = network(probe, probe.compiled(setting.kernels), launches, [IMAGE], [RESULT], programmatic=programmatic)
    return {"us_per_kernel": _median_us(artifact) / GAP_LAUNCHES}


def _median_us(artifact: Any) -> float:
    executor = CudaExecutor()
    try:
        executor.prepare(artifact, None)
        return statistics.median(executor.measure([np.zeros(IMAGE.shape, np.float32)], REPEATS))
    finally:
        executor.close()


def matmul(dtype: str) -> dict[str, Any]:
    """A square matrix product of random numbers by the library of torch; float32 as TF32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    kind = getattr(torch, dtype)
    a, b = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=kind) for _ in range(2))
    out = torch.empty_like(a)
    times = []
    for _ in range(REPEATS + 3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        torch.mm(a, b, out=out)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return {"size": MATRIX, "tflop_per_s": 2 * MATRIX**3 / statistics.median(times[3:]) / 1e9}
