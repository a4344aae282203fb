"""Predicted times beside measured ones: how well the cost model orders kernels, and what its first choices cost.

    python -m bench.cost_model                                     what is recorded, against the model as it is now
    python -m bench.cost_model --measure resnet50 --tiles 4        on a GPU: time the best four tiles of every kernel

Measurements lie in bench/results/measured_TARGET.json: `target`, `device` and `rows`, each with `network` (of the zoo),
`dtype`, `batch`, `layers` (the user's layers in the launch), `tile` (rows, cols, depth, num_warps, num_stages, split_k
and col_blocks) and `measured_us`. Predictions are not recorded: they are made again, by the model as it is. A launch
that the plan does not have any more, or a tile that is no candidate any more, is counted and left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from convc.analysis import arrays
from convc.analysis.reports import profiled
from convc.api import plan, present_target
from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.ir.chained import ChainedContraction
from convc.ir.plan import Tile
from convc.ir.problem import Contraction
from convc.passes import Launch
from convc.passes.tiling import ranked
from convc.planner import assemble
from convc.program import Plan, TargetPlan
from convc.runtime.network import CompiledNetwork
from convc.targets import Target, target
from convc.targets.tuned import schedule_of

RESULTS = Path(__file__).resolve().parent / "results"
PLAIN = schedule_of(Tile(0, 0))
Schedule = tuple[tuple[str, int | str], ...]
"""The names and values that make a tile another kernel."""
Problem = tuple[str, str, int, tuple[str, ...]]


@dataclass(frozen=True)
class Measurement:
    """The time of one launch under one tile."""

    network: str
    dtype: str
    batch: int
    layers: tuple[str, ...]
    tile: Schedule
    measured_us: float

    @property
    def problem(self) -> Problem:
        return self.network, self.dtype, self.batch, self.layers

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"tile": dict(self.tile)}

    @staticmethod
    def of(row: Mapping[str, Any]) -> Measurement:
        tile = tuple((PLAIN | row["tile"]).items())
        where = (row["network"], row["dtype"], row["batch"], tuple(row["layers"]))
        return Measurement(*where, tile, row["measured_us"])


@dataclass(frozen=True)
class Pair:
    """A measurement and what the model predicts for it."""

    measurement: Measurement
    predicted_us: float

    @property
    def measured_us(self) -> float:
        return self.measurement.measured_us

    @property
    def shown(self) -> str:
        """The tile: its size, and what is not as usual."""
        tile = dict(self.measurement.tile)
        size = f"{tile['rows']}x{tile['cols']}x{tile['depth']}"
        rest = (f"{n}={v}" for n, v in tile.items() if n not in ("rows", "cols", "depth") and v != PLAIN[n])
        return " ".join([size, *rest])


def schedule(tile: Tile) -> Schedule:
    return tuple(schedule_of(tile).items())


# -- predictions ------------------------------------------------------------------------------------------------------
def predictions(made: Plan, program: TargetPlan) -> dict[tuple[tuple[str, ...], Schedule], float]:
    """Microseconds of every launch that is one kernel alone, by its layers, under each of its candidate tiles."""
    found: dict[tuple[tuple[str, ...], Schedule], float] = {}
    for launch in program.launches:
        if len(launch.steps) == 1:
            (step,) = launch.steps
            tiles = [step.tile, *candidates(step.work.problem, program.target)]
            for tile in tiles:
                found.setdefault((made.origins(launch), schedule(tile)), tile.predicted_us)
    return found


def candidates(problem: object, machine: Target) -> list[Tile]:
    """All tiles of a product, the one predicted to be fastest first; nothing for kernels that have one schedule."""
    return ranked(problem, machine) if isinstance(problem, (Contraction, ChainedContraction)) else []


def paired(rows: Sequence[Measurement], name: str) -> list[Pair]:
    """Measurements on a target with their predictions, those left out that the plans do not have any more."""
    by_network: dict[tuple[str, str, int], list[Measurement]] = defaultdict(list)
    for row in rows:
        by_network[row.network, row.dtype, row.batch].append(row)
    pairs = []
    for (network, dtype, batch), measured in by_network.items():
        made = plan(zoo.build(network, weights="none", batch=batch).graph, name, dtype, batch)
        known = predictions(made, made.programs[0])
        keys = ((row, known.get((row.layers, row.tile))) for row in measured)
        pairs += [Pair(row, time) for row, time in keys if time is not None]
    return pairs


# -- figures ----------------------------------------------------------------------------------------------------------
def rank_correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Spearman's coefficient: Pearson's of the ranks, equal values sharing theirs; None where nothing varies.

    C. Spearman, "The proof and measurement of association between two things", Am. J. Psychology 15 (1904).
    """
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return statistics.correlation(ranks(xs), ranks(ys))


