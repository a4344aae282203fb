"""Random networks under random rules, policies and numeric modes, against the operators' definitions.

    make fuzz                        2,000 networks on all cores
    make fuzz ARGS='--graphs 100 --seed 7'
    make fuzz ARGS='--case "conv,head/17 fp16 always only=conv-pool"'      one again, as a failure printed it

Each network is compiled once under a draw of rules (a few switched off, or a few alone), of a policy and of a numeric
mode, its emitted kernels run in Triton's interpreter, and every output must be equal to the reference, element by
element. hypothesis draws and, where something differs, looks for the smallest network and fewest rules that show it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from compiled import evaluate, run, same
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from random_cnns import BLOCKS, RandomCnn

import convc

DTYPES = ("fp32", "fp16", "bf16", "tf32")
POLICIES = ("cost-model", "always", "never")
GPUS = ("sm_80", "sm_90")
"""Every network is planned for one of these as well; nothing is compiled."""
MOST_FAILURES = 3
"""Failures after which a process stops."""


@dataclass(frozen=True)
class Case:
    """One network and how it is compiled; ``str`` is what `--case` takes."""

    blocks: tuple[str, ...]
    seed: int
    dtype: str
    policy: str
    rules: tuple[str, ...] = ()
    only: bool = False

    def __str__(self) -> str:
        rules = f" {'only' if self.only else 'disable'}={','.join(self.rules)}" if self.rules or self.only else ""
        return f"{','.join(self.blocks)}/{self.seed} {self.dtype} {self.policy}{rules}"

    @staticmethod
    def parse(text: str) -> Case:
        network, dtype, policy, *rules = text.split()
        blocks, _, seed = network.partition("/")
        kind, _, names = (rules or ["disable="])[0].partition("=")
        chosen = tuple(name for name in names.split(",") if name)
        return Case(tuple(blocks.split(",")), int(seed), dtype, policy, chosen, kind == "only")

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `convc.compile`."""
        return {"dtype": self.dtype, "policy": self.policy, "only" if self.only else "disable": self.rules}


def cases(most_blocks: int = 4) -> st.SearchStrategy[Case]:
    """All rules on, some off, or some alone: in equal parts."""
    rules = st.lists(st.sampled_from(sorted(convc.RULES)), max_size=6, unique=True).map(
        lambda names: tuple(sorted(names))
    )
    blocks = st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=most_blocks).map(tuple)
    fixed = (blocks, st.integers(0, 2**16), st.sampled_from(DTYPES), st.sampled_from(POLICIES))
    return st.one_of(
        st.builds(Case, *fixed),
        st.builds(Case, *fixed, rules),
        st.builds(Case, *fixed, rules, st.just(True)),
    )


def check(case: Case) -> None:
    """Raises where an output of the emitted kernels is not what the definitions give, or where a GPU has no plan."""
    network = RandomCnn(case.seed, list(case.blocks))
    convc.plan(network.graph, target=GPUS[case.seed % len(GPUS)], **case.options)
    same(run(network.graph, network.inputs, **case.options), evaluate(network.graph, network.inputs))


# -- on all cores -----------------------------------------------------------------------------------------------------
def work(seed: int, graphs: int, news: Any) -> None:
    """Checks so many cases and tells ``news`` of each: None for one that holds, else the case and its traceback."""
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of the child: there is one for each core
    done = 0
    for attempt in range(MOST_FAILURES):
        held, failure = _stretch(seed + attempt * 10**6, graphs - done, news)
        done += held
        if failure is None:
            break
        news.put(failure)
    news.put(done)


def _stretch(seed: int, graphs: int, news: Any) -> tuple[int, tuple[str, str] | None]:
    """How many cases held, and the smallest that did not."""
    held = 0
    failure: tuple[str, str] | None = None
    suppressed = list(HealthCheck)

    @hypothesis.seed(seed)
    @settings(max_examples=graphs, deadline=None, database=None, suppress_health_check=suppressed)
    @hypothesis.given(cases())
    def run_all(case: Case) -> None:
        nonlocal held, failure
        try:
            check(case)
        except BaseException:
            failure = str(case), traceback.format_exc()
            raise
        if failure is None:
            held += 1
            news.put(None)

    try:
        run_all()
    except BaseException:
        return held, failure or ("", traceback.format_exc())
    return held, None


def fuzz(graphs: int, seed: int, jobs: int) -> int:
    """Checks ``graphs`` cases; the number of failures, each printed with the line that repeats it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    context = multiprocessing.get_context("spawn")
    news = context.Queue()
    shares = [graphs // jobs + (index < graphs % jobs) for index in range(jobs)]
    workers = [context.Process(target=work, args=(seed * 1000 + i, n, news)) for i, n in enumerate(shares)]
    console = Console()
    failures = checked = running = 0
    columns = (TextColumn("networks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("networks", total=graphs)
        for worker in workers:
            worker.start()
            running += 1
        while running:
            found = news.get()
            if found is None:
                bar.advance(task)
            elif isinstance(found, int):
                checked, running = checked + found, running - 1
            else:
                failures += 1
                case, trace = found
                console.print(trace.rstrip(), markup=False, highlight=False)
                console.print(f"make fuzz ARGS='--case \"{case}\"'", markup=False, highlight=False, soft_wrap=True)
    print(f"{checked} networks of seed {seed} computed what they should, {failures} failures")
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Random networks under random rules, against their definitions.")
    parser.add_argument("--graphs", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (one for each core)")
    parser.add_argument("--case", help="check this one instead, as a failure printed it")
    given = parser.parse_args(arguments)
    if given.case:
        check(Case.parse(given.case))
        print("it computes what it should")
        return 0
    return 1 if fuzz(given.graphs, given.seed, given.jobs) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
