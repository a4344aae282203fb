"""Results as text for people: tables and lines. JSON is in `convc.cli`; this module holds no figures of its own."""

from __future__ import annotations

import io
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

PLAIN_WIDTH = 160
"""Columns of a table that does not go to a terminal."""


def printable(text: object) -> str:
    """Text of the user's model on one line: what could steer a terminal is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> str:
    """Rows in columns; a column whose name ends in ``>`` is set to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    terminal = sys.stdout.isatty()
    shown = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        shown.add_column(column.removesuffix(">"), justify="right" if right else "left", no_wrap=right, overflow="fold")
    for row in rows:
        shown.add_row(*(printable(cell) for cell in row))
    width = shutil.get_terminal_size().columns if terminal else PLAIN_WIDTH
    text = io.StringIO()
    plain = {"markup": False, "emoji": False, "highlight": False}
    Console(file=text, width=width, force_terminal=terminal, **plain).print(shown)  # type: ignore[arg-type]
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")


def size(nbytes: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.0f} B" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} GB"


def number(value: float) -> str:
    """A count with its unit prefix."""
    for prefix in ("", "k", "M"):
        if value < 1000:
            return f"{value:.0f}" if not prefix else f"{value:.1f} {prefix}"
        value /= 1000
    return f"{value:.2f} G"


def compiled(report: dict[str, Any]) -> str:
    """What `convc compile` says: one row a target."""
    columns = ("target", "launches>", "kernels>", "arena>", "at least>", "traffic>", "spills>", "predicted>")
    rows = [
        (
            program["target"],
            program["launches"],
            program["kernels"],
            size(program["arena_bytes"]),
            size(program["arena_lower_bound"]),
            size(program["traffic_bytes"]),
            size(program["spill_bytes"]),
            f"{program['predicted_us']:.0f} us",
        )
        for program in report["programs"]
    ]
    head = f"{printable(report['model'])}: {report['dtype']}, --opt {report['opt']}"
    if "max_batch" in report:
        head += f", batches of 1 to {report['max_batch']}"
    tail = f"weights {size(report['weight_bytes'])}, {report['seconds']:.1f} s; predicted times are not measured"
    return f"{head}\n{table(columns, rows)}\n{_on_host(report)}{tail}\n{printable(report['artifact'])}"


def _on_host(report: dict[str, Any]) -> str:
    """What runs on the host for the first target; nothing where all are kernels."""
    if not report["host_steps"]:
        return ""
    rows = [
        (step["behind_launches"], size(step["copied_bytes"]), ", ".join(step["origins"]), "; ".join(step["reasons"]))
        for step in report["host_steps"]
    ]
    shown = table(("behind launches>", "copied>", "on the host, in NumPy", "why"), rows)
    return f"{shown}\nof these steps the predicted time holds the waits and copies, not what NumPy takes\n"


def left_open(report: dict[str, Any]) -> str:
    """What `convc compile` says of a network whose sizes are open."""
    names = ", ".join(map(printable, report["open"]))
    head = f"{printable(report['model'])}: {report['dtype']}, --opt {report['opt']}"
    return f"{head}\ncompiled for each {names} when it is first run with it\n{printable(report['artifact'])}"


def ran(report: dict[str, Any]) -> str:
    """What `convc run` says: the outputs and, where asked for, the launches."""
    rows = [
        (name, spec["dtype"], list(spec["shape"]), f"{spec['min']:.5g}", f"{spec['max']:.5g}", f"{spec['mean']:.5g}")
        for name, spec in report["outputs"].items()
    ]
    parts = [table(("output", "dtype", "shape", "min>", "max>", "mean>"), rows)]
    if "profile" in report:
        parts.append(profile(report["profile"], report["device"]))
    many = (
        f"{report['batches']} batches, {report['images_per_second']:.4g} images a second, "
        if "batches" in report
        else ""
    )
    parts.append(f"{report['device']}: {many}{report['seconds']:.4g} s")
    return "\n".join(parts)


def tuned(report: dict[str, Any]) -> str:
    """What `convc tune` says: one row a problem with its candidates' times, the chosen one marked."""
    if not report["problems"]:
        return f"nothing to measure: {report['known']} problems are known"
    if report["gpu"] is None:
        return f"{report['kernels']} kernels of {len(report['problems'])} problems for {report['target']} are compiled"
    rows = [_tuned_row(problem) for problem in report["problems"]]
    parts = [table(("problem", "tiles>", "first us>", "best us>", "gain>", "computes"), rows)]
    if report["target"] == "interpreter":
        parts.append("These are times of Triton's interpreter: they say nothing about a GPU.")
    parts.append(f"{report['gpu']}: {report['table'] or 'not kept, since there is no --tables'}")
    return "\n".join(parts)


