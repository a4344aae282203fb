"""Whoever runs a network in a cell: convc in its variants, and the peers; all replayed by the same loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from convc.analysis import figures
from convc.runtime.artifact import Artifact
from convc.runtime.cuda import CudaExecutor
from convc.runtime.dtypes import numpy_dtype
from convc.targets import target

from .cases import TARGET
from .device import Gpu
from .timing import Replay


@dataclass(frozen=True)
class Contestant:
    """Something prepared. replay: enqueues one run. show: puts other images in place. poison, result: of its output.
    about: what to note of it."""

    name: str
    replay: Replay
    show: Callable[[np.ndarray], None]
    poison: Callable[[], None]
    result: Callable[[], np.ndarray]
    close: Callable[[], None]
    about: Mapping[str, Any]


def of_artifact(name: str, artifact: Artifact, images: np.ndarray, gpu: Gpu) -> Contestant:
    """A compiled network on the GPU. Raises `DeviceError`."""
    started = time.monotonic()
    executor = CudaExecutor(driver=gpu.driver)
    program = executor.choose(artifact, None)
    executor.prepare(artifact, program)
    executor.load([images])
    (spec,) = artifact.manifest.outputs

    def result() -> np.ndarray:
        return executor.buffer("output:0").view(numpy_dtype(spec.dtype)).reshape(spec.shape)

    launches = figures.stored(program)
    machine, dtype = target(TARGET), artifact.manifest.dtype
    about = {
        "kind": "convc",
        "launches": len(launches),
        "kernels": len(program.kernels),
        "megabytes": sum(launch.nbytes for launch in launches) / 1e6,
        "arena_megabytes": program.arena_bytes / 1e6,
        "predicted_us": sum(launch.predicted_us for launch in launches),
        "roofline_us": sum(figures.roofline_us(launch, machine, dtype) for launch in launches),
        "prepare_s": round(time.monotonic() - started, 2),
    }
    replay, show = partial(executor.enqueue, gpu.stream), lambda others: executor.load([others])
    return Contestant(name, replay, show, executor.poison, result, executor.close, about)


def of_peer(name: str, module: Any, images: np.ndarray, device: str = "cuda") -> Contestant:
    """One of `peers.PEERS` on the same images."""
    from . import peers

    started = time.monotonic()
    fixed = peers.images_on(device, images)
    captured = peers.prepared(peers.PEERS[name], module, fixed)
    about = {"kind": "peer", "prepare_s": round(time.monotonic() - started, 2)}

    def show(others: np.ndarray) -> None:
        fixed.copy_(peers.images_on(device, others))

    return Contestant(name, captured.replay, show, captured.poison, captured.result, captured.close, about)


@contextmanager
def on_stream(gpu: Gpu) -> Iterator[None]:
    """torch enqueues on the suite's stream, where torch is there and has a GPU."""
    try:
        import torch
    except ImportError:
        torch = None  # type: ignore[assignment]
    usable = torch is not None and torch.cuda.is_available()
    with torch.cuda.stream(torch.cuda.ExternalStream(int(gpu.stream))) if usable else nullcontext():
        yield
