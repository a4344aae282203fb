"""What is done with one exported model: import, plan, compile, and runs compared with ONNX Runtime.

A stage ends in one of these ways: *pass*; *refused* (`UnsupportedModelError`: a list of what is unsupported); *wrong*
(an output farther from ONNX Runtime's than its bound); *error* (anything else). Stages that need one that did not pass
do not take place.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corpus import FOLDER, Entry, filled, open_sizes

import convc
from convc import errors
from convc.analysis.verify import Verification, check_against
from convc.compiler import compile_plan
from convc.ir import Graph
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.interpreter_pool import close_idle
from convc.runtime.network import CompiledNetwork

STAGES = ("fill", "import", "plan", "compile", "numpy", "interpreter")
TARGET = "sm_90"
BATCH = 2
"""Networks whose batch is open are compiled and interpreted for one image, and run on this many by NumPy."""


@dataclass(frozen=True)
class Stage:
    """How a stage ended, the seconds that it took, those of processors, and the message where it did not pass."""

    stage: str
    outcome: str
    seconds: float
    cpu_seconds: float
    message: str = ""


class Wrong(Exception):
    """A result that is farther from the reference than its bound."""


def outcome(checked: Verification) -> str:
    """Errors and bounds of all outputs."""
    return "; ".join(f"{o.name}: error {o.max_abs:.3g}, bound {o.bound:.3g}" for o in checked.outputs)


class Model:
    """One file of the corpus, its weights drawn once."""

    def __init__(self, entry: Entry, entries: Sequence[Entry], folder: Path = FOLDER) -> None:
        self.entry, self.entries = entry, entries
        self.model = filled(entry.name, folder)

    def graph(self, batch: int = 1) -> Graph:
        return convc.import_onnx(self.model, dims=open_sizes(self.entry, self.entries, batch))

    def verify(self, device: str) -> None:
        """Raises `Wrong` where a run in fp32 differs from ONNX Runtime's by more than rounding."""
        targets, batch = ((), self._batch) if device == "numpy" else ((device,), 1)
        plan = make_plan(self.graph(batch), Options(targets, "fp32", batch))
        checked = check_against(CompiledNetwork(compile_plan(plan)), plan.graph, self.model, device)
        close_idle()  # the interpreter's process: its time counts when it has ended
        if not checked.ok:
            raise Wrong(outcome(checked))

    @property
    def _batch(self) -> int:
        return 1 if self.entry.is_static else BATCH


def run(entry: Entry, entries: Sequence[Entry], wanted: Iterable[str], folder: Path = FOLDER) -> list[Stage]:
    """The wanted stages of a file, in order; filling and importing are always among them."""
    wanted, done = set(wanted), []

    def stage(name: str, action: Callable[[], Any]) -> Any:
        result, found = _timed(name, action)
        done.append(found)
        return result

    model = stage("fill", lambda: Model(entry, entries, folder))
    graph = stage("import", model.graph) if model else None
    if graph is None:
        return done
    plan = stage("plan", lambda: convc.plan(graph, TARGET)) if wanted & {"plan", "compile"} else None
    if plan is not None and "compile" in wanted:
        stage("compile", lambda: compile_plan(plan))
    for device in ("numpy", "interpreter"):
        if device in wanted:
            stage(device, lambda device=device: model.verify(device))
    return done


def _timed(name: str, action: Callable[[], Any]) -> tuple[Any, Stage]:
    start, cpu = time.perf_counter(), processor_seconds()
    result, outcome, message = None, "pass", ""
    try:
        result = action()
    except errors.UnsupportedModelError as error:
        outcome, message = "refused", str(error)
    except Wrong as error:
        outcome, message = "wrong", str(error)
    except Exception as error:  # whatever a model brings about is a result
        outcome, message = "error", f"{type(error).__name__}: {error}"
    seconds, cpu_seconds = time.perf_counter() - start, processor_seconds() - cpu
    return result, Stage(name, outcome, round(seconds, 3), round(cpu_seconds, 3), message)


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
