"""Runs steps one after the other, each in a process of its own with a time limit, within a budget for all of them.

A step that crashes or hangs loses the measurement that it was at, which is recorded, and is started again behind it; a
step that makes no progress so is given up. When the budget is spent, everything that was started is ended; what was
under way then has not failed, and a later run measures it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from .journal import Journal

MARGIN_S = 5.0
"""Kept for ending processes and writing the last rows."""
LEAST_S = 10.0
"""A step is not begun with less time than this left."""
RESTARTS = 4
PATIENCE = 1.5
"""All processes of a step together get this many times its limit."""


@dataclass(frozen=True)
class Step:
    """A part of the suite. name: ``speed:resnet50:fp16``. limit_s: of each of its processes. call: the letter of the
    call that it belongs to."""

    name: str
    limit_s: float
    call: str

    def chosen(self, parts: Sequence[str]) -> bool:
        """Whether one of the parts names it: its call, itself, or the beginning of its name up to a colon."""
        return any(part == self.call or self.name == part or self.name.startswith(f"{part}:") for part in parts)


class Runner:
    """Runs steps by ``command``, their name and their seconds. budget_s: for all of them together, counted from now."""

    def __init__(self, journal: Journal, command: Sequence[str], budget_s: float) -> None:
        self.journal, self.command = journal, [*command]
        self.end = time.monotonic() + budget_s
        self.log = journal.folder / "log.txt"

    @property
    def left_s(self) -> float:
        return self.end - time.monotonic() - MARGIN_S

    def run(self, steps: Sequence[Step]) -> bool:
        """Runs what is not finished yet. Returns whether everything came to its end."""
        finished = self.journal.finished()
        complete = True
        for step in steps:
            if step.name in finished:
                self._say(f"{step.name}: there already")
            elif self.left_s < LEAST_S:
                self.journal.put(step.name, "end", outcome="no time left")
                self._say(f"{step.name}: no time left")
                complete = False
            else:
                complete &= self._run_step(step)
        return complete

    def _run_step(self, step: Step) -> bool:
        started = time.monotonic()
        outcome = ""
        for _ in range(RESTARTS + 1):
            before = self.journal.gpus_lost(step.name)
            self.journal.forget_begun()
            own_s = PATIENCE * step.limit_s - (time.monotonic() - started)
            outcome = self._process(step, min(step.limit_s, own_s, self.left_s))
            lost = self.journal.lost(step.name) if self.left_s > 0 else []
            for key in lost:
                self.journal.put(step.name, key, error=f"its process did not survive: {outcome}")
            left_s = min(self.left_s, PATIENCE * step.limit_s - (time.monotonic() - started))
            went_on = lost or self.journal.gpus_lost(step.name) > before
            if outcome == "done" or not went_on or left_s < min(LEAST_S, step.limit_s / 4):
                break
        seconds = round(time.monotonic() - started, 1)
        said = {} if outcome == "done" else {"said": self._last_line()}
        self.journal.put(step.name, "end", outcome=outcome, seconds=seconds, **said)
        about = f"{outcome} after {seconds} s, {max(self.left_s, 0):.0f} s left"
        self._say(": ".join([step.name, about, *said.values()]))
        return outcome == "done"

    def _process(self, step: Step, limit_s: float) -> str:
        """One process of a step: ``done``, ``time limit …`` or ``exit status …``; nothing of it is left running."""
        with self.log.open("ab") as log:
            log.write(f"--- {step.name}\n".encode())
            log.flush()
            process = subprocess.Popen(
                [*self.command, step.name, f"{limit_s:.0f}"], stdout=log, stderr=log, start_new_session=True
            )
            try:
                status = process.wait(limit_s)
                outcome = "done" if status == 0 else f"exit status {status}"
            except subprocess.TimeoutExpired:
                outcome = f"time limit of {limit_s:.0f} s"
            finally:
                end_group(process)
        return outcome

    def _last_line(self) -> str:
        """What the last process said last."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("--- ")[-1].strip().splitlines()
        return lines[-1][:300] if lines else ""

    def _say(self, text: str) -> None:
        print(text, flush=True)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that leads its own session, and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
