"""Every launch of a network by itself: measured, beside what the cost model predicts and what the machine allows.

The launches of one run are enqueued with events between them, behind writes that keep the GPU busy until the host is
through, so that no kernel waits for its launch. What two events with nothing between them cost is taken off.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from convc.analysis import figures
from convc.compiler import settled
from convc.program import Plan
from convc.runtime.cuda import CudaExecutor
from convc.targets import target
from convc.targets.tuned import schedule_of

from .cases import TARGET, Case
from .device import FLUSH_US, Gpu, opened_gpu
from .numerics import images_of
from .setting import Setting

RUNS = 12
AHEAD_US_PER_LAUNCH = 30.0
"""Host time for a launch and two events, generously."""


def kernels(setting: Setting, network: str, batches: Sequence[int], dtype: str = "fp16") -> None:
    """A row for each batch size, with its launches."""
    with opened_gpu() as gpu:
        for batch in batches:
            case = Case(network, batch, dtype)
            if setting.todo(case.name):
                with setting.measuring(case.name) as found:
                    found |= {"network": network, "batch": batch, "dtype": dtype}
                    found |= profiled(setting, case, gpu)


def profiled(setting: Setting, case: Case, gpu: Gpu) -> dict[str, Any]:
    """The launches of a case, with measured, predicted and least microseconds, and their tiles."""
    plan, artifact = settled(case.plan("none"), setting.kernels), setting.artifact(case)
    executor = CudaExecutor(driver=gpu.driver)
    try:
        program = executor.choose(artifact, None)
        executor.prepare(artifact, program)
        executor.load([images_of(case.network, case.dtype, case.batch, 0)])
        runs = [times_of(executor, len(program.launches), gpu) for _ in range(RUNS)]
    finally:
        executor.close()
    measured = [statistics.median(times) for times in zip(*runs, strict=True)]
    machine = target(TARGET)
    rows = [
        {
            "kernel": launch.kernel,
            "layers": list(launch.origins),
            "tile": tile,
            "measured_us": round(time, 3),
            "predicted_us": round(launch.predicted_us, 3),
            "roofline_us": round(figures.roofline_us(launch, machine, case.dtype), 3),
            "megabytes": round(launch.nbytes / 1e6, 4),
            "mega_macs": round(launch.macs / 1e6, 3),
        }
        for launch, time, tile in zip(figures.stored(program), measured, tiles_of(plan), strict=True)
    ]
    return {"launches": rows, "sum_us": sum(measured), "ok": True}


def times_of(executor: CudaExecutor, count: int, gpu: Gpu) -> list[float]:
    """Microseconds of each launch in one run."""
    for _ in range(1 + int(count * AHEAD_US_PER_LAUNCH / FLUSH_US)):
        gpu.flush()
    nothing = [gpu.timed(lambda: None) for _ in range(3)]
    pieces = [gpu.timed(lambda number=number: executor.enqueue_launch(number, gpu.stream)) for number in range(count)]  # type: ignore[misc]
    gpu.synchronize()
    cost = statistics.median(gpu.elapsed_us(piece) for piece in nothing)
    return [max(gpu.elapsed_us(piece) - cost, 0.0) for piece in pieces]


def tiles_of(plan: Plan) -> list[dict[str, int | str] | None]:
    """The tile of each launch that is one kernel alone; None for the others."""
    launches = plan.programs[0].launches
    return [schedule_of(launch.steps[0].tile) if len(launch.steps) == 1 else None for launch in launches]
