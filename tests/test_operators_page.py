"""`docs/operators.md` is what its script writes now."""

from __future__ import annotations

from operators_page import DOCS, script

from convc.frontends.onnx.registry import ADAPTERS
from convc.ir import Kind, operators


def test_page_is_current() -> None:
    page = script().page()
    written = (DOCS / "operators.md").read_text(encoding="utf-8")
    assert page == written, "make operators writes it again"
    rows = {line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")}
    graph = {name for name, operator in operators().items() if operator.kind is not Kind.STRUCTURAL}
    assert rows >= set(ADAPTERS) | graph
