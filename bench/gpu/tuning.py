"""Measured tiles: what `convc tune` does, with candidates from the pack; the table lies beside the results."""

from __future__ import annotations

from convc.analysis import tune
from convc.analysis.models import Choices
from convc.program import Plan

from .cases import TARGET
from .setting import Setting

CANDIDATES = 8


def candidates(network: str, batch: int) -> tuple[Plan, list[tune.Tuned]]:
    """The plan whose launches are single kernels, and the problems with their candidates."""
    plan = tune.plan_for(f"zoo:{network}", Choices(dtype="fp16", batch=batch), TARGET)
    return plan, tune.problems_of(plan, CANDIDATES)


def tuned(setting: Setting, network: str, batch: int) -> None:
    """A row with every problem and its candidates; the winners go into a table."""
    if setting.todo(key := f"{network}-b{batch}"):
        with setting.measuring(key) as found:
            plan, problems = candidates(network, batch)
            tune.compile_candidates(plan, problems, setting.kernels)
            gpu = tune.measure(plan, problems, lambda _: "cuda")
            table = tune.store(plan, problems, gpu, setting.journal.folder)
            rows = [problem.as_json() for problem in problems]
            found |= {"network": network, "batch": batch, "table": table.name, "problems": rows}
            found["ok"] = all(problem.best is not None for problem in problems)