def _tuned_row(problem: dict[str, Any]) -> tuple[str, ...]:
    times = [c["microseconds"] for c in problem["candidates"] if c["microseconds"] is not None]
    if not times:
        return problem["digest"][:8], "0", "", "", "", problem["equation"]
    gain = f"{times[0] / min(times):.2f}x"
    return problem["digest"][:8], str(len(times)), f"{times[0]:.1f}", f"{min(times):.1f}", gain, problem["equation"]


def profile(launches: Sequence[dict[str, Any]], device: str) -> str:
    """One row a launch, with its share of the sum."""
    total = sum(launch["microseconds"] for launch in launches) or 1.0
    rows = [
        (
            launch["launch"],
            launch["kernel"],
            f"{launch['microseconds']:.1f}",
            f"{100 * launch['microseconds'] / total:.1f}",
            ", ".join(launch["origins"]),
        )
        for launch in launches
    ]
    shown = table(("launch>", "kernel", "us>", "%>", "layers"), rows)
    if device == "interpreter":
        shown += "\nThese are times of Triton's interpreter: they say nothing about a GPU."
    return shown


def benched(report: dict[str, Any]) -> str:
    """What `convc bench` says: measured columns, and predicted ones beside them that say so."""
    parts = [f"{printable(report['model'])} on {report['device']}"]
    on_gpu = any(row["times_mean_a_gpu"] for row in report["rows"])
    seen = "" if on_gpu else f"{report['device']} "
    columns = ["opt", "batch>", "dtype", f"{seen}median>", f"{seen}p10>", f"{seen}p90>"]
    columns += ["of roofline>", "speed-up>"] if on_gpu else []
    columns += ["launches>", "predicted>", "predicted of roofline>", "predicted speed-up>"]
    rows = []
    for row in report["rows"]:
        cells = [
            row["opt"],
            row["batch"],
            row["dtype"],
            *(microseconds(row[f"{p}_us"]) for p in ("median", "p10", "p90")),
        ]
        cells += [share(row["roofline_fraction"]), times(row["speedup"])] if on_gpu else []
        cells += [row["launches"] or "-", microseconds(row["predicted_us"])]
        rows.append([*cells, share(row["predicted_roofline_fraction"]), times(row["predicted_speedup"])])
    parts.append(table(columns, rows))
    if not on_gpu:
        parts.append(f"Times on {report['device']} say nothing about a GPU: no GPU was used.")
    if report["target"] is not None:
        parts.append(f"Predicted: the cost model's times for {report['target']}, not measured.")
    parts += [_bench_kernels(row) for row in report["rows"] if row.get("kernels")]
    return "\n".join(parts)


def _bench_kernels(row: dict[str, Any]) -> str:
    columns = ("kernel", "measured>", "predicted>", "roofline>", "traffic>", "multiply-adds>", "layers")
    rows = [
        (
            kernel["kernel"],
            microseconds(kernel["measured_us"]),
            microseconds(kernel["predicted_us"]),
            microseconds(kernel["roofline_us"]),
            size(kernel["traffic_bytes"]),
            number(kernel["macs"]),
            ", ".join(kernel["origins"]),
        )
        for kernel in row["kernels"]
    ]
    return table(columns, rows, f"--opt {row['opt']}, batch {row['batch']}, {row['dtype']}")


def microseconds(value: float | None) -> str:
    """A time in the unit that suits it; a dash where there is none."""
    if value is None:
        return "-"
    for unit, least in (("s", 1e6), ("ms", 1e4)):
        if value >= least:
            return f"{value / (1e6 if unit == 's' else 1e3):.3g} {unit}"
    return f"{value:.1f} us" if value >= 1 else f"{value:.2g} us"


