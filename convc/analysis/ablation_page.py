"""The page and the text of an ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..program import Scheduled
from ..runtime.artifact import write_file
from . import charts
from .ablate import Ablation
from .charts import Chart, Point
from .picture import Box, Picture, depict, environment
from .render import printable, size, table
from .stages import planned_steps


def require_charts() -> None:
    """Raises `UsageError` now where charts could not be drawn later."""
    charts.matplotlib()


def drawn(found: Ablation) -> tuple[Picture, list[Chart]]:
    """The fused graph and the charts. Raises `UsageError` without matplotlib."""
    plan = found.plan
    picture = depict(plan.graph, f"{plan.graph.name}: the kernels with all rules on", planned_steps(plan))
    return picture, charts.draw(found, points(found, picture))


def points(found: Ablation, picture: Picture) -> list[Point]:
    """Every launch of the plan with all rules, each leading to the box of its first region."""
    boxes: dict[str, Box] = {step.kernel: box for box in picture.boxes for step in box.steps}
    by_layers = {(step.kernel, box.layers): box for box in picture.boxes for step in box.steps}
    placed = []
    for launch in found.plan.programs[0].launches:
        layers = found.plan.origins(launch)
        box = by_layers.get((launch.kernel.name, _first_layers(found, launch)), boxes[launch.kernel.name])
        placed.append(charts.point(launch, layers, box.family, f"#{box.id}"))
    return placed


def _first_layers(found: Ablation, launch: Scheduled) -> tuple[str, ...]:
    """The user's layers in the first region of a launch, as its box shows them."""
    nodes = (found.plan.graph.node(id) for id in launch.regions[0].nodes)
    return tuple(printable(name) for name in dict.fromkeys(name for node in nodes for name in node.origins))


def page(found: Ablation, picture: Picture, drawings: Sequence[Chart]) -> str:
    """One self-contained HTML page, without scripts."""
    template = environment().get_template("ablation.html.j2")
    svg = {chart.name: chart.svg for chart in drawings}
    return template.render(found=found, picture=picture, charts=svg, size=size)


def write(found: Ablation, output: str | None, png: str | None) -> dict[str, Any]:
    """Writes the page and the pictures that were asked for; what was written, as JSON."""
    if output is None and png is None:
        return {}
    picture, drawings = drawn(found)
    written: dict[str, Any] = {}
    if output is not None:
        text = page(found, picture, drawings)
        write_file(Path(output), [text.encode("utf-8", "backslashreplace")])
        written["file"] = output
    if png is not None:
        written["charts"] = charts.write_png(drawings, png)
    return written


def text(found: Ablation, written: Mapping[str, Any]) -> str:
    """What `convc ablate` prints: the levels, and what each rule is worth."""
    head = f"{printable(found.model)}: {found.dtype}, batch {found.batch}, {found.target.name} ({found.target.device})"
    idle = [worth.rule for worth in found.worth if not worth.matters]
    parts = [head, _levels(found), _worths(found)]
    if idle:
        parts.append(f"no effect on this network: {', '.join(idle)}")
    if found.measured:
        parts.append("predicted times are the cost model's; measured ones are medians on the GPU")
    else:
        parts.append("times are predicted by the cost model; nothing was measured")
    parts += [written["file"]] if "file" in written else []
    return "\n".join([*parts, *written.get("charts", ())])


def _levels(found: Ablation) -> str:
    columns = ["configuration", "kernels>", "launches>", "traffic>", "arena>", "predicted>"]
    columns += ["measured>"] * found.measured + ["max error>"] * (found.device is not None)
    rows = []
    for name in ("none", "fold", "all", "nothing"):
        row = found.by_name[name]
        cells = [name, row.kernels, row.launches, size(row.traffic_bytes), size(row.arena_bytes)]
        cells += [f"{row.predicted_us:.1f} us"]
        cells += [_optional(row.measured_us, "{:.1f} us")] * found.measured
        cells += [_optional(row.max_error, "{:.3g}")] * (found.device is not None)
        rows.append(cells)
    return table(columns, rows)


def _worths(found: Ablation) -> str:
    """What leaving a rule out costs, beside what the rule saves alone."""
    columns = ["rule", "launches>", "traffic>", "arena>", "predicted>"]
    columns += ["measured>"] * found.measured
    columns += ["alone: launches>", "traffic>", "arena>", "predicted>"]
    columns += ["error without>"] * (found.device is not None)
    rows = []
    for worth in found.worth:
        if not worth.matters:
            continue
        cells: list[object] = [worth.rule, worth.launches, signed(worth.traffic_bytes), signed(worth.arena_bytes)]
        cells += [f"{worth.predicted_us:.1f} us"]
        cells += [_optional(worth.measured_us, "{:.1f} us")] * found.measured
        cells += [worth.alone_launches, signed(worth.alone_traffic_bytes), signed(worth.alone_arena_bytes)]
        cells += [f"{worth.alone_predicted_us:.1f} us"]
        cells += [_optional(found.by_name[f"without {worth.rule}"].max_error, "{:.3g}")] * (found.device is not None)
        rows.append(cells)
    return table(columns, rows, "what each rule saves: beside all others, and alone")


def signed(nbytes: float) -> str:
    """Bytes that are saved; negative where they are added."""
    return f"-{size(-nbytes)}" if nbytes < 0 else size(nbytes)


def _optional(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
