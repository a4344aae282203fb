"""Measured tiles: which schedule of a problem was the fastest on a GPU.

A table is a JSON file of one GPU, in the folder that this module lies in (what ships with convc) or in the user's cache
(what ``convc tune`` measured). Its entries hold only for the versions of Triton and of convc's kernel texts that they
were measured with; tables of others are left alone.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from ...ir.plan import Tile
from ..device import Target

LOG = logging.getLogger("convc")
PACKAGED = Path(__file__).parent
FORMAT = 1
SCHEDULE = tuple(name for name in Tile.__dataclass_fields__ if name not in ("reason", "predicted_us"))
"""The fields of a tile that make it another kernel."""


class Entry(msgspec.Struct, frozen=True):
    """The fastest schedule of one problem.

    tile: its `SCHEDULE`. microseconds: the median of its times. first_microseconds: that of the cost model's first
    choice. candidates: how many schedules were timed.
    """

    tile: dict[str, int | str]
    microseconds: float
    first_microseconds: float
    candidates: int


class Table(msgspec.Struct, frozen=True):
    """What was measured on one GPU. entries: digest of the problem (`convc.ir.digest`) → its schedule.

    triton, templates: the version of Triton, and the hash of the modules and templates that write kernels.
    """

    target: str
    gpu: str
    triton: str
    templates: str
    entries: dict[str, Entry] = {}
    format: int = FORMAT

    def is_of(self, triton: str | None, templates: str) -> bool:
        """Whether it was measured with these versions."""
        return (self.triton, self.templates) == (triton, templates)

    @property
    def file_name(self) -> str:
        words = re.sub(r"[^a-z0-9]+", "-", self.gpu.lower()).strip("-")
        return f"{self.target}-{words}.json"


@dataclass(frozen=True)
class Measured:
    """What is known of the tiles of a target: entries by digest, and the GPU that they were measured on."""

    gpu: str = ""
    entries: Mapping[str, Entry] = field(default_factory=dict)

    def best(self, digest: str, candidates: Iterable[Tile]) -> Tile | None:
        """The measured one among these; None where nothing was measured, or it is not among them any more."""
        entry = self.entries.get(digest)
        if entry is None:
            return None
        found = next((tile for tile in candidates if schedule_of(tile) == entry.tile), None)
        return found and replace(found, reason=self._reason(found, entry))

    def _reason(self, tile: Tile, entry: Entry) -> str:
        split = f", the reduction split {tile.split_k} ways" if tile.split_k > 1 else ""
        text = f"{tile.rows}x{tile.cols}x{tile.depth}{split}: measured {entry.microseconds:.1f} us on {self.gpu}"
        return f"{text}, the fastest of {entry.candidates}; predicted {tile.predicted_us:.1f} us"


def schedule_of(tile: Tile) -> dict[str, int | str]:
    """A tile as a table holds it."""
    return {name: getattr(tile, name) for name in SCHEDULE}


def user_directory() -> Path:
    """The folder of the user's own tables: ``tuned`` in ``$CONVC_CACHE_DIR``, or in the user's cache directory."""
    import platformdirs

    given = os.environ.get("CONVC_CACHE_DIR")
    return Path(given or platformdirs.user_cache_dir("convc")) / "tuned"


def read_table(path: Path) -> Table | None:
    """A table; None, with a word in the log, for a file that is none."""
    try:
        table = msgspec.json.decode(path.read_bytes(), type=Table)
    except (OSError, msgspec.MsgspecError) as error:
        LOG.warning("left out the table of measured tiles %s: %s", path, getattr(error, "strerror", None) or error)
        return None
    return table if table.format == FORMAT else None


def tables_of(target: Target, directories: Iterable[Path] | None = None) -> list[Table]:
    """The tables of a target's GPUs, those of the first directory first."""
    if directories is None:
        directories = (user_directory(), PACKAGED)
    paths = [path for folder in directories for path in _files(folder, f"{target.name}-*.json")]
    return [table for path in paths if (table := read_table(path)) is not None and table.target == target.name]


def _files(folder: Path, pattern: str) -> list[Path]:
    """Those of a folder, in order; none of one that may not be entered."""
    try:
        return sorted(folder.glob(pattern))
    except OSError as error:
        LOG.warning("left out the tables of measured tiles in %s: %s", folder, error.strerror or error)
        return []


def measured_of(target: Target, tables: Iterable[Table], triton: str, templates: str) -> Measured | None:
    """The tiles that were measured for a target, None where there are none: those of the GPU that the target describes,
    else those of the first one in the alphabet. Where two tables of that GPU know a problem, the first one counts."""
    valid = [table for table in tables if table.is_of(triton, templates)]
    if not valid:
        return None
    gpu = min((table.gpu for table in valid), key=lambda name: (target.device not in name, name))
    entries: dict[str, Entry] = {}
    for table in reversed([table for table in valid if table.gpu == gpu]):
        entries |= table.entries
    return Measured(gpu, entries)