def ranks(values: Sequence[float]) -> list[float]:
    """1 for the least; the mean rank for equal values."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def regrets(pairs: Sequence[Pair]) -> dict[Problem, float]:
    """For each kernel with several tiles measured: time of the tile predicted fastest over the least time, less 1."""
    by_problem: dict[Problem, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_problem[pair.measurement.problem].append(pair)
    return {
        problem: min(tiles, key=lambda pair: pair.predicted_us).measured_us / min(p.measured_us for p in tiles) - 1
        for problem, tiles in by_problem.items()
        if len(tiles) > 1
    }


def report(rows: Sequence[Measurement], name: str, device: str, shown: int) -> Iterator[str]:
    """The lines of a target's report."""
    pairs = paired(rows, name)
    stale = len(rows) - len(pairs)
    yield f"{name} ({device}): {len(rows)} measurements, {stale} of launches or tiles that no plan has now"
    if not pairs:
        return
    yield f"{'predicted us':>13}{'measured us':>13}{'ratio':>7}  tile, network and layers"
    for pair in sorted(pairs, key=lambda pair: -pair.measured_us)[:shown]:
        row, ratio = pair.measurement, pair.measured_us / pair.predicted_us
        where = f"{pair.shown}  {row.network} {row.dtype} {' + '.join(row.layers)}"
        yield f"{pair.predicted_us:13.2f}{pair.measured_us:13.2f}{ratio:7.2f}  {where}"
    if len(pairs) > shown:
        yield f"… and {len(pairs) - shown} more"
    correlation = rank_correlation([p.predicted_us for p in pairs], [p.measured_us for p in pairs])
    ratios = [pair.measured_us / pair.predicted_us for pair in pairs]
    yield f"rank correlation of predicted and measured times: {_figure(correlation)}"
    yield f"measured over predicted: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    lost = regrets(pairs)
    if not lost:
        yield "regret of the first choice: not known, no kernel was measured under several tiles"
        return
    worst = max(lost, key=lost.__getitem__)
    mean = statistics.mean(lost.values())
    place = f"{worst[0]}, {' + '.join(worst[3])}"
    yield f"regret of the first choice over {len(lost)} kernels: mean {mean:.1%}, worst {lost[worst]:.1%} ({place})"


def _figure(value: float | None) -> str:
    return "not known, too little varies" if value is None else f"{value:.3f}"


# -- measuring --------------------------------------------------------------------------------------------------------
def measure(network: str, dtype: str, batch: int, tiles: int, name: str, device: str) -> list[Measurement]:
    """Times of every launch of a network that is one kernel alone, under each of its ``tiles`` best tiles."""
    graph = zoo.build(network, batch=batch).graph
    made = plan(graph, name, dtype, batch)
    found: dict[tuple[tuple[str, ...], Schedule], Measurement] = {}
    for place in range(tiles):
        program = with_tiles(made, place)
        compiled = CompiledNetwork(compile_plan(replace(made, programs=(program,))))
        with compiled.engine(device) as engine:
            times = profiled(engine, arrays.random_inputs(compiled.inputs, 0))
        for launch, time in zip(program.launches, times, strict=True):
            if len(launch.steps) == 1:
                layers, tile = made.origins(launch), schedule(launch.steps[0].tile)
                found.setdefault((layers, tile), Measurement(network, dtype, batch, layers, tile, time["microseconds"]))
    return list(found.values())


def with_tiles(made: Plan, place: int) -> TargetPlan:
    """The plan's program with the tile at that place of the ranking for every launch that is one product alone."""
    (program,) = made.programs
    schedule = [
        _with_tile(entry, place, program.target) if isinstance(entry, Launch) else entry for entry in program.schedule
    ]
    return assemble(schedule, made.layouts, program.target, made.options)


def _with_tile(launch: Launch, place: int, machine: Target) -> Launch:
    if len(launch.steps) > 1:
        return launch
    (step,) = launch.steps
    tiles = candidates(step.work.problem, machine)
    return replace(launch, steps=(replace(step, tile=tiles[place]),)) if place < len(tiles) else launch


def record(rows: Sequence[Measurement], name: str, device: str, folder: Path) -> Path:
    """Adds measurements to a target's file; new ones take the place of those of the same launch and tile."""
    file = folder / f"measured_{name}.json"
    before = [Measurement.of(row) for row in json.loads(file.read_text("utf-8"))["rows"]] if file.exists() else []
    merged = {(row.problem, row.tile): row for row in (*before, *rows)}
    content = {"target": name, "device": device, "rows": [row.as_json() for row in merged.values()]}
    file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return file


def main(arguments: Sequence[str] | None = None, folder: Path = RESULTS) -> int:
    parser = argparse.ArgumentParser(description="Predicted kernel times beside measured ones.")
    parser.add_argument("--rows", type=int, default=20, help="slowest launches to list (20)")
    parser.add_argument("--measure", metavar="NETWORK", help="time this network of the zoo on the GPU that is here")
    parser.add_argument("--tiles", type=int, default=4, help="with --measure: tiles of every kernel (4)")
    parser.add_argument("--dtype", default="fp16", help="with --measure (fp16)")
    parser.add_argument("--batch", type=int, default=1, help="with --measure (1)")
    given = parser.parse_args(arguments)
    if given.measure:
        name = present_target()
        if name == "interpreter":
            print("there is no GPU here to measure on", file=sys.stderr)
            return 2
        rows = measure(given.measure, given.dtype, given.batch, given.tiles, name, "cuda")
        print(record(rows, name, target(name).device, folder))
    files = sorted(folder.glob("measured_*.json"))
    if not files:
        print("nothing is measured yet: predicted times stand alone, and no claim about them is checked")
    for file in files:
        content = json.loads(file.read_text("utf-8"))
        rows = [Measurement.of(row) for row in content["rows"]]
        for line in report(rows, content["target"], content["device"], given.rows):
            print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
