"""The demo: a trained network from ONNX to running Triton kernels, on a machine without a GPU.

Compiles digits.onnx (a CNN with batch normalisation and a residual block; see train.py) at every optimisation level,
runs the emitted kernels over the test images in Triton's interpreter, sets the results beside ONNX Runtime's, and
compiles for two GPUs ahead of time. Needs convc and its extra ``verify``: `pip install 'convc[verify]'`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

import convc
from convc.analysis.bounds import output_bounds
from convc.analysis.verify import reference_outputs
from convc.api import plan
from convc.runtime.network import CompiledNetwork, Kernel, traffic_bytes

HERE = Path(__file__).resolve().parent
MODEL = HERE / "digits.onnx"
BUILD = HERE.parents[1] / "build"
KERNELS = BUILD / "digits-kernels"
PIXEL_MAXIMUM = np.float32(16)
LEVELS = {
    "none": "each operator its own kernel",
    "fold": "batch normalisation folded into the weights",
    "fuse": "and bias, ReLU and residual sum fused",
}
DTYPES = ("fp32", "fp16")
GPUS = {"sm_90": "H100, H200", "sm_80": "A100"}


@dataclass(frozen=True)
class Result:
    """One way of running the network over the test images.

    right: images whose largest logit is the label's. max_abs: largest difference of a logit from ONNX Runtime's. bound:
    what a correct run stays within (docs/numerics.md).
    """

    level: str
    dtype: str
    launches: int
    kernels: int
    traffic_bytes: int
    right: int
    max_abs: float
    bound: float


def test_set(count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images, fp32 [N, 1, 8, 8] in [0, 1], and labels [N]: the first ``count`` of the test set."""
    with np.load(HERE / "test.npz") as arrays:
        return arrays["pixels"][:count] / PIXEL_MAXIMUM, arrays["labels"][:count]


def reference(images: np.ndarray) -> np.ndarray:
    """ONNX Runtime's logits, its optimisations disabled."""
    return reference_outputs(str(MODEL), {"image": images})["logits"]


def measure(level: str, dtype: str, images: np.ndarray, labels: np.ndarray, expected: np.ndarray) -> Result:
    """Compiles for the interpreter, runs the emitted kernels and compares."""
    batch = len(images)
    planned = plan(MODEL, "interpreter", dtype, batch, level)
    with convc.compile(MODEL, target="interpreter", dtype=dtype, batch=batch, opt=level) as network:
        logits = network(images)
        launches = network.plan.launches
    return Result(
        level,
        dtype,
        launches=len(launches),
        kernels=len(network.kernels),
        traffic_bytes=sum(map(traffic_bytes, launches)),
        right=int((logits.argmax(1) == labels).sum()),
        max_abs=float(np.abs(logits - expected).max()),
        bound=output_bounds(planned.graph, dtype, {"image": images})["logits"],
    )


def for_gpus(batch: int) -> CompiledNetwork:
    """The network compiled ahead of time."""
    return convc.compile(MODEL, target=list(GPUS), dtype="fp16", batch=batch)


def fused_most(network: CompiledNetwork) -> Kernel:
    """The kernel of the first target that stands for most of the model's nodes."""
    names = {spec.name for spec in network.plan.kernels}
    return max((kernel for kernel in network.kernels if kernel.name in names), key=lambda kernel: len(kernel.origins))


def write_kernels(network: CompiledNetwork, folder: Path) -> list[Path]:
    """Writes the listing of every kernel; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    files = [folder / f"{kernel.name}.py" for kernel in network.kernels]
    for file, kernel in zip(files, network.kernels, strict=True):
        file.write_text(kernel.listing() + "\n", encoding="utf-8")
    return files


# -- what is shown ----------------------------------------------------------------------------------------------------
def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and whose others are figures."""
    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold cyan", show_lines=False)
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def model_lines(images: np.ndarray) -> str:
    """What the network is, in three lines."""
    model = onnx.load(MODEL)
    ops: dict[str, int] = {}
    for node in model.graph.node:
        ops[node.op_type] = ops.get(node.op_type, 0) + 1
    parts = ", ".join(f"{count} {op}" if count > 1 else op for op, count in ops.items())
    return (
        f"{MODEL.name}, as {model.producer_name} {model.producer_version} exported it: {parts}.\n"
        f"Test set: {len(images)} handwritten digits of 8x8 pixels that the training never saw.\n"
        "No GPU is used: the emitted Triton kernels run in Triton's interpreter, on the CPU."
    )


def fusion_table(results: Sequence[Result], batch: int) -> Table:
    rows = [
        (r.level, LEVELS[r.level], r.dtype, str(r.launches), str(r.kernels), f"{r.traffic_bytes / 1e6:.1f}")
        for r in results
    ]
    columns = ("--opt", "", "dtype", "launches", "distinct kernels", "MB moved")
    return table(f"1. What fusion leaves (batch {batch})", columns, rows, left=3)