def share(value: float | None) -> str:
    """A fraction in per cent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f} %"


def times(value: float | None) -> str:
    """A factor; a dash where there is none."""
    return "-" if value is None else f"{value:.2f}x"


def verified(report: dict[str, Any]) -> str:
    """What `convc verify` says: one row an output."""
    rows = [
        (
            output["name"],
            "ok" if output["ok"] else "FAILED",
            f"{output['max_abs']:.3g}",
            "none" if math.isnan(output["bound"]) else f"{output['bound']:.3g}",
            f"{output['rel_l2']:.3g}",
            f"{output['smallest_tolerance']:.3g}",
        )
        for output in report["outputs"]
    ]
    columns = ("output", "", "max error>", "bound>", "relative L2>", "smallest tolerance>")
    verdict = "agrees with" if all(output["ok"] for output in report["outputs"]) else "DEPARTS from"
    reasons = [f"{output['name']}: {output['reason']}" for output in report["outputs"] if output["reason"]]
    shown = f"{report['device']}, {report['dtype']}: {verdict} ONNX Runtime"
    shown = "\n".join([table(columns, rows), *reasons, shown])
    if "kernels" in report:
        from .render_edges import compared_kernels

        shown += f"\n{compared_kernels(report['kernels'])}"
    return shown


def listed_kernels(kernels: Sequence[dict[str, Any]]) -> str:
    """One row a kernel and target."""
    rows = []
    for kernel in kernels:
        for target, figures in (kernel["targets"] or {"interpreter": {}}).items():
            rows.append(
                (
                    kernel["name"],
                    kernel["launches"],
                    target,
                    *(figures.get(key, "-") for key in FIGURES),
                    ", ".join(kernel["origins"]),
                    kernel["equation"],
                )
            )
    columns = ("kernel", "runs>", "target", "regs>", "shared>", "spill>", "tensor>", "layers", "computes")
    return table(columns, rows)


FIGURES = ("registers", "shared_bytes", "spill_bytes", "tensor_core_instructions")


def summarised(report: dict[str, Any]) -> str:
    """What `convc summary` says: one row a layer, with what works on its output in place."""
    rows: list[list[Any]] = []
    lines: dict[str, list[Any]] = {}
    for layer in report["layers"]:
        row = lines.get(layer["in_place_of"])
        if row is None or layer["output_shape"] != row[-1]["output_shape"]:
            row = [layer["name"], [], 0, layer]
            rows.append(row)
        row[1].append(layer["op"])
        row[2] += layer["params"]
        lines[layer["name"]] = row
    columns = (
        "layer",
        "operators",
        "output",
        "parameters>",
        "multiply-adds>",
        "activations>",
        "field>",
        "stride>",
        "does not fit",
    )
    shown = table(columns, (_summary_row(name, ops, params, first) for name, ops, params, first in rows))
    total = report["total"]
    figures = f"{number(total['params'])} parameters, {number(total['macs'])} multiply-adds"
    return f"{printable(report['model'])}\n{shown}\ntotal: {figures}, activations {size(total['activation_bytes'])}"


def _summary_row(name: str, ops: Sequence[str], params: int, layer: dict[str, Any]) -> tuple[object, ...]:
    return (
        name,
        " + ".join("BN" if op == "BatchNormalization" else op for op in ops),
        "x".join(str(dim) for dim in layer["output_shape"]),
        f"{params:,}" if params else "-",
        f"{layer['macs']:,}" if layer["macs"] else "-",
        size(layer["activation_bytes"]) if layer["activation_bytes"] else "-",
        _per_axis(layer["receptive_fields"]),
        _per_axis(layer["jumps"]),
        "" if layer["fits"] else f"leaves {_unread(layer['unread'])}",
    )


def _per_axis(values: Sequence[float]) -> str:
    """One number where all are equal; a dash where there are none."""
    return "x".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values)) or "-"


def _unread(counts: Sequence[int]) -> str:
    """What windows leave: of an image rows and columns, or padding where that is all."""
    names = ("row", "column") if len(counts) == 2 else ("plane", "row", "column")[-len(counts) :]
    left = [(count, name) for count, name in zip(counts, names, strict=True) if count]
    return ", ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in left) or "padding"


def listed_networks(networks: Sequence[dict[str, Any]]) -> str:
    """One row a network of the zoo."""
    rows = [(n["name"], n["input_shape"], number(n["params"]), number(n["macs"])) for n in networks]
    return table(("network", "input", "parameters>", "multiply-adds>"), rows)


def machine(report: dict[str, Any]) -> str:
    """What `convc doctor` says."""
    cache, works = report["cache"], report["works"]
    gpus = [f"{gpu['name']} ({gpu['architecture']}, {gpu['multiprocessors']} SMs)" for gpu in report["gpus"]]
    rows: list[tuple[str, str]] = [
        ("convc", report["convc"]),
        ("Python", f"{report['python']} on {report['platform']}, {report['processors']} processors"),
        *((name, found or "not installed") for name, found in report["packages"].items()),
        *((name, found) for name, found in report["ptxas"].items()),
        ("CUDA driver", report["driver"] or "none"),
        ("GPU", "; ".join(gpus) or "none"),
        ("kernel cache", _cache_text(cache)),
        *(("measured tiles", _tables_text(table)) for table in report["tuned"]),
        ("compiles for", ", ".join(works["compile"]) or "nothing"),
        ("runs on", ", ".join(works["run"])),
        ("verifies", "yes" if works["verify"] else "no"),
        *(("missing", what) for what in works["missing"]),
    ]
    return "\n".join(f"{name:16} {printable(text)}" for name, text in rows)


def _tables_text(table: dict[str, Any]) -> str:
    state = "" if table["used"] else ", of another version of Triton or convc: not used"
    return f"{table['target']} on {table['gpu']}: {table['problems']} problems{state}"


def _cache_text(cache: dict[str, Any]) -> str:
    state = "writable" if cache["writable"] else "NOT writable: every kernel is compiled anew"
    return f"{cache['path']}: {cache['entries']} kernels, {size(cache['bytes'])}, {state}"
