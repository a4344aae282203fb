"""Charts of an ablation, drawn with matplotlib (the extra ``report``): as SVG with links and tooltips, or as PNG."""

from __future__ import annotations

import io
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from .. import errors
from ..program import Scheduled
from ..targets import Target
from .ablate import Ablation, Row, Worth
from .figures import operations, peak_flops
from .render import printable

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
LEVELS = ("none", "fold", "all")
SAVED, COST, ALONE, PLAIN, MEASURED = "#60a5fa", "#f87171", "#cbd5e1", "#94a3b8", "#111827"
INK = {
    "convolution": "#2563eb",
    "matrix product": "#0d9488",
    "pooling": "#d97706",
    "reduction": "#dc2626",
    "elementwise": "#7c3aed",
    "movement": "#57534e",
}
MOST_BARS = 14
"""Rules in one chart; those that change least are left to the table."""
NAME = 18
"""Most characters of a model's name in a title."""
WIDTH, HEIGHT = 7.4, 4.5
"""Inches, the height being the least; a page shows two charts side by side on a laptop."""
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "convc",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.edgecolor": "#94a3b8",
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.dpi": 72,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Point:
    """A launch of the fused plan: operations, bytes, predicted microseconds, and where a click on it leads."""

    kernel: str
    layers: tuple[str, ...]
    family: str
    operations: int
    nbytes: int
    predicted_us: float
    link: str = ""

    @property
    def intensity(self) -> float:
        return self.operations / self.nbytes

    @property
    def rate(self) -> float:
        """Operations per second, predicted."""
        return self.operations / (self.predicted_us * 1e-6)

    @property
    def tooltip(self) -> str:
        shown = ", ".join(self.layers[:8]) + (" …" if len(self.layers) > 8 else "")
        figures = f"{self.predicted_us:.2f} µs predicted, {self.nbytes / 1e6:.3g} MB, {self.operations / 1e6:.4g} Mop"
        return printable(f"{shown or self.kernel} — {self.kernel} — {figures}")


def point(launch: Scheduled, layers: tuple[str, ...], family: str, link: str = "") -> Point:
    """A launch as a point; bytes are those of activations and weights."""
    moved = launch.traffic.activations + launch.traffic.weights
    name, time = launch.kernel.name, launch.predicted_us
    return Point(name, layers, family, sum(map(operations, launch.problems)), moved, time, link)


@dataclass(frozen=True)
class Chart:
    """A drawn chart: its file name without suffix, its SVG for a page, and its PNG."""

    name: str
    svg: str
    png: bytes


def draw(found: Ablation, points: Sequence[Point]) -> list[Chart]:
    """All charts of an ablation: bytes, launches, predicted time, roofline.

    Raises:
        UsageError: matplotlib is not installed.
    """
    library = matplotlib()
    painters: dict[str, Callable[[Any], Mapping[str, Point] | None]] = {
        "bytes": lambda figure: _bytes(figure, found),
        "launches": lambda figure: _launches(figure, found),
        "time": lambda figure: _time(figure, found),
        "roofline": lambda figure: _roofline(figure, found.target, found.dtype, points),
    }
    with library.rc_context(STYLE):
        return [_chart(library, name, paint, found) for name, paint in painters.items()]


def matplotlib() -> ModuleType:
    """The library; figures of its own need no display. Raises `UsageError` where it is not installed."""
    try:
        import matplotlib as library
        import matplotlib.figure
    except ImportError:
        raise errors.charts_missing() from None
    return library


def _chart(
    library: ModuleType, name: str, paint: Callable[[Any], Mapping[str, Point] | None], found: Ablation
) -> Chart:
    figure = library.figure.Figure(figsize=(WIDTH, _height(found)), layout="constrained")
    linked = paint(figure) or {}
    vector, pixels = io.StringIO(), io.BytesIO()
    figure.savefig(vector, format="svg", metadata={"Date": None})
    figure.savefig(pixels, format="png", dpi=160, metadata={"Software": None})
    return Chart(name, _for_page(vector.getvalue(), name, linked), pixels.getvalue())


def _height(found: Ablation) -> float:
    return max(HEIGHT, 1.5 + 0.27 * (len(LEVELS) + len(_shown(found))))


def _shown(found: Ablation) -> list[Worth]:
    """The rules that change something, the most valuable first."""
    return [worth for worth in found.worth if worth.matters][:MOST_BARS]


def _about(found: Ablation) -> str:
    name = printable(found.model.rpartition("/")[2].removeprefix("zoo:"))
    shown = name if len(name) <= NAME else f"…{name[1 - NAME :]}"
    return f"{shown}, {found.dtype}, batch {found.batch}"