def accuracy_table(results: Sequence[Result], expected: np.ndarray, labels: np.ndarray) -> Table:
    rows = [
        (
            f"convc --opt {r.level}",
            r.dtype,
            f"{r.right / len(labels):.2%}",
            f"{r.right} of {len(labels)}",
            f"{r.max_abs:.1e}",
            f"{r.bound:.1e}",
        )
        for r in results
    ]
    right = int((expected.argmax(1) == labels).sum())
    head = ("ONNX Runtime", "fp32", f"{right / len(labels):.2%}", f"{right} of {len(labels)}", "", "")
    columns = ("", "dtype", "accuracy", "right", "largest difference", "bound")
    return table("3. The emitted kernels, run over the test images", columns, [head, *rows], left=2)


def layers_table(network: CompiledNetwork) -> Table:
    rows = [
        (network.plan.kernels[launch.kernel].name, escape("\n".join(launch.origins)), escape(launch.equation))
        for launch in network.plan.launches
    ]
    return table(
        "2. What was fused: the kernels, in the order in which they run", ("kernel", "layers", "computes"), rows, 3
    )


def binaries_table(network: CompiledNetwork) -> Table:
    """One row for each launch, the figures of every GPU side by side."""
    rows = []
    for launches in zip(*(program.launches for program in network.programs), strict=True):
        origins = launches[0].origins
        row = [escape(" … ".join(dict.fromkeys((origins[0], origins[-1]))))]
        for program, launch in zip(network.programs, launches, strict=True):
            binary = program.kernels[launch.kernel].binary
            assert binary is not None
            row += [str(binary.registers), f"{binary.shared_bytes / 1024:.1f}", str(binary.tensor_core_instructions)]
        rows.append(row)
    columns = [f"{name}\n{what}" for name in GPUS for what in ("registers", "shared KiB", "tensor-core\ninstructions")]
    return table("4. Compiled ahead of time: read from the machine code (fp16)", ["kernel of", *columns], rows)


def spilled_bytes(network: CompiledNetwork) -> int:
    """Over all kernels and GPUs: registers that are kept in memory, in bytes per thread."""
    return sum(figures["spill_bytes"] for kernel in network.kernels for figures in kernel.targets.values())


def next_steps(files: Sequence[Path], artifact: Path) -> str:
    return (
        f"[bold]All {len(files)} kernels[/] are in {shown(KERNELS)}/, to be read.\n"
        f"[bold]The compiled network[/] for {' and '.join(GPUS)} is {shown(artifact)}: one file, no framework needed.\n"
        "\nNext:\n"
        f"  convc run {shown(MODEL)} --device interpreter      runs it\n"
        f"  convc verify {shown(MODEL)} --device interpreter   against ONNX Runtime\n"
        f"  convc kernels {shown(MODEL)}                       sources and figures of every kernel\n"
        f"  convc show {shown(MODEL)}                          the fused graph\n"
        "  convc compile zoo:resnet18 -o resnet18.convc --target sm_90"
    )


def shown(path: Path) -> str:
    """A path as the user would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def run_all(images: np.ndarray, labels: np.ndarray, expected: np.ndarray) -> tuple[list[Result], CompiledNetwork]:
    """Every dtype at every level in the interpreter, and the network for the GPUs, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        compiled = pool.submit(for_gpus, len(images))
        pairs = [(level, dtype) for dtype in DTYPES for level in LEVELS]
        results = list(pool.map(lambda pair: measure(pair[0], pair[1], images, labels, expected), pairs))
        return results, compiled.result()


def main() -> None:
    console = Console(width=None if sys.stdout.isatty() else 118)
    started = time.perf_counter()
    images, labels = test_set()
    console.print(Panel(escape(model_lines(images)), title="convc: from a trained model to running Triton kernels"))
    expected = reference(images)
    with console.status(f"compiling for {' and '.join(GPUS)}; compiling and running every level in the interpreter"):
        results, network = run_all(images, labels, expected)
    files = write_kernels(network, KERNELS)
    artifact = BUILD / "digits.convc"
    network.save(artifact)
    show(console, results, network, expected, labels)
    console.print(Panel(next_steps(files, artifact), title=f"done in {time.perf_counter() - started:.0f} s"))


def show(
    console: Console, results: list[Result], network: CompiledNetwork, expected: np.ndarray, labels: np.ndarray
) -> None:
    """Prints the tables and one kernel."""
    console.print(fusion_table(results, len(labels)), "")
    console.print(layers_table(network), "")
    console.print(accuracy_table(results, expected, labels))
    console.print(
        f"Differences are of the logits, which reach {np.abs(expected).max():.1f}; the bound is what rounding may\n"
        "amount to in this dtype (docs/numerics.md). How long the interpreter takes says nothing about a GPU.\n",
        style="dim",
    )
    console.print(binaries_table(network))
    machines = " and ".join(f"{name} ({devices})" for name, devices in GPUS.items())
    console.print(
        f"{len(network.kernels)} distinct kernels for {machines}; {spilled_bytes(network)} bytes spilled.\n"
        "Compiling needs no GPU, and nothing here was measured on one.\n",
        style="dim",
    )
    kernel = fused_most(network)
    console.print(f"[bold]5. One kernel as it was emitted: {kernel.name}[/]\n")
    console.print(Syntax(kernel.listing(), "python", theme="ansi_dark", background_color="default", word_wrap=True))


if __name__ == "__main__":
    main()
