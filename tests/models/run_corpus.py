"""`make corpus`: every exported model of a folder imports, compiles for sm_90 and verifies.

    make corpus                                     all files; goes on where it was interrupted
    make corpus ARGS='--only tv_resnet* --fresh'    files whose names match, whatever was found before
    make corpus ARGS='--models FOLDER --limit 50'   another folder, its first 50 files that are still to be done
    make corpus ARGS=--report                       only the table of what was found so far

Each file is filled with its seeded weights in memory, imported, planned and compiled for sm_90 in fp16, and run in fp32
on the numpy executor, one file of each network in Triton's interpreter, too; both are compared with ONNX Runtime.
Networks with an open batch run on two images by NumPy. One file of each network comes first, small ones before large.
Every file has a process of its own and a time limit. What was found is a line of JSON in ``build/corpus.jsonl``; files
that did not pass are tried again by the next run.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from corpus import FOLDER, REFUSABLE, Entry, index, interpreted
from stages import STAGES, Stage
from stages import run as run_stages

RESULTS = Path("build") / "corpus.jsonl"
SHOWN = ("import", "plan", "compile", "numpy", "interpreter")


@dataclass(frozen=True)
class Result:
    """The stages of a file. stages: in order; the last one says *time* or *ended* where the process did not finish."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def failed(self) -> Stage | None:
        return next((stage for stage in self.stages if stage.outcome != "pass"), None)

    @property
    def ok(self) -> bool:
        """Whether everything passed, or the file is of a kind that may be refused and was."""
        failed = self.failed
        refusable = self.name.rpartition(".")[2] in REFUSABLE
        return failed is None or (refusable and failed.outcome == "refused")

    def covers(self, wanted: set[str]) -> bool:
        """Whether nothing is left to be done for these stages."""
        return self.ok and (self.failed is not None or wanted <= {stage.stage for stage in self.stages})

    def line(self) -> str:
        return json.dumps({"name": self.name, "stages": [asdict(stage) for stage in self.stages]})


