"""``python -m bench.gpu pack | run | step | report``: what `make gpu-pack`, `make gpu` and `make gpu-report` call."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK, SCRATCH, OUT = ROOT / "build" / "gpu_pack", ROOT / "build" / "gpu_scratch", ROOT / "build" / "gpu"
RESULTS = ROOT / "bench" / "results" / "gpu"
BUDGET_S = 535.0
"""Under nine minutes for everything, so that a command of ten survives it."""
SPARED_CORES = 2
"""Left free for the process that measures while artifacts are made in the background."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="compile everything that the suite asks for; needs Triton and no GPU")
    pack.add_argument("--pack", type=Path, default=PACK)
    pack.add_argument("--networks", type=_names, help="names of the zoo  [default: all nine]")
    pack.add_argument("--batches", type=_names, help="batch sizes  [default: 32,1,256]")
    pack.add_argument("--no-wheels", action="store_true", help="without Python packages for the GPU machine")
    pack.add_argument("--older-ptxas", action="store_true", help="assemble everything for drivers of CUDA 12.9")
    run = commands.add_parser("run", help="run the steps that are not in OUT yet; needs a GPU")
    run.add_argument("--parts", type=_names, default=["A"], help="calls (A, B, C) or beginnings of steps' names  [A]")
    run.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for everything")
    step = commands.add_parser("step", help="one step in this process")
    step.add_argument("name")
    step.add_argument("seconds", type=float)
    prepare = commands.add_parser("prepare", help="make the artifacts of some networks")
    prepare.add_argument("networks", nargs="+")
    for command in (run, step, prepare):
        command.add_argument("--out", type=Path, default=OUT)
        command.add_argument("--scratch", type=Path, default=SCRATCH)
        command.add_argument("--pack", type=Path, default=PACK)
    for command in (run, step):
        command.add_argument("--from", dest="earlier", type=Path, action="append", default=[], help="earlier results")
    report = commands.add_parser("report", help="tables and plots of what was measured")
    report.add_argument("--results", type=Path, default=RESULTS)
    report.add_argument("--readme", action="store_true", help="write the section of README.md")
    return top


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def main(arguments: Sequence[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    if given.command in ("run", "step", "prepare"):
        add_paths(given.pack, given.scratch)
    return {"pack": pack, "run": run, "step": step, "prepare": prepare, "report": report}[given.command](given)


def add_paths(pack: Path, scratch: Path) -> None:
    """Puts a pack's Python packages and the sources in front of what is installed, for this process and those that it
    starts."""
    from .wheels import WHEELS, installed_wheels

    wheels = pack / WHEELS
    places = [str(installed_wheels(wheels, scratch))] if any(wheels.glob("*.whl")) else []
    known = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    missing = [place for place in (*places, str(ROOT)) if place not in known]
    sys.path[:0] = missing
    os.environ["PYTHONPATH"] = os.pathsep.join([*missing, *known])


def pack(given: argparse.Namespace) -> int:
    from .cases import BATCHES, NETWORKS
    from .pack import everything, make_pack

    contents = everything(
        tuple(given.networks or NETWORKS),
        tuple(map(int, given.batches or BATCHES)),
        wheels=not given.no_wheels,
        older_ptxas=given.older_ptxas,
    )
    make_pack(given.pack, contents)
    return 0


def run(given: argparse.Namespace) -> int:
    """Runs the chosen steps; 0 where all came to their end, 4 where not."""
    from .journal import Journal
    from .report import full_report
    from .runner import Runner, end_group
    from .steps import all_steps, cases_networks

    steps = [step for step in all_steps() if step.chosen(given.parts)]
    if not steps:
        print(f"no step is called {', '.join(given.parts)}; there are A, B, C and", file=sys.stderr)
        print("  ".join(step.name for step in all_steps()), file=sys.stderr)
        return 2
    journal = Journal(given.out, given.earlier)
    earlier = [option for folder in given.earlier for option in ("--from", str(folder))]
    places = ["--out", given.out, "--scratch", given.scratch, "--pack", given.pack]
    command = [sys.executable, "-m", "bench.gpu"]
    runner = Runner(journal, [*command, "step", *map(str, places), *earlier], given.budget)
    background = None
    if networks := cases_networks([step for step in steps if step.name not in journal.finished()]):
        log = (given.out / "prepare.txt").open("ab")
        background = subprocess.Popen(
            [*command, "prepare", *map(str, places), *networks], stdout=log, stderr=log, start_new_session=True
        )
    try:
        complete = runner.run(steps)
    finally:
        if background is not None:
            end_group(background)
    print("\n".join(full_report(journal.rows())))
    return 0 if complete else 4


def step(given: argparse.Namespace) -> int:
    from .artifacts import use_pack
    from .journal import Journal
    from .setting import Setting
    from .steps import run_step

    pack = given.pack if given.pack.exists() else None
    setting = Setting(given.name, Journal(given.out, given.earlier), given.scratch, pack, given.seconds)
    use_pack(pack, setting.folder)
    run_step(setting)
    return 0


def prepare(given: argparse.Namespace) -> int:
    from .artifacts import make_all, workshop
    from .cases import all_cases

    pack = given.pack if given.pack.exists() else None
    processes = max(1, len(os.sched_getaffinity(0)) - SPARED_CORES)
    os.nice(5)
    make_all(list(all_cases(tuple(given.networks))), pack, workshop(given.scratch, pack), processes)
    return 0


def report(given: argparse.Namespace) -> int:
    from .report import make_report

    return make_report(given.results, given.readme)


if __name__ == "__main__":
    sys.exit(main())
