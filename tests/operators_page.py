"""The script that writes the page of operators, for its text and its samples of every operator."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"


@cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("operators_page_script", DOCS / "operators.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
