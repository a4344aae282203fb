"""Plots of the suite's results, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .journal import Row
    from .report import Cell

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")


def draw(cells: Sequence[Cell], rows: Sequence[Row], folder: Path) -> Iterator[Path]:
    """Draws what there are results for. Nothing without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    chosen = [cell for cell in cells if cell.dtype == "fp16"]
    if any(cell.over_peer() for cell in chosen):
        yield _saved(lambda axes: _ratios(axes, chosen), folder / "speed.png")
    for row in rows:
        if row["step"].startswith("kernels:") and row.get("launches"):
            yield _saved(lambda axes, row=row: _roofline(axes, row), folder / f"kernels-{row['key']}.png")  # type: ignore[misc]


def _saved(plot: Callable[[Any], None], file: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    plot(figure.add_subplot())
    figure.savefig(file, dpi=110)
    return file


def _ratios(axes: Any, cells: Sequence[Cell]) -> None:
    """Bars: how many times faster convc is than the best peer, by network and batch size."""
    networks = list(dict.fromkeys(cell.network for cell in cells))
    batches = sorted({cell.batch for cell in cells})
    width = 0.8 / len(batches)
    for place, batch in enumerate(batches):
        bars = {networks.index(cell.network): cell.over_peer() or 0.0 for cell in cells if cell.batch == batch}
        at = [index + (place - (len(batches) - 1) / 2) * width for index in bars]
        axes.bar(at, list(bars.values()), width, label=f"batch {batch}", color=COLOURS[place % len(COLOURS)])
    axes.axhline(1.0, color="black", linewidth=1)
    axes.set_xticks(range(len(networks)), networks, rotation=20)
    axes.set_ylabel("time of the best peer over convc's")
    axes.legend()


def _roofline(axes: Any, row: Row) -> None:
    """Points: measured time of every launch over the least that the machine allows."""
    launches = [launch for launch in row["launches"] if launch["measured_us"] > 0 and launch["roofline_us"] > 0]
    least, measured = ([launch[name] for launch in launches] for name in ("roofline_us", "measured_us"))
    axes.loglog(least, measured, "o", color=COLOURS[0], markersize=4)
    ends = [min(least), max(measured)]
    axes.loglog(ends, ends, color="black", linewidth=1)
    axes.set_xlabel("least time by the roofline, µs")
    axes.set_ylabel("measured, µs")
    axes.set_title(row["key"])