# -- what was found ---------------------------------------------------------------------------------------------------
def recorded(path: Path) -> dict[str, Result]:
    """The last result of each file; a line that was cut off by an interruption is passed over."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            data = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[data["name"]] = Result(data["name"], tuple(Stage(**stage) for stage in data["stages"]))
    return found


# -- running ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Running:
    entry: Entry
    process: Any
    deadline: float


Work = Callable[[Entry], list[Stage]]


def run_all(entries: Sequence[Entry], work: Work, jobs: int, limit: float) -> Iterator[Result]:
    """Results as they come, ``jobs`` files at a time, each in a forked process that has ``limit`` seconds."""
    waiting, running = list(reversed(entries)), dict[Connection, _Running]()
    context = multiprocessing.get_context("fork")
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                entry = waiting.pop()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(theirs, work, entry))
                process.start()
                theirs.close()
                running[ours] = _Running(entry, process, time.monotonic() + limit)
            ready = wait(list(running), timeout=0.5)
            for connection in list(running):
                if connection in ready or time.monotonic() > running[connection].deadline:
                    yield _finished(connection, running.pop(connection), limit)
    finally:
        for left in running.values():
            left.process.kill()


def _child(connection: Connection, work: Work, entry: Entry) -> None:
    connection.send(work(entry))
    connection.close()


def _finished(connection: Connection, one: _Running, limit: float) -> Result:
    stages: list[Stage] = []
    if connection.poll():
        try:
            stages = connection.recv()
        except EOFError:
            one.process.join()
            stages = [Stage("process", "ended", 0.0, 0.0, f"the process ended with {one.process.exitcode}")]
    else:
        one.process.kill()
        stages = [Stage("process", "time", limit, 0.0, f"not done after {limit:.0f} s")]
    one.process.join()
    connection.close()
    return Result(one.entry.name, tuple(stages))


# -- reporting --------------------------------------------------------------------------------------------------------
def table(results: Sequence[Result]) -> str:
    """One line a variant: files, those that are as they should be, and passes of each stage over its attempts."""
    variants = dict.fromkeys(result.name.rpartition(".")[2] for result in results)
    lines = [f"{'variant':10}{'files':>6}{'ok':>6}" + "".join(f"{stage:>13}" for stage in SHOWN)]
    for variant in [*variants, "all"]:
        of = [result for result in results if variant in ("all", result.name.rpartition(".")[2])]
        cells = "".join(f"{_passes(of, stage):>13}" for stage in SHOWN)
        lines.append(f"{variant:10}{len(of):6}{sum(result.ok for result in of):6}{cells}")
    return "\n".join(lines)


def _passes(results: Sequence[Result], name: str) -> str:
    outcomes = Counter(stage.outcome for result in results for stage in result.stages if stage.stage == name)
    return f"{outcomes['pass']} of {outcomes.total()}" if outcomes else "-"


def seconds(results: Sequence[Result]) -> str:
    """Processor seconds of each stage over all results."""
    stages = [stage for result in results for stage in result.stages]
    parts = [f"{name} {sum(s.cpu_seconds for s in stages if s.stage == name):.0f}" for name in STAGES]
    return f"processor seconds: {', '.join(parts)}; together {sum(stage.cpu_seconds for stage in stages):.0f}"


def failures(results: Sequence[Result]) -> list[str]:
    """One line for each file that is not as it should be."""
    failed = [(result.name, result.failed) for result in results if not result.ok]
    return [f"{name}: {stage.stage} {stage.outcome}: {stage.message[:400]}" for name, stage in failed if stage]


def report(results: Sequence[Result]) -> str:
    return "\n".join([*failures(results), table(results), seconds(results)])


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--models", type=Path, default=FOLDER, help="the folder (default: shared/models beside the checkout)"
    )
    parser.add_argument("--only", default="*", help="files whose names (network.variant) match this pattern")
    parser.add_argument("--limit", type=int, help="at most so many files")
    parser.add_argument("--stages", default=",".join(SHOWN), help="which of %(default)s")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="files at once (default: processors)"
    )
    parser.add_argument("--time-limit", type=float, default=600, help="seconds for a file (default: 600)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what was found (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="files that passed before are done again")
    parser.add_argument("--report", action="store_true", help="only the table of what was found so far")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    if not (options.models / "INDEX.csv").is_file():
        print(f"{options.models}: no folder of exported models (INDEX.csv, skeletons); name one with --models FOLDER")
        return 2
    entries = list(index(options.models).values())
    chosen = [entry for entry in entries if fnmatch.fnmatch(entry.name, options.only)]
    known = recorded(options.results)
    first = interpreted(entries)
    wanted = {entry.name: _wanted(entry, first, options) for entry in chosen}
    done = {name for name in wanted if name in known and known[name].covers(wanted[name]) and not options.fresh}
    chosen.sort(key=lambda entry: (entry.name not in first, entry.macs))
    left = [] if options.report else [entry for entry in chosen if entry.name not in done][: options.limit]
    _run(left, entries, known, options)
    found = [known[entry.name] for entry in chosen if entry.name in known]
    print(report(found))
    return 0 if found and all(result.ok for result in found) else 1


def _wanted(entry: Entry, first: Collection[str], options: argparse.Namespace) -> set[str]:
    """The stages of a file; the interpreter has one file of each network."""
    stages = set(options.stages.split(","))
    return stages if entry.name in first else stages - {"interpreter"}


def _run(
    left: Sequence[Entry], entries: Sequence[Entry], known: dict[str, Result], options: argparse.Namespace
) -> None:
    """Runs the files that are left, adding what is found to the file of results and to ``known``."""
    os.environ.setdefault("CONVC_JOBS", "1")  # files side by side instead of kernels
    first = interpreted(entries)

    def work(entry: Entry) -> list[Stage]:
        return run_stages(entry, entries, _wanted(entry, first, options), options.models)

    options.results.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with options.results.open("a") as file:
        for number, result in enumerate(run_all(left, work, options.jobs, options.time_limit), 1):
            print(result.line(), file=file, flush=True)
            known[result.name] = result
            failed = result.failed
            said = f"{failed.stage} {failed.outcome}: {failed.message[:200]}" if failed else "pass"
            print(f"{number}/{len(left)} {time.monotonic() - start:.0f} s {result.name}: {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
