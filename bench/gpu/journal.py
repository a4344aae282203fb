"""Results as lines of JSON, written at once: a run that ends early loses nothing, and a later one goes on behind it.

A line is one measurement: ``step``, ``key`` (unique in the step) and what was found, or ``error``. Before a measurement
is begun its key is noted in a second file, so that one that kills its process is known, recorded and not begun again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

RESULTS, BEGUN = "results.jsonl", "begun.jsonl"
Row = dict[str, Any]


def read_rows(folders: Iterable[Path]) -> list[Row]:
    """All rows of some folders. A line that was cut off when a process ended is left out."""
    rows = []
    for folder in folders:
        for file in sorted(folder.glob("*.jsonl")):
            if file.name != BEGUN:
                rows += list(_rows(file))
    return rows


def _rows(file: Path) -> Iterator[Row]:
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


class Journal:
    """The results of one folder, and what earlier folders hold already."""

    def __init__(self, folder: Path, earlier: Iterable[Path] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.earlier = tuple(earlier)

    def rows(self) -> list[Row]:
        """Every row so far, those of earlier folders first."""
        return read_rows([*self.earlier, self.folder])

    def finished(self) -> set[str]:
        """Steps that came to their end."""
        return {row["step"] for row in self.rows() if row["key"] == "end" and row.get("outcome") == "done"}

    def put(self, step: str, key: str, **found: Any) -> None:
        """Adds a row."""
        row = {"step": step, "key": key, "unix": round(time.time(), 1), **found}
        with (self.folder / RESULTS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, default=str) + "\n")

    def known(self, step: str) -> set[str]:
        """Keys of a step that have a row."""
        return {row["key"] for row in self.rows() if row["step"] == step}

    def failed(self, step: str, key: str) -> bool:
        """Whether a measurement has a row that tells of an error."""
        return any(row["step"] == step and row["key"] == key and "error" in row for row in self.rows())

    def begin(self, step: str, key: str) -> bool:
        """Notes that a measurement begins; False where it has a row, from now or from earlier."""
        if key in self.known(step):
            return False
        with (self.folder / BEGUN).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "key": key}) + "\n")
        return True

    def forget_begun(self) -> None:
        """Measurements that were begun before do not count as lost: those that were have their rows."""
        (self.folder / BEGUN).unlink(missing_ok=True)

    def gpus_lost(self, step: str) -> int:
        """How many processes of a step said that they lost their GPU."""
        return sum(row["step"] == step and row.get("lost", False) for row in self.rows())

    def lost(self, step: str) -> list[str]:
        """Keys that were begun and have no row: what their process did not survive."""
        file = self.folder / BEGUN
        begun = [row["key"] for row in _rows(file) if row["step"] == step] if file.exists() else []
        known = self.known(step)
        return [key for key in dict.fromkeys(begun) if key not in known]
