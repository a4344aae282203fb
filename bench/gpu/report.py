"""`make gpu-report`: tables and plots of what the GPU machine found, the README's section, the cost model's records.

Without results the README says that nothing is measured; nothing here ever predicts a time.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.markdown import table, write_part

from .cases import NETWORKS, TARGET, VARIANTS
from .journal import Row, read_rows

if TYPE_CHECKING:
    from bench import cost_model

ROOT = Path(__file__).resolve().parents[2]
PART = "gpu"
"""Of the README."""
NOT_MEASURED = (
    "Measured on a GPU: **not measured yet**. `make gpu` does it where there is one ([GPU suite](docs/gpu.md))."
)
TABLES, SUMMARY = "tables.md", "summary.json"
SHOWN = ("warm", "cold")


@dataclass(frozen=True)
class Cell:
    """A network at a batch size in a numeric mode: microseconds by contestant, those that are right alone."""

    network: str
    batch: int
    dtype: str
    contestants: dict[str, dict[str, Any]]

    @staticmethod
    def of(row: Row) -> Cell:
        timed = {name: found for name, found in row["contestants"].items() if "warm" in found}
        return Cell(row["network"], row["batch"], row["dtype"], timed)

    @property
    def order(self) -> tuple[str, int, int]:
        place = NETWORKS.index(self.network) if self.network in NETWORKS else len(NETWORKS)
        return self.dtype if self.dtype != "fp16" else "", place, self.batch

    def us(self, name: str, how: str = "warm") -> float | None:
        found = self.contestants.get(name)
        return found[how]["us"] if found else None

    @property
    def peers(self) -> dict[str, dict[str, Any]]:
        return {name: found for name, found in self.contestants.items() if found.get("kind") == "peer"}

    def best_peer(self, how: str = "warm") -> tuple[str, float] | None:
        """The fastest of the peers."""
        times = {name: found[how]["us"] for name, found in self.peers.items()}
        return min(times.items(), key=lambda pair: pair[1]) if times else None

    def over_peer(self, how: str = "warm") -> float | None:
        """How many times faster convc is than the fastest peer."""
        peer, own = self.best_peer(how), self.us("convc fused", how)
        return peer[1] / own if peer and own else None

    def over_unfused(self, how: str = "warm") -> float | None:
        fused, unfused = self.us("convc fused", how), self.us("convc unfused", how)
        return unfused / fused if fused and unfused else None

    def images_per_s(self) -> float | None:
        own = self.us("convc fused")
        return 1e6 * self.batch / own if own else None

    def roofline(self) -> float | None:
        own = self.contestants.get("convc fused")
        return own["roofline_us"] / own["warm"]["us"] if own else None


def cells_of(rows: Iterable[Row]) -> list[Cell]:
    """The cells; of several measurements of one that against the most peers, and of such the last."""
    found: dict[str, Cell] = {}
    for row in rows:
        if row["step"].startswith("speed:") and row.get("contestants"):
            cell, known = Cell.of(row), found.get(row["key"])
            if known is None or len(cell.peers) >= len(known.peers):
                found[row["key"]] = cell
    return sorted(found.values(), key=lambda cell: cell.order)


def geomean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value]
    return math.exp(statistics.fmean(map(math.log, known))) if known else None


# -- features ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Comparison:
    """A variant against `fused` in one cell: how many times faster `fused` is (warm, cold)."""

    cell: Cell
    variant: str
    warm: float
    cold: float


def comparisons(cells: Sequence[Cell]) -> Iterator[Comparison]:
    """Every variant that was timed beside `fused`. One that launches the same kernels was not run twice."""
    for cell in cells:
        for variant in VARIANTS:
            ratios = [(cell.us(f"convc {variant}", how), cell.us("convc fused", how)) for how in SHOWN]
            if variant != "fused" and all(a and b for a, b in ratios):
                warm, cold = (a / b for a, b in ratios if a and b)
                yield Comparison(cell, variant, warm, cold)


# -- tables -----------------------------------------------------------------------------------------------------------
def number(value: float | None, form: str = ".2f", unit: str = "") -> str:
    return "–" if value is None else f"{value:{form}}{unit}"


def speed_table(cells: Sequence[Cell]) -> list[str]:
    head = (
        "network, batch",
        "convc, µs>",
        "cold>",
        "images/s>",
        "best peer, µs>",
        "cold>",
        "times faster>",
        "cold>",
        "fused over unfused>",
        "of the roofline>",
    )
    return table(head, [_speed_row(cell) for cell in cells])


def _speed_row(cell: Cell) -> list[str]:
    name = f"{cell.network}, {cell.batch}" + (f", {cell.dtype}" if cell.dtype != "fp16" else "")
    peers = [cell.best_peer(how) for how in SHOWN]
    return [
        name,
        *(number(cell.us("convc fused", how), ",.1f") for how in SHOWN),
        number(cell.images_per_s(), ",.0f"),
        *(f"{peer[1]:,.1f} ({peer[0]})" if peer else "–" for peer in peers),
        *(number(cell.over_peer(how)) for how in SHOWN),
        number(cell.over_unfused()),
        number(cell.roofline(), ".0%"),
    ]


def means_table(cells: Sequence[Cell]) -> list[str]:
    """Geometric means over networks in fp16, by batch size."""
    rows = []
    for batch in sorted({cell.batch for cell in cells if cell.dtype == "fp16"}):
        chosen = [cell for cell in cells if cell.batch == batch and cell.dtype == "fp16"]
        means = [geomean(cell.over_peer(how) for cell in chosen) for how in SHOWN]
        fused = geomean(cell.over_unfused() for cell in chosen)
        rows.append([str(batch), str(len(chosen)), *map(number, means), number(fused)])
    return table(("batch", "networks>", "times faster than the best peer>", "cold>", "fused over unfused>"), rows)


def features_table(found: Sequence[Comparison]) -> list[str]:
    """What each variant costs or gains against `fused`."""
    rows = []
    for variant in dict.fromkeys(each.variant for each in found):
        ratios = [each.warm for each in found if each.variant == variant]
        cold = [each.cold for each in found if each.variant == variant]
        better = sum(ratio < 1 for ratio in ratios)
        rows.append([variant, str(len(ratios)), f"{better}", number(geomean(ratios)), number(geomean(cold))])
    return table(("variant", "cells>", "faster than fused in>", "its time over fused's>", "cold>"), rows)


def facts_table(rows: Sequence[Row]) -> list[str]:
    """What the machine can do."""
    shown = []
    for row in rows:
        if row["step"] == "facts":
            for field, unit in (("tb_per_s", "TB/s"), ("tflop_per_s", "TFLOP/s"), ("us_per_kernel", "µs a kernel")):
                if field in row:
                    shown.append([row["key"], f"{row[field]:.3g} {unit}"])
    return table(("fact", "measured>"), shown)


def checks_table(rows: Sequence[Row]) -> list[str]:
    """How many checks hold, by step, and which do not."""
    by_step: dict[str, dict[str, bool]] = {}
    for row in rows:
        by_step.setdefault(row["step"], {}).update(_checks(row))
    shown = []
    for step, checks in by_step.items():
        if checks:
            bad = [key for key, holds in checks.items() if not holds]
            shown.append([step, f"{len(checks) - len(bad)} of {len(checks)}", ", ".join(bad[:6]) or "–"])
    return table(("step", "hold", "do not hold"), shown)


def _checks(row: Row) -> dict[str, bool]:
    """What a row says to hold or not: a check, or every contestant of a cell, those that could not be prepared too."""
    if "contestants" in row:
        told = {f"{row['key']} {name}": bool(found.get("ok")) for name, found in row["contestants"].items()}
        return told | {f"{row['key']} {name}": False for name in row.get("refused", ())}
    return {row["key"]: bool(row.get("ok"))} if "ok" in row or "error" in row else {}


def machine_line(rows: Sequence[Row]) -> str:
    """Where it was measured."""
    for row in rows:
        if row["step"] == "facts" and row["key"] == "versions" and "packages" in row:
            smi, packages = row.get("nvidia_smi") or {}, row["packages"]
            gpu = f"{smi.get('name', 'a GPU')}, driver {smi.get('driver_version', 'unknown')}"
            return f"{gpu}; torch {packages.get('torch')}, Triton {packages.get('triton')} for the peers."
    return "The machine's facts were not recorded."


# -- what is written --------------------------------------------------------------------------------------------------
def full_report(rows: Sequence[Row]) -> list[str]:
    """Everything in Markdown."""
    cells = cells_of(rows)
    parts = [
        ("Speed", speed_table(cells)),
        ("Geometric means", means_table(cells)),
        ("Variants", features_table(list(comparisons(cells)))),
        ("Checks", checks_table(rows)),
        ("Facts", facts_table(rows)),
    ]
    lines = ["# Measured on a GPU", "", machine_line(rows)]
    for title, body in parts:
        lines += ["", f"## {title}", "", *(body if len(body) > 2 else ["Not measured."])]
    return lines


def readme_section(rows: Sequence[Row]) -> str:
    """What stands between the marks of the README."""
    cells = cells_of(rows)
    if not cells:
        return NOT_MEASURED
    explained = f"""\
