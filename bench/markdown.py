"""Tables in Markdown, and the parts of a page that programs write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; a column whose name ends in ``>`` is set to the right."""
    sides = ["---:" if column.endswith(">") else "---" for column in columns]
    head = [column.removesuffix(">") for column in columns]
    return [f"| {' | '.join(map(str, cells))} |" for cells in (head, sides, *rows)]


def marks(part: str) -> tuple[str, str]:
    """What stands in front of a part of a page, and behind it."""
    return f"<!-- {part}:begin -->", f"<!-- {part}:end -->"


def write_part(page: Path, part: str, text: str) -> None:
    """Puts a text between the marks of a part."""
    begin, end = marks(part)
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    _, after = rest.split(end, 1)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
