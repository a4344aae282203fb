"""The figures of the README's benchmark section: what can be measured without a GPU.

    python -m bench.bench [--quick] [--readme] [--output FILE.json]

Times are medians of whole runs on this machine. Kernels, bytes and memory are properties of the plan and of the
compiled kernels. Nothing here says how fast the kernels run on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import convc
from convc.analysis.arrays import random_inputs
from convc.analysis.verify import verify
from convc.api import plan
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.frontends.export import export_onnx

from .markdown import table, write_part

ROOT = Path(__file__).resolve().parent.parent
PART = "bench"
"""Of the README."""
Row = dict[str, Any]


def row(what: str, value: float | int, unit: str, limit: float | None = None, note: str = "") -> Row:
    """One figure; ``limit`` is what it should not exceed."""
    return {"what": what, "value": value, "unit": unit, "limit": limit, "note": note}


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock seconds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_megabytes(command: list[str], environment: dict[str, str]) -> float:
    """Largest sum of proportional memory of a command and all its children, sampled every 50 ms."""
    process = psutil.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(member.memory_full_info().pss for member in family))
        except psutil.Error:
            pass
        time.sleep(0.05)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return peak / 1e6


def start_up(repeats: int) -> list[Row]:
    help_text = [sys.executable, "-m", "convc", "--help"]
    took = seconds(lambda: subprocess.run(help_text, check=True, stdout=subprocess.DEVNULL), repeats)
    return [row("`convc --help`", took, "s", 0.4)]


def compiling(folder: Path, repeats: int) -> list[Row]:
    """ONNX to plan, and plan to machine code, with an empty and with a full kernel cache."""
    model = folder / "resnet50.onnx"
    megabytes = model.stat().st_size / 1e6
    rows = [row("ResNet-50, ONNX to plan", seconds(lambda: plan(str(model)), repeats), "s", 3.0)]
    for name, limit in (("resnet50", 25.0), ("densenet121", 60.0)):
        cold, warm = [], []
        for _ in range(1 if name != "resnet50" else max(1, repeats // 2)):
            with tempfile.TemporaryDirectory() as cache:
                compiled = partial(_compiled, str(folder / f"{name}.onnx"), Path(cache))
                cold.append(seconds(compiled, 1))
                warm.append(seconds(compiled, 1))
        rows.append(row(f"{name}, cold compile, fp16, sm_90", statistics.median(cold), "s", limit))
        if name == "resnet50":
            rows.append(row(f"{name}, warm compile", statistics.median(warm), "s", 3.0))
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "convc", "compile", str(model), "-o", str(folder / "m.convc")]
        peak = peak_megabytes(command, {"CONVC_CACHE_DIR": cache})
    rows.append(row("ResNet-50, peak memory of a compile, all processes", peak, "MB", 4 * megabytes + 400))
    return rows


def _compiled(model: str, cache: Path) -> None:
    compile_plan(plan(model), KernelCache(cache))


def executing(folder: Path, repeats: int) -> list[Row]:
    """ResNet-50 at 224x224, fp32, batch 1, in the executors that need no GPU; both verified."""
    model = str(folder / "resnet50.onnx")
    rows = []
    for device, limit in (("numpy", 0.8), ("interpreter", 40.0)):
        network = convc.compile(model, target="interpreter", dtype="fp32")
        inputs = random_inputs(network.inputs)
        with network.engine(device) as engine:
            engine.run(inputs)
            took = seconds(partial(engine.run, inputs), repeats if device == "numpy" else 1)
        checked = verify(model, device, "fp32")
        note = f"error {checked.outputs[0].max_abs:.1e}, bound {checked.outputs[0].bound:.1e}"
        if not checked.ok:
            raise RuntimeError(f"{device}: {note}")
        rows.append(row(f"ResNet-50, fp32, batch 1, {device}", took, "s", limit, note))
    return rows


def planned() -> list[Row]:
    """Kernels, bytes and memory of ResNet-50 for sm_90 in fp16, and the code of its kernels."""
    model = zoo.build("resnet50").graph
    unfused, fused = plan(model, opt="none"), plan(model)
    program = fused.programs[0]
    artifact = compile_plan(plan(model, target=("sm_90", "sm_80")))
    binaries = [(p.target, k, k.binary) for p in artifact.manifest.programs for k in p.kernels if k.binary]
    without = [k.name for _, k, b in binaries if k.family == "contraction" and not b.tensor_core_instructions]
    spilled = [k.name for _, k, b in binaries if b.spill_bytes]
    ratio = program.arena.nbytes / program.arena.lower_bound
    return [
        row("ResNet-50, launches unfused", len(unfused.programs[0].launches), ""),
        row("ResNet-50, launches fused", len(program.launches), "", 56, f"{len(program.kernels)} distinct kernels"),
        row("ResNet-50, activation traffic unfused", unfused.programs[0].traffic.activations / 1e6, "MB"),
        row("ResNet-50, activation traffic fused", program.traffic.activations / 1e6, "MB", 57.0),
        row("ResNet-50, weight traffic", program.traffic.weights / 1e6, "MB"),
        row("ResNet-50, split-K workspace traffic", program.traffic.workspace / 1e6, "MB", None, "partial sums"),
        row("ResNet-50, arena over its lower bound", ratio, "", 1.15, f"{program.arena.nbytes / 1e6:.2f} MB"),
        row("ResNet-50, contractions without tensor cores (sm_80, sm_90)", len(without), "", 0),
        row("ResNet-50, kernels that spill registers (sm_80, sm_90)", len(spilled), "", 0),
    ]


def zoo_table() -> list[Row]:
    """Launches and bytes of other networks."""
    rows = []
    for name in ("resnet18", "vgg16", "googlenet", "mobilenet_v2", "densenet121", "squeezenet1_1", "efficientnet_b0"):
        graph = zoo.build(name, weights="none").graph
        none, fuse = (plan(graph, opt=opt).programs[0] for opt in ("none", "fuse"))
        megabytes = [(p.traffic.activations + p.traffic.weights) / 1e6 for p in (none, fuse)]
        note = f"{megabytes[0]:.1f} → {megabytes[1]:.1f} MB of activations and weights"
        rows.append(
            row(
                f"{name}, launches unfused → fused",
                len(fuse.launches),
                "",
                None,
                f"{len(none.launches)} → {len(fuse.launches)}; {note}",
            )
        )
    return rows


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "gpu": "none",
    }


def markdown(rows: list[Row]) -> str:
    """The table of the README."""
    lines = []
    for entry in rows:
        value = f"{entry['value']:.3g}" if isinstance(entry["value"], float) else str(entry["value"])
        limit = "" if entry["limit"] is None else f"{entry['limit']:g}"
        lines.append((entry["what"], f"{value} {entry['unit']}", limit, entry["note"]))
    return "\n".join(table(("figure", "measured>", "at most>", ""), lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="one repeat each, without the interpreter")
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "cpu.json")
    given = parser.parse_args()
    repeats = 1 if given.quick else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network in ("resnet50", "densenet121"):
            export_onnx(zoo.build(network).graph, folder / f"{network}.onnx")
        rows = start_up(repeats) + planned() + zoo_table() + compiling(folder, repeats)
        rows += [] if given.quick else executing(folder, repeats)
    figures = markdown(rows)
    print(figures)
    about = machine()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if given.readme:
        where = f"Measured with `make bench` on {about['cores']} cores without a GPU, Python {about['python']}."
        write_part(ROOT / "README.md", PART, f"{where}\n\n{figures}")
    missed = [entry["what"] for entry in rows if entry["limit"] is not None and entry["value"] > entry["limit"]]
    print("all figures within their limits" if not missed else f"over the limit: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