# -- bars -------------------------------------------------------------------------------------------------------------
def _bytes(figure: Any, found: Ablation) -> None:
    """Bytes that each rule saves: beside all others, and alone."""
    shown = sorted(_shown(found), key=lambda worth: (worth.traffic_bytes, worth.alone_traffic_bytes))
    axes = _axes(figure, f"Bytes that each rule saves — {_about(found)}", "MB of activations and weights per run")
    places = range(len(shown))
    beside, alone = ([w.traffic_bytes / 1e6 for w in shown], [w.alone_traffic_bytes / 1e6 for w in shown])
    axes.barh([y + 0.2 for y in places], beside, 0.38, color=_signed(beside), label="when all other rules are on")
    axes.barh([y - 0.2 for y in places], alone, 0.38, color=ALONE, label="when no other rule is on")
    axes.set_yticks(list(places), [worth.rule for worth in shown])
    axes.axvline(0, color="#475569", linewidth=0.8)
    for y, value in zip(places, beside, strict=True):
        _label(axes, value, y + 0.2, f"{value:.3g}")
    for y, value in zip(places, alone, strict=True):
        _label(axes, value, y - 0.2, f"{value:.3g}")
    _legend(axes)


def _launches(figure: Any, found: Ablation) -> None:
    """Launches in each configuration."""
    axes = _axes(figure, f"Kernel launches per run — {_about(found)}", "launches")
    rows = _rows(found, lambda row: row.launches)
    _row_bars(axes, rows, [row.launches for row in rows], lambda value: f"{value:.0f}")


def _time(figure: Any, found: Ablation) -> None:
    """Predicted time in each configuration; measured where it was."""
    kind = "PREDICTED and measured" if found.measured else "PREDICTED"
    title = f"{kind} time on {found.target.device} — {_about(found)}"
    note = "µs (bars: by the cost model)" if found.measured else "µs, by the cost model (nothing here was measured)"
    axes = _axes(figure, title, note)
    rows = _rows(found, lambda row: row.predicted_us)
    _row_bars(axes, rows, [row.predicted_us for row in rows], lambda value: f"{value:.1f}", inside=found.measured)
    measured = [(row.measured_us, y) for y, row in enumerate(rows) if row.measured_us is not None]
    if measured:
        places = list(zip(*measured, strict=True))
        axes.scatter(*places, marker="D", s=26, color=MEASURED, zorder=3, label="measured on the GPU")
        for value, y in measured:
            _label(axes, value, y, f"{value:.1f}", offset=8)
        _legend(axes)


def _rows(found: Ablation, value: Callable[[Row], float]) -> list[Row]:
    """From the bottom: what happens without each rule that matters, the worst last; then the levels."""
    without = [found.by_name[f"without {worth.rule}"] for worth in _shown(found)]
    without.sort(key=value)
    return [*without, *(found.by_name[name] for name in reversed(LEVELS))]


def _row_bars(
    axes: Any, rows: Sequence[Row], values: Sequence[float], text: Callable[[float], str], inside: bool = False
) -> None:
    """A bar a row, its value behind it; or inside it, where something else stands behind."""
    colours = [SAVED if row.configuration == "all" else PLAIN if row.configuration in LEVELS else ALONE for row in rows]
    axes.barh(range(len(rows)), values, 0.7, color=colours)
    names = {"none": "none (--opt none)", "fold": "fold (--opt fold)", "all": "all rules"}
    axes.set_yticks(range(len(rows)), [names.get(row.configuration, row.configuration) for row in rows])
    for y, value in enumerate(values):
        _label(axes, 0 if inside else value, y, text(value))
    whole = values[[row.configuration for row in rows].index("all")]
    axes.axvline(whole, color=SAVED, linewidth=0.8, linestyle=":")


def _axes(figure: Any, title: str, unit: str) -> Any:
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    axes.set_xlabel(unit)
    axes.grid(axis="x", color="#e2e8f0", linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.12, y=0.02)
    return axes


def _signed(values: Sequence[float]) -> list[str]:
    return [SAVED if value >= 0 else COST for value in values]


def _label(axes: Any, value: float, y: float, text: str, offset: int = 4) -> None:
    side, sign = ("left", 1) if value >= 0 else ("right", -1)
    place = {"xytext": (sign * offset, 0), "textcoords": "offset points", "va": "center", "ha": side}
    axes.annotate(text, (value, y), fontsize=8.5, color="#1e293b", **place)


def _legend(axes: Any) -> None:
    axes.figure.legend(loc="outside lower center", ncols=6, fontsize=9, handletextpad=0.4)


