"""Exported models kept beside the repository: skeletons that are filled with seeded weights, and trained ones."""

from __future__ import annotations

import csv
import importlib.util
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import onnx
import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "models"

needs_corpus = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the corpus of exported models is not beside the repository"
)

REFUSABLE = ("qop",)
"""Variants in another vendor's operators, which may be refused."""


@dataclass(frozen=True)
class Entry:
    """A file of the corpus: its network, how it was exported, and its inputs' sizes, names where they are open."""

    network: str
    variant: str
    inputs: tuple[tuple[str, ...], ...]
    macs: int

    @property
    def name(self) -> str:
        return f"{self.network}.{self.variant}"

    @property
    def is_static(self) -> bool:
        return all(size.isdigit() for shape in self.inputs for size in shape)

    def fits(self, other: Entry) -> bool:
        """Whether the inputs agree wherever both have numbers."""
        if [len(shape) for shape in self.inputs] != [len(shape) for shape in other.inputs]:
            return False
        pairs = ((a, b) for mine, its in zip(self.inputs, other.inputs, strict=True) for a, b in zip(mine, its))  # noqa: B905
        return all(a == b or not (a.isdigit() and b.isdigit()) for a, b in pairs)


@cache
def _materialize(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("materialize", folder / "materialize.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def first() -> dict[str, bool]:
    """Names of the first list → whether the interpreter must run it too."""
    if not FOLDER.is_dir():
        return {}
    lines = [line.split() for line in (FOLDER / "FIRST.txt").read_text().splitlines()]
    return {parts[0]: "interp" in parts[1:] for parts in lines if parts and not parts[0].startswith("#")}


@cache
def index(folder: Path = FOLDER) -> dict[str, Entry]:
    """All files by name, in the index's order."""
    with (folder / "INDEX.csv").open(newline="") as file:
        entries = [_entry(row) for row in csv.DictReader(file)]
    return {entry.name: entry for entry in entries}


def _entry(row: dict[str, str]) -> Entry:
    shapes = re.findall(r"\[([^\]]*)\]", row["inputs"])
    sizes = tuple(tuple(shape.split(",")) if shape else () for shape in shapes)
    return Entry(row["name"], row["variant"], sizes, int(float(row["macs_b1"] or 0)))


def open_sizes(entry: Entry, entries: Sequence[Entry], batch: int) -> dict[str, int]:
    """Numbers for the open sizes of a file's inputs: the batch, and for heights, widths and lengths what a static file
    of the same network has there."""
    found = {shape[0]: batch for shape in entry.inputs if shape and not shape[0].isdigit()}
    static = next((e for e in entries if e.network == entry.network and e.is_static and e.fits(entry)), None)
    for shape, sizes in zip(entry.inputs, static.inputs if static else (), strict=False):
        found |= {
            name: int(size) for name, size in zip(shape, sizes, strict=True) if not name.isdigit() and name not in found
        }
    return found


def interpreted(entries: Sequence[Entry]) -> frozenset[str]:
    """The file of each network that the interpreter runs, the exporters taking turns from one network to the next."""
    variants: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.variant not in REFUSABLE:
            variants.setdefault(entry.network, []).append(entry)
    return frozenset(found[zlib.crc32(network.encode()) % len(found)].name for network, found in variants.items())


def filled(name: str, folder: Path = FOLDER) -> onnx.ModelProto:
    """A model with its weights drawn."""
    module = _materialize(folder)
    return module.fill(module.load(str(folder / "skeletons" / f"{name}.onnx.gz")))
