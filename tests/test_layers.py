"""Rooms and floors: which part of convc may import which, by the syntax trees of all modules.

Imports inside functions and under ``TYPE_CHECKING`` count too. ``errors``, ``version`` and ``workers`` are open to all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "convc"
MODULES = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in ROOT.rglob("*.py")}

CORE = {"numpy", "ml_dtypes"}
STAGES = {"ir", "frontends", "targets", "passes", "codegen", "program", "planner", "compiler", "runtime"}
BELOW_API = STAGES | {"specialise", "loading"}
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    # room: (rooms of convc that it may import, packages that it may import)
    "errors": (set(), set()),
    "version": (set(), set()),
    "workers": (set(), {"msgspec"}),
    "ir": (set(), CORE | {"networkx"}),
    "frontends": ({"ir"}, CORE | {"networkx", "onnx", "google"}),  # google.protobuf is what onnx stands on
    "targets": ({"ir"}, CORE),
    "passes": ({"ir", "targets"}, CORE | {"networkx"}),
    "codegen": ({"ir", "targets"}, CORE | {"jinja2", "msgspec", "platformdirs"}),
    "runtime": (set(), CORE | {"msgspec", "safetensors"}),
    "program": ({"ir", "targets", "passes", "codegen"}, CORE),
    "planner": ({"ir", "targets", "passes", "codegen", "program"}, CORE),
    "packing": ({"ir", "passes", "runtime", "program"}, CORE),
    "compiler": ({"ir", "targets", "passes", "codegen", "runtime", "program", "planner", "packing"}, CORE),
    "specialise": ({"ir", "passes", "runtime", "program", "planner", "compiler", "frontends"}, {"onnx"}),
    "loading": ({"runtime", "specialise"}, set()),
    "api": (BELOW_API, CORE | {"onnx"}),
    "analysis": (BELOW_API | {"api"}, CORE | {"networkx", "onnx", "jinja2", "rich"}),
    "console": ({"analysis"}, {"click", "rich"}),
}
EVERYTHING = {*ROOMS, "convc", "cli", "backend"}
EXCEPTIONS: dict[str, tuple[set[str], set[str]]] = {
    "convc.codegen.worker": (set(), {"triton"}),
    "convc.runtime.interpreter_worker": (set(), {"triton"}),
    "convc.runtime.driver": (set(), {"cuda"}),
    "convc.runtime.numpy_executor": ({"ir"}, set()),
    "convc.runtime.host": ({"ir"}, set()),  # imported where a program has steps of the host
    "convc.runtime.weights": (set(), {"typing_extensions"}),  # for the type checker only
    "convc.analysis.verify": (set(), {"onnxruntime"}),
    "convc.analysis.charts": (set(), {"matplotlib"}),
    "convc.analysis.tune": (set(), {"msgspec"}),  # writes the tables
    "convc.targets.tuned.__init__": (set(), {"msgspec", "platformdirs"}),  # reads the tables, which are files
}
ROOF = {"convc", "convc.__init__", "convc.cli", "convc.__main__", "convc.backend"}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def is_import(call: ast.Call) -> bool:
    """Whether a call imports a module by a name that is written out."""
    names = ("importlib.import_module", "__import__")
    return ast.unparse(call.func) in names and bool(call.args) and isinstance(call.args[0], ast.Constant)


def imported(module: str, path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, wherever the import stands."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    package = package.removesuffix(".__init__")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            whole = [f"{name}.{alias.name}" for alias in node.names]
            yield from ((node.lineno, w if w in MODULES or f"{w}.__init__" in MODULES else name) for w in whole)
        elif isinstance(node, ast.Call) and is_import(node):
            yield node.lineno, str(ast.literal_eval(node.args[0]))


def allowed(module: str) -> tuple[set[str], set[str]]:
    rooms, packages = ROOMS[room(module)]
    more_rooms, more_packages = EXCEPTIONS.get(module, (set(), set()))
    return {room(module), "errors", "version", "workers"} | rooms | more_rooms, packages | more_packages


def violations(module: str, path: Path) -> list[str]:
    import sys

    rooms, packages = allowed(module)
    found = []
    for line, name in imported(module, path):
        top = name.split(".")[0]
        bad = room(name) not in rooms if top == "convc" else top not in packages and top not in sys.stdlib_module_names
        if bad:
            found.append(f"{path.name}:{line} imports {name}")
    return found


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name not in ROOF))
def test_no_import_runs_upward(module: str) -> None:
    assert room(module) in ROOMS, f"{module} belongs to no room; give it one in this table and in the architecture"
    assert violations(module, MODULES[module]) == []


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(ROOMS):
        ready = [name for name, (below, _) in ROOMS.items() if name not in order and below <= set(order)]
        assert ready, "rooms that import each other"
        order += ready


def test_a_violation_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("def f():\n    from ..codegen import emit\n    import torch\n    from .. import passes\n")
    found = violations("convc.ir.bad", path)
    assert len(found) == 3 and "convc.codegen" in found[0] and "torch" in found[1] and "convc.passes" in found[2]
