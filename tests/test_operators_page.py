"""`docs/operators.md` is what its script writes now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from convc.frontends.onnx.registry import ADAPTERS
from convc.ir import Kind, operators

DOCS = Path(__file__).parents[1] / "docs"


def test_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("operators_page", DOCS / "operators.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.page()
    written = (DOCS / "operators.md").read_text(encoding="utf-8")
    assert page == written, "make operators writes it again"
    rows = {line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")}
    graph = {name for name, operator in operators().items() if operator.kind is not Kind.STRUCTURAL}
    assert rows >= set(ADAPTERS) | graph