Measured with `make gpu`: {machine_line(rows)} Microseconds a run in fp16, each network as a CUDA graph, all contestants
interleaved; *cold*: behind a write of 256 MB. *Best peer*: the fastest of channels-last eager PyTorch, the same with
folded batch normalisation, fused calls of cuDNN, and Inductor. [How, and everything else](docs/gpu.md)"""
    return "\n".join([explained, "", *speed_table(cells), "", *means_table(cells)])


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What won per shape: the evidence to switch defaults by."""
    cells = cells_of(rows)
    return {
        "cells": [
            {
                "network": cell.network,
                "batch": cell.batch,
                "dtype": cell.dtype,
                "us": {name: {how: found[how]["us"] for how in SHOWN} for name, found in cell.contestants.items()},
                "times_faster_than_best_peer": cell.over_peer(),
            }
            for cell in cells
        ],
        "variants": [
            {
                "network": each.cell.network,
                "batch": each.cell.batch,
                "dtype": each.cell.dtype,
                "variant": each.variant,
                "time_over_fused": {"warm": each.warm, "cold": each.cold},
            }
            for each in comparisons(cells)
        ],
    }


def measurements(rows: Sequence[Row]) -> list[cost_model.Measurement]:
    """Times of single kernels, as the cost model's report reads them."""
    from bench import cost_model

    return [
        cost_model.Measurement.of({**launch, **{name: row[name] for name in ("network", "dtype", "batch")}})
        for row in rows
        if row["step"].startswith("kernels:")
        for launch in row.get("launches", ())
        if launch["tile"] is not None
    ]


def make_report(results: Path, readme: bool, root: Path = ROOT) -> int:
    """Prints the tables and writes them, the summary, plots and the cost model's records beside the results."""
    rows = read_rows([results]) if results.exists() else []
    if readme:
        write_part(root / "README.md", PART, readme_section(rows))
    if not rows:
        print(f"nothing in {results}: not measured yet")
        return 0
    text = "\n".join(full_report(rows)) + "\n"
    print(text)
    (results / TABLES).write_text(text, encoding="utf-8")
    (results / SUMMARY).write_text(json.dumps(summary(rows), indent=1) + "\n", encoding="utf-8")
    if measured := measurements(rows):
        from bench import cost_model

        device = next((row["name"] for row in rows if row["key"] == "device" and "name" in row), TARGET)
        print(cost_model.record(measured, TARGET, device, results.parent))
    from .plots import draw

    for file in draw(cells_of(rows), rows, results):
        print(file)
    return 0
