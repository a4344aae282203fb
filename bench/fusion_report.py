"""What fusion does to the networks of the literature: launches and bytes, unfused and fused, beside targets and limits.

    python -m bench.fusion_report [--readme] [--output FILE.json]

Everything is counted in the plan for sm_90 in fp16 at batch 1; no GPU is needed and no time is measured. Every launch
counts. Bytes are those of activations and weights that kernels load and store, each distinct byte once a launch; what
loads ask for again (halos, windows, tiles that share an operand: caches serve it) and the partial sums of split
reductions stand in columns of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from convc.analysis.figures import asked_bytes, loop_bytes
from convc.api import plan
from convc.frontends import zoo
from convc.program import TargetPlan

from .markdown import table, write_part

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ROOT / "bench" / "fusion_targets.json"
PART = "fusion"
"""Of the README."""
TARGET, DTYPE = "sm_90", "fp16"
Row = dict[str, Any]


def counted(program: TargetPlan) -> Row:
    """Launches, distinct kernels, and megabytes of a plan."""
    again = sum(max(0, asked_bytes(launch) - sum(map(loop_bytes, launch.problems))) for launch in program.launches)
    return {
        "launches": len(program.launches),
        "kernels": len(program.kernels),
        "megabytes": (program.traffic.activations + program.traffic.weights) / 1e6,
        "workspace_megabytes": program.traffic.workspace / 1e6,
        "asked_again_megabytes": again / 1e6,
        "mega_macs": sum(launch.macs for launch in program.launches) / 1e6,
        "predicted_us": program.predicted_us,
    }


def measured(goal: Row) -> Row:
    """One network's row: counts of both plans, targets, limits, and whether the targets are met."""
    graph = zoo.build(goal["name"], weights="none").graph
    unfused, fused = (counted(plan(graph, TARGET, DTYPE, opt=opt).programs[0]) for opt in ("none", "fuse"))
    met = {"kernels": fused["launches"] <= goal["kernels"], "megabytes": fused["megabytes"] <= goal["megabytes"]}
    return {**goal, "unfused": unfused, "fused": fused, "met": met}


def markdown(rows: list[Row]) -> str:
    """The table of the README."""
    columns = (
        "network",
        "launches, unfused → fused>",
        "at most>",
        "MB, unfused → fused>",
        "at most>",
        "layer-list limits: unfused, fused, least>",
        "asked again, MB>",
        "split-K, MB>",
    )
    lines = []
    for row in rows:
        before, after, limit = row["unfused"], row["fused"], row["limits"]
        cells = (
            row["title"],
            f"{before['launches']} → {after['launches']}",
            f"{row['kernels']} {_verdict(row['met']['kernels'])}",
            f"{before['megabytes']:.1f} → {after['megabytes']:.1f}",
            f"{row['megabytes']:g} {_verdict(row['met']['megabytes'])}",
            f"{limit['unfused']:.1f}, {limit['fused']:.1f}, {limit['least']:.1f}",
            f"{after['asked_again_megabytes']:.0f}",
            f"{after['workspace_megabytes']:.1f}",
        )
        lines.append(cells)
    return "\n".join(table(columns, lines))


def _verdict(met: bool) -> str:
    return "met" if met else "**not met**"


def explained() -> str:
    """What stands above the table."""
    return f"""\
Counted by `make fusion-report` in the plans for {TARGET}, {DTYPE}, batch 1; no time is measured. *MB* are those of
activations and weights, each distinct byte once a launch. *Asked again*: bytes that the fused kernels' loads ask for
more than once (windows, halos, tiles that share an operand), which caches serve. *Split-K*: partial sums written and
read back. The limits come from hand-written layer lists ([source](bench/fusion_targets.json))."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "fusion.json")
    parser.add_argument("networks", nargs="*", help="names of the zoo  [default: all of the table]")
    given = parser.parse_args()
    goals = json.loads(TARGETS.read_text(encoding="utf-8"))["networks"]
    unknown = set(given.networks) - {goal["name"] for goal in goals}
    if unknown or (given.readme and given.networks):
        parser.error(f"no targets for {', '.join(sorted(unknown))}" if unknown else "--readme takes all networks")
    rows = [measured(goal) for goal in goals if not given.networks or goal["name"] in given.networks]
    counts = markdown(rows)
    print(counts)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    about = {"target": TARGET, "dtype": DTYPE, "batch": 1, "rows": rows}
    given.output.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    if given.readme:
        write_part(ROOT / "README.md", PART, f"{explained()}\n\n{counts}")
    missed = [f"{row['title']} ({what})" for row in rows for what, met in row["met"].items() if not met]
    print("all targets met" if not missed else f"not met: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
