"""`docs/operators.md` is what its script writes now."""

from __future__ import annotations

from operators_page import DOCS, script

from convc.frontends.onnx.control import CONTROL
from convc.frontends.onnx.registry import ADAPTERS
from convc.ir import Kind, operators


def test_page_is_current() -> None:
    page = script().page()
    written = (DOCS / "operators.md").read_text(encoding="utf-8")
    assert page == written, "make operators writes it again"
    read = {*ADAPTERS, *CONTROL, *script().expanded()}
    assert f"[{len(read)} operators](docs/operators.md)" in (DOCS.parent / "README.md").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| ") for line in page.splitlines() if line.startswith("| ")}
    graph = {name for name, operator in operators().items() if operator.kind is not Kind.STRUCTURAL}
    assert rows >= {*ADAPTERS, *CONTROL} | graph