# -- the roofline -----------------------------------------------------------------------------------------------------
def _roofline(figure: Any, target: Target, dtype: str, points: Sequence[Point]) -> dict[str, Point]:
    """Every launch that computes something; gives the drawn elements' ids."""
    axes = figure.add_subplot()
    title = f"Roofline of {target.device}, {dtype}: every kernel at its PREDICTED time"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
    axes.set(xscale="log", yscale="log")
    shown = [point for point in points if point.operations and point.nbytes and point.predicted_us]
    peak, bandwidth = peak_flops(target, dtype), target.dram_bytes_per_s
    low = 10 ** math.floor(math.log10(min([point.intensity for point in shown], default=1.0)))
    high = 10 ** math.ceil(math.log10(max([point.intensity for point in shown] + [4 * peak / bandwidth])))
    axes.plot([low, peak / bandwidth, high], [low * bandwidth, peak, peak], color="#334155", linewidth=1.6)
    least = min([point.rate for point in shown], default=low * bandwidth)
    axes.set_xlim(low, high)
    axes.set_ylim(10 ** math.floor(math.log10(least)), peak * 4)
    _roof_labels(axes, low, high, peak, bandwidth)
    linked = _scatter(axes, shown)
    axes.set_xlabel("operations per byte of activations and weights")
    axes.set_ylabel("operations per second")
    axes.grid(which="major", color="#e2e8f0", linewidth=0.7)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_major_formatter(lambda value, _: _prefixed(value))
    _legend(axes)
    _note(axes, len(points) - len(shown))
    return linked


def _roof_labels(axes: Any, low: float, high: float, peak: float, bandwidth: float) -> None:
    place = {"textcoords": "offset points", "fontsize": 9, "color": "#334155"}
    top = f"{peak / 1e12:.0f} T operations/s"
    axes.annotate(top, (high, peak), xytext=(-6, 5), ha="right", **place)
    middle = math.sqrt(max(low, axes.get_ylim()[0] / bandwidth) * peak / bandwidth)
    text = f"DRAM {bandwidth / 1e12:.3g} TB/s"
    axes.annotate(text, (middle, middle * bandwidth), xytext=(-10, 4), ha="right", **place)


def _prefixed(value: float) -> str:
    """A power of ten with its unit prefix."""
    step = min(max(math.floor(math.log10(value) / 3 + 1e-9), 0), 5)
    return f"{value / 1000**step:g} {' kMGTP'[step]}".strip()


def _scatter(axes: Any, shown: Sequence[Point]) -> dict[str, Point]:
    """The points, large where much time goes; one element each, so that each has its link and tooltip."""
    longest = max((point.predicted_us for point in shown), default=1.0)
    labelled, linked = set(), {}
    for index, point in enumerate(sorted(shown, key=lambda point: -point.predicted_us)):
        first = point.family not in labelled
        labelled.add(point.family)
        drawn = axes.scatter(
            [point.intensity],
            [point.rate],
            s=16 + 110 * point.predicted_us / longest,
            color=INK.get(point.family, "#475569"),
            alpha=0.65,
            edgecolors="white",
            linewidths=0.6,
            zorder=3,
        )
        if first:
            axes.scatter([], [], s=40, color=INK.get(point.family, "#475569"), label=point.family)
        drawn.set_gid(f"kernel{index}")
        linked[f"kernel{index}"] = point
    return linked


def _note(axes: Any, copies: int) -> None:
    text = "area: share of the predicted time"
    if copies:
        text += f"\nnot shown, as they only move data: {copies} launches"
    axes.text(0.985, 0.03, text, transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color="#64748b")


# -- SVG for a page ---------------------------------------------------------------------------------------------------
def _for_page(text: str, name: str, linked: Mapping[str, Point]) -> str:
    """SVG to stand in a page with others: its ids made its own, its points with tooltips and links."""
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(text[text.index("<svg") :])
    root.set("role", "img")
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    for parent in list(root.iter()):
        for place, child in enumerate(list(parent)):
            if (found := linked.get(child.get("id", ""))) is not None:
                parent[place] = _wrapped(child, found)
    _drop_metadata(root)
    written = ET.tostring(root, encoding="unicode")
    written = re.sub(r'(?<![\w:-])id="', f'id="{name}-', written)
    written = re.sub(r'(xlink:href=")#(?!box)', rf"\1#{name}-", written)
    return re.sub(r"url\(#", f"url(#{name}-", written)


def _drop_metadata(root: ET.Element) -> None:
    for child in list(root):
        if child.tag.endswith("metadata"):
            root.remove(child)


def _wrapped(child: ET.Element, found: Point) -> ET.Element:
    """An element with a title, inside a link where it leads somewhere."""
    ET.SubElement(child, f"{{{SVG}}}title").text = found.tooltip
    if not found.link:
        return child
    link = ET.Element(f"{{{SVG}}}a", {f"{{{XLINK}}}href": found.link})
    link.append(child)
    return link


def write_png(charts: Sequence[Chart], folder: str) -> list[str]:
    """Writes each chart as a PNG file into a folder, which is made where it is missing. Raises `OutputError`."""
    from ..runtime.artifact import write_file

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise errors.not_written(folder, getattr(error, "strerror", None) or error) from error
    paths = [Path(folder) / f"{chart.name}.png" for chart in charts]
    for path, chart in zip(paths, charts, strict=True):
        write_file(path, [chart.png])
    return [str(path) for path in paths]
