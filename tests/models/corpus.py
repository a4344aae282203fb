"""Exported models kept beside the repository: skeletons that are filled with seeded weights, and trained ones."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import onnx
import pytest

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "models"

needs_corpus = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the corpus of exported models is not beside the repository"
)


@cache
def _materialize() -> ModuleType:
    spec = importlib.util.spec_from_file_location("materialize", FOLDER / "materialize.py")
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


def filled(name: str) -> onnx.ModelProto:
    """A model with its weights drawn."""
    module = _materialize()
    return module.fill(module.load(str(FOLDER / "skeletons" / f"{name}.onnx.gz")))
