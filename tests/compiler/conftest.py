"""What tests of the compiler share."""

from __future__ import annotations

from pathlib import Path

import pytest

import convc.targets.tuned as tables


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables of the user are."""
    monkeypatch.setattr(tables, "user_directory", lambda: tmp_path)
    return tmp_path
