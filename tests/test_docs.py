"""README and docs: what they show runs, their links lead somewhere, their tables say what the code says."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"(?:<!-- (?P<mark>\w+) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block. mark: the comment in front of it (``runnable``, ``prints``), or empty."""

    mark: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["mark"] or "", match["language"], match["text"]) for match in found]


def pages_with(mark: str) -> list[Path]:
    return [page for page in PAGES if any(block.mark == mark for block in blocks(page))]


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@pytest.mark.parametrize("page", names(pages_with("runnable")))
def test_snippets_run_and_print_what_the_page_says(
    page: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, interpreters: None
) -> None:
    """The snippets of a page run one after the other in one namespace, in the repository's root."""
    pytest.importorskip("onnxruntime", reason="snippets verify against ONNX Runtime")
    monkeypatch.chdir(ROOT)
    namespace: dict[str, object] = {"__name__": "snippet"}
    printed = ""
    for block in blocks(ROOT / page):
        if block.mark == "runnable":
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                exec(compile(block.text.replace("/tmp/", f"{tmp_path}/"), page, "exec"), namespace)
            printed = output.getvalue()
        elif block.mark == "prints":
            assert printed.split() == block.text.split(), page


def test_every_prints_block_follows_a_runnable_one() -> None:
    for page in PAGES:
        marks = ["", *(block.mark for block in blocks(page) if block.mark)]
        for before, mark in pairwise(marks):
            assert mark in ("runnable", "prints"), (page, mark)
            assert mark != "prints" or before == "runnable", page


@pytest.mark.parametrize("page", names(PAGES))
def test_links_lead_to_files(page: str) -> None:
    for match in LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
        target = match["target"].partition("#")[0]
        if target and "://" not in target:
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_every_page_is_in_the_index() -> None:
    index = {match["target"] for match in LINK.finditer((ROOT / "docs" / "index.md").read_text(encoding="utf-8"))}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"} <= index


def _table_rows(text: str) -> list[list[str]]:
    rows = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_dependencies_page_lists_what_pyproject_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {("", _package(line)) for line in project["dependencies"]}
    for extra, lines in project["optional-dependencies"].items():
        declared |= {(extra, _package(line)) for line in lines if _package(line) != "convc"}
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed = set()
    for row in _table_rows(text):
        if row[0] != "package" and not set(row[0]) <= {"-"}:
            listed.add((row[1] if len(row) == 3 else "", row[0]))
            assert row[-1], f"{row[0]} has no reason"
    assert listed == declared


def _package(requirement: str) -> str:
    name = re.match(r"[\w-]+", requirement)
    assert name is not None
    return name.group()


def test_every_rule_has_its_section() -> None:
    """docs/fusion-rules.md has one section for each rule of the code, with its equation and its level."""
    from convc.passes import RULES

    text = (ROOT / "docs" / "fusion-rules.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### `([\w-]+)`\n\n`(.+)`\s+·\s+from `--opt (\w+)`", text, re.MULTILINE)
    assert {name: (level, equation) for name, equation, level in sections} == {
        rule.name: (rule.level, rule.equation) for rule in RULES.values()
    }


@pytest.mark.parametrize(
    ("page", "model"), [("README.md", "examples/digits/digits.onnx"), ("docs/cli.md", "zoo:convnetjs_cifar10")]
)
def test_tables_of_compiled_networks_are_those_of_their_plans(page: str, model: str) -> None:
    """What the pages show of `convc compile`; plans alone, without measured tiles of this machine."""
    from convc.analysis.models import Choices, make_plan
    from convc.analysis.render import size

    (shown,) = (block.text for block in blocks(ROOT / page) if f"$ convc compile {model} -o" in block.text)
    path = model if model.startswith("zoo:") else str(ROOT / model)
    for program in make_plan(path, Choices(target="sm_90,sm_80", tuned=False), "sm_90", "fp16").programs:
        (row,) = re.findall(rf"^ {program.target.name} .*", shown, re.MULTILINE)
        moved = program.traffic.activations + program.traffic.weights
        bytes_of = (program.arena.nbytes, program.arena.lower_bound, moved)
        figures = (len(program.launches), len(program.kernels), *map(size, bytes_of), "0 B")
        assert (
            row.split() == f"{program.target.name} {' '.join(map(str, figures))} {program.predicted_us:.0f} us".split()
        )


def _command_lines() -> list[tuple[str, str]]:
    """(page, line) for each call of convc in a shell block; in a console block, lines behind a prompt."""
    found = []
    for page in PAGES:
        for block in blocks(page):
            prompt = {"sh": "convc ", "console": "$ convc "}.get(block.language)
            for line in block.text.replace("\\\n", " ").splitlines() if prompt else []:
                if line.startswith(prompt):
                    found.append((page.name, re.split(r" [|>] ?", line.removeprefix("$ "))[0]))
    return found


def test_commands_in_the_docs_exist() -> None:
    """Every command and option that a page writes in a shell block is one of the command line's."""
    import click

    from convc.cli import main

    lines = _command_lines()
    assert lines
    for page, line in lines:
        words = shlex.split(line, comments=True)[1:]
        command: click.Command = main
        while words and isinstance(command, click.Group) and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert command is not main or used, f"{page}: {line}"
        assert used <= options, f"{page}: {line}"
