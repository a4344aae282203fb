"""What the tests of compiled kernels share."""

from __future__ import annotations

from pathlib import Path

import pytest

import convc.targets.tuned as tables
from convc.codegen.cache import KernelCache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    """Kernels compiled by the tests of one module."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    return KernelCache(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables of the user are."""
    monkeypatch.setattr(tables, "user_directory", lambda: tmp_path)
    return tmp_path
