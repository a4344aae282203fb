"""What every step is given: where results go, the pack, how much effort; and the names of the steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from convc.codegen.cache import KernelCache
from convc.runtime.artifact import Artifact

from . import artifacts
from .cases import Case
from .journal import Journal
from .timing import FULL, Effort

LEAST_S = 5.0
"""A measurement is not begun with less time than this left to the step."""
WAIT_S = 60.0
"""How long a step waits for an artifact that is being made in the background."""


@dataclass(frozen=True)
class Setting:
    """A step's surroundings. step: its name. seconds: what it may take. pack: None where kernels are compiled here."""

    step: str
    journal: Journal
    scratch: Path
    pack: Path | None = None
    seconds: float = 3600.0
    effort: Effort = FULL
    wait_s: float = WAIT_S
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def folder(self) -> Path:
        """Where artifacts lie."""
        return artifacts.workshop(self.scratch, self.pack)

    @cached_property
    def kernels(self) -> KernelCache:
        return artifacts.kernels_of(self.pack, self.folder)

    @property
    def left_s(self) -> float:
        return self.seconds - (time.monotonic() - self.started)

    def artifact(self, case: Case) -> Artifact:
        """Raises `CompileError` where the case cannot be compiled."""
        return artifacts.opened(case, self.pack, self.folder, self.wait_s)

    def todo(self, key: str) -> bool:
        """Whether a measurement is still to be made; it is then known to have begun.

        Raises:
            OutOfTime: it is, and the step has no time for it. The process ends, and a later one goes on with it.
        """
        if self.left_s < LEAST_S and key not in self.journal.known(self.step):
            raise OutOfTime(f"no time left for {key}")
        return self.journal.begin(self.step, key)

    def put(self, key: str, **found: Any) -> None:
        self.journal.put(self.step, key, **found)

    def failed(self, key: str, error: Exception, **found: Any) -> None:
        """A row about what went wrong; it says whether this process has lost its GPU."""
        self.put(key, **found, error=f"{type(error).__name__}: {error}"[:500], lost=is_lost(error))

    @contextmanager
    def measuring(self, key: str) -> Iterator[dict[str, Any]]:
        """Collects what is found under a key and writes it as a row; what goes wrong becomes the row's error.

        A GPU that is lost to this process ends it; the runner starts it again behind this measurement. `Abandoned`
        leaves no row: the measurement is made again then.
        """
        found: dict[str, Any] = {}
        started = time.monotonic()
        try:
            yield found
        except Abandoned:
            raise
        except Exception as error:  # whatever fails in one measurement must not lose the others
            self.failed(key, error, **found)
            if is_lost(error):
                raise
        else:
            self.put(key, **found, seconds=round(time.monotonic() - started, 2))


class OutOfTime(Exception):
    """A step ends before it has made all of its measurements."""


class Abandoned(Exception):
    """A part of a measurement lost the GPU, and has its own row; the measurement itself is to be made again."""


def is_lost(error: Exception) -> bool:
    """Whether the process cannot use its GPU any more."""
    return bool(getattr(error, "sticky", False)) or "CUDA error" in str(error)
