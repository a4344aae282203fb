"""The GPU suite without a GPU: on the fake driver, with tiny networks and results that are put in place."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
for place in (ROOT / "tests" / "runtime", ROOT / "tests", ROOT):
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))

from bench.gpu.journal import Journal  # noqa: E402
from bench.gpu.setting import Setting  # noqa: E402
from bench.gpu.timing import SHORT  # noqa: E402
from convc.codegen.cache import default_directory  # noqa: E402


@pytest.fixture(autouse=True)
def _same_cache_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack becomes the cache of the process that uses it."""
    monkeypatch.setenv("CONVC_CACHE_DIR", os.environ.get("CONVC_CACHE_DIR") or str(default_directory()))


@pytest.fixture
def setting(tmp_path: Path) -> Callable[..., Setting]:
    """A setting for a step, without a pack: kernels are compiled here."""

    def make(step: str, **options: Any) -> Setting:
        journal = options.pop("journal", None) or Journal(tmp_path / "out")
        return Setting(step, journal, tmp_path / "scratch", effort=SHORT, wait_s=0.0, **options)

    return make


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The driver that everything in this process opens."""
    from fake_driver import FakeDriver

    driver = FakeDriver(memory=8 << 30)
    monkeypatch.setattr("convc.runtime.driver.bindings", lambda: driver)
    return driver
