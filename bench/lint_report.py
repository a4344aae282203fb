"""What the machine code of nine networks is like, and that every check of it holds: docs/kernel-lint.md.

    python -m bench.lint_report [--output FILE.md]

Everything is compiled for sm_80 and sm_90 in fp16 without a GPU: at batch 1, and at batch 32 for sm_90 ResNet-50 and
every kernel of the nine that multiplies no matrices. Kernels come from the kernel cache where it has them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from convc.analysis.lint import examine_plan
from convc.analysis.lint_checks import (
    LARGE_TILE,
    MOST_INSTRUCTIONS,
    Subject,
    findings,
    is_limited,
    per_product,
    quotient,
)
from convc.codegen.forms import contracted
from convc.codegen.packed import open_cache
from convc.frontends import zoo
from convc.planner import make_plan
from convc.program import Options, Plan

from .gpu.cases import NETWORKS
from .markdown import table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "kernel-lint.md"
TARGETS = ("sm_80", "sm_90")
BATCH = 32
TITLE = f"""# Lint of the kernels

`make lint-report` writes this page: nine networks in fp16 at batch 1, compiled for {" and ".join(TARGETS)} and checked
by [`convc kernels --lint`](cli.md#kernels---lint), and at batch {BATCH} what only large batches have. No GPU is needed,
and nothing here is a time. *Per product* is the main loop: its instructions for each one on tensor cores, which are
`HGMMA` on sm_90, and `HMMA` on sm_80 and for tiles of fewer than 64 rows."""
Row = Sequence[object]


def plan_of(name: str, targets: Sequence[str], batch: int = 1) -> Plan:
    """The plan of a network in fp16; weights are not needed."""
    return make_plan(zoo.build(name, batch=batch, weights="none").graph, Options(tuple(targets), "fp16"))


def streams_of(name: str, examined: Callable[[Plan], list[Subject]]) -> list[Subject]:
    """The kernels of a large batch that multiply no matrices. Others that come with them, where a tile had to be chosen
    again, are left out."""
    found = examined(without_products(plan_of(name, ("sm_90",), BATCH)))
    return [subject for subject in found if not any(step.products for step in subject.spec.steps)]


def without_products(plan: Plan) -> Plan:
    """The plan with those launches alone that multiply no matrices."""
    programs = [
        replace(program, launches=tuple(x for x in program.launches if not any(map(contracted, x.problems))))
        for program in plan.programs
    ]
    return replace(plan, programs=tuple(program for program in programs if program.launches))


# -- tables -----------------------------------------------------------------------------------------------------------
def summary(name: str, subjects: Sequence[Subject]) -> list[Row]:
    """One row a target: kernels, and the worst of each figure."""
    rows: list[Row] = []
    for target in TARGETS:
        of = [subject for subject in subjects if subject.target.name == target]
        rows.append(
            (
                name,
                target,
                len(of),
                max(subject.binary.registers for subject in of),
                sum(subject.binary.spill_bytes for subject in of),
                max(subject.binary.shared_bytes for subject in of),
                *_per_product(of),
                len(findings(of)),
            )
        )
    return rows


def _per_product(subjects: Iterable[Subject]) -> tuple[str, str]:
    """Median and worst."""
    found = [subject.code.main_loop.ratio for subject in subjects if subject.code.main_loop]
    return (f"{median(found):.1f}", f"{max(found):.1f}") if found else ("-", "-")


def by_form(subjects: Iterable[Subject], target: str) -> list[Row]:
    """One row a form of kernels that run one step, and how they read."""
    groups: dict[tuple[str, str], list[Subject]] = {}
    for subject in subjects:
        if subject.target.name == target and len(subject.spec.steps) == 1:
            (step,) = subject.spec.steps
            groups.setdefault((step.form, step.access if step.products else "-"), []).append(subject)
    return [
        (
            *form,
            len(found),
            max(subject.binary.registers for subject in found),
            max(subject.binary.shared_bytes for subject in found),
            *_per_product(found),
        )
        for form, found in sorted(groups.items())
    ]


def large(subjects: Iterable[Subject]) -> list[Row]:
    """One row a kernel with a tile of at least 128x128, the least per product first."""
    found = [s for s in subjects if any(min(step.rows, step.cols) >= LARGE_TILE for step in s.spec.steps)]
    rows: list[Row] = []
    for subject in sorted(found, key=lambda s: (per_product(s.code.main_loop) if s.code.main_loop else 0, s.spec.name)):
        loop = subject.code.main_loop
        access = ", ".join(dict.fromkeys(step.access for step in subject.spec.steps))
        size = (subject.tile, subject.binary.threads // 32, subject.binary.registers)
        products = quotient(loop) if loop else "-"
        whole = f"{per_product(loop):.1f}" if loop else "-"
        limit = f"{MOST_INSTRUCTIONS:.0f}" if is_limited(subject) else "-"
        rows.append((subject.form, access, *size, products, whole, limit))
    return rows


def accesses(subjects: Iterable[Subject]) -> list[Row]:
    """One row a kernel without products: how wide a thread's accesses of global memory are."""
    return [
        (subject.form, subject.tile, subject.binary.threads // 32, _widths(subject, "LDG"), _widths(subject, "STG"))
        for subject in sorted(subjects, key=lambda s: (s.form, s.tile))
    ]


def _widths(subject: Subject, name: str) -> str:
    return ", ".join(f"{count} x {width}" for width, count in subject.code.widths[name].items())


# -- the page ---------------------------------------------------------------------------------------------------------
def distinct(subjects: Iterable[Subject]) -> list[Subject]:
    """Each kernel of each target once."""
    return list({(subject.target.name, subject.spec.name): subject for subject in subjects}.values())


def page(examined: Callable[[Plan], list[Subject]]) -> tuple[str, list[Subject]]:
    """The page, and every kernel on it."""
    single = {}
    for name in NETWORKS:
        print(f"{name}, batch 1", file=sys.stderr)
        single[name] = examined(plan_of(name, TARGETS))
    everything = distinct(subject for subjects in single.values() for subject in subjects)
    print(f"batch {BATCH}", file=sys.stderr)
    batched = examined(plan_of("resnet50", ("sm_90",), BATCH))
    streams = distinct(subject for name in NETWORKS for subject in streams_of(name, examined))
    networks = [row for name, subjects in single.items() for row in summary(name, subjects)]
    figures = ("kernels>", "registers>", "shared bytes>", "per product, median>", "worst>")
    lines = [TITLE, "", "## Networks", ""]
    lines += table(
        ("network", "target", "kernels>", "registers>", "spilled bytes>", *figures[2:], "findings>"), networks
    )
    for target in TARGETS:
        lines += ["", f"## Forms of kernels on {target}", "", "Kernels of one step; of groups each step is a form.", ""]
        lines += table(("form", "access", *figures), by_form(everything, target))
    lines += ["", f"## Large tiles: ResNet-50 at batch {BATCH} on sm_90", "", LARGE, ""]
    lines += table(
        ("form", "access", "tile", "warps>", "registers>", "main loop>", "per 64x128>", "limit>"), large(batched)
    )
    lines += ["", f"## Kernels without products at batch {BATCH} on sm_90", "", STREAMS, ""]
    lines += table(("form", "tile", "warps>", "loads x bytes", "stores x bytes"), accesses(streams))
    return "\n".join(lines) + "\n", [*everything, *batched, *streams]


LARGE = f"""[Descriptors](kernels.md#access-through-descriptors) let one thread fetch a whole block, so that a step
costs few instructions: at most {MOST_INSTRUCTIONS:.0f} for each product of 64x{LARGE_TILE} (one of 64x256 takes tensor
cores as long as two), which the lint holds them to. Pointers cost more, as every thread makes addresses: those rows
have no limit, and a launch with steps of both kinds has none. Forms that only pointers read: strided ones, whose rows
do not follow each other in memory; few channels, whose lines are no multiple of 16 bytes; a prologue, as what it
computes comes from registers; pooling, whose rows lie in blocks of 2x2; back to back."""
STREAMS = """Threads move 16 bytes at a time wherever channels lie side by side. Narrower are: local response, whose
windows begin at every channel, so that all loads but those in the middle are unaligned, and come from the cache; and
results of reductions and of pooling over images, which are few. At batch 1 blocks are as small as it takes to occupy
all multiprocessors, and threads then move 2 to 16 bytes: the grid is worth more than the width there, as the time is
that of an access to the L2 cache."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE.md")
    given = parser.parse_args()
    cache = open_cache()
    text, subjects = page(lambda plan: examine_plan(plan, cache))
    given.output.write_text(text, encoding="utf-8")
    found = findings(distinct(subjects))
    for finding in found:
        print(f"{finding.check}: {finding.kernel} for {finding.target}: {finding.found}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
