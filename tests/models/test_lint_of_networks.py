"""Every kernel of nine networks holds every check, for two GPUs; so do the large tiles of a large batch.

Compiled kernels are kept between runs in pytest's cache, by content: a run compiles what changed. From the beginning it
is 5.5 minutes of one processor, of which compiling takes 4.8; with all kernels at hand less than one.
"""

from __future__ import annotations

import pytest

from bench import lint_report
from convc.analysis.lint import examine_plan
from convc.analysis.lint_checks import LARGE_TILE, findings
from convc.codegen.cache import KernelCache


@pytest.fixture(scope="session")
def cache(pytestconfig: pytest.Config) -> KernelCache:
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    assert pytestconfig.cache is not None
    return KernelCache(pytestconfig.cache.mkdir("kernels"))


@pytest.mark.parametrize("name", lint_report.NETWORKS)
def test_every_kernel_holds_every_check(name: str, cache: KernelCache) -> None:
    subjects = examine_plan(lint_report.plan_of(name, lint_report.TARGETS), cache)
    assert {subject.target.name for subject in subjects} == set(lint_report.TARGETS)
    assert findings(subjects) == []


def test_large_tiles_hold_every_check(cache: KernelCache) -> None:
    """ResNet-50 at batch 32, where tiles of 128x128 are the best."""
    subjects = examine_plan(lint_report.plan_of("resnet50", ("sm_90",), lint_report.BATCH), cache)
    assert any(min(step.rows, step.cols) >= LARGE_TILE for subject in subjects for step in subject.spec.steps)
    assert findings(subjects) == []


SMALL = "squeezenet1_1"
"""The network whose rows of the page are compared: the fewest kernels."""


def test_the_page_says_what_the_lint_does(cache: KernelCache) -> None:
    """Kernels, spilled bytes and findings of one network. ``make lint-report`` brings the page up to date."""
    subjects = examine_plan(lint_report.plan_of(SMALL, lint_report.TARGETS), cache)
    lines = lint_report.PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(f"| {SMALL} ")]
    found = [list(map(str, row)) for row in lint_report.summary(SMALL, subjects)]
    assert [(row[0:3], row[4], row[-1]) for row in rows] == [(row[0:3], row[4], row[-1]) for row in found]


WIDE = 16


@pytest.mark.parametrize("name", lint_report.NETWORKS)
def test_kernels_without_products_move_16_bytes_at_a_time(name: str, cache: KernelCache) -> None:
    """At batch 32, where they are bound by memory: whole vectors are loaded, but where windows begin at every channel
    and besides one factor of a channel; and stored, but where reductions and pooling leave nothing else.
    """
    for subject in lint_report.streams_of(name, lambda plan: examine_plan(plan, cache)):
        loads, stores = subject.code.widths["LDG"], subject.code.widths["STG"]
        tensor = subject.form != "reduction" and any(parameter.name == "y" for parameter in subject.spec.parameters)
        assert WIDE in loads, subject.form
        if subject.form != "local response":
            assert sum(loads.values()) - loads[WIDE] <= 1, (subject.form, loads)
        assert WIDE in stores or not tensor, (subject.form, stores)
