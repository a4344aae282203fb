"""What runs on the host, as the commands tell of it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from cli_support import Run, save_model
from onnx import helper

import convc

NODES = [
    helper.make_node("Relu", ["x"], ["r"], name="first"),
    helper.make_node("Det", ["r"], ["d"], name="determinant"),
    helper.make_node("Relu", ["r"], ["s"], name="second"),
    helper.make_node("MatMul", ["s", "s"], ["m"], name="product"),
    helper.make_node("Mul", ["m", "d"], ["y"], name="scaled"),
]
WHY = "Det: no kernel for it"
INTERPRETED = ("--target", "interpreter", "--json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "det.onnx", NODES, [4, 4])


def test_compile_lists_steps(run: Run, model: Path, tmp_path: Path) -> None:
    ran = run("compile", model, "-o", tmp_path / "d.convc", *INTERPRETED)
    assert ran.status == 0, ran.err
    (step,) = ran.json["host_steps"]
    assert (step["behind_launches"], step["origins"], step["reasons"]) == (1, ["determinant"], [WHY])
    assert step["copied_bytes"] == 16 * 2 + 2 and step["predicted_us"] > 0
    assert ran.json["predicted_us"] > step["predicted_us"]
    shown = run("compile", model, "-o", tmp_path / "d.convc", "--target", "interpreter").out
    assert "on the host, in NumPy" in shown and WHY in shown and "not what NumPy takes" in shown
    plain = run("compile", "zoo:lenet5", "-o", tmp_path / "l.convc", "--target", "interpreter")
    assert "NumPy" not in plain.out and not plain.err


def test_a_warning_tells_whoever_runs_it(run: Run, model: Path, tmp_path: Path) -> None:
    path = tmp_path / "d.convc"
    convc.compile(str(model), target="interpreter").save(path)
    for command in (("run", path), ("run", model), ("kernels", path), ("kernels", model, *INTERPRETED[:2])):
        device = ("--device", "interpreter") if command[0] == "run" else ()
        ran = run(*command, *device, "--json")
        assert ran.status == 0 and f"determinant on the host, in NumPy ({WHY})" in ran.err, ran.err
        json.loads(ran.out)
    assert not run("run", model, "--device", "numpy").err


def test_from_python(model: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("convc"), "propagate", True)
    network = convc.compile(str(model), target="interpreter")
    assert {record.levelname for record in caplog.records} == {"WARNING"} and WHY in caplog.text
    assert f"behind 1 launches: determinant on the host, in NumPy ({WHY})" in network.report()


def test_explain_says_where_and_why(run: Run, model: Path) -> None:
    edges = {(edge["source"], edge["target"]): edge for edge in run("explain", model, *INTERPRETED).json["edges"]}
    read, made = edges["first", "determinant"], edges["determinant", "scaled"]
    assert (read["reason"], made["reason"]) == (
        f"the host reads it, in NumPy: {WHY}",
        f"the host makes it, in NumPy: {WHY}",
    )
    assert not read["fused"] and not made["fused"]


def test_pictures_show_the_host(run: Run, model: Path, tmp_path: Path) -> None:
    compiled = tmp_path / "d.convc"
    assert run("compile", model, "-o", compiled, "--target", "interpreter").status == 0
    for source in (model, compiled):
        page = tmp_path / f"{Path(source).suffix[1:]}.html"
        target = ("--target", "interpreter") if source == model else ()
        assert run("show", source, *target, "-o", page).status == 0
        text = page.read_text()
        assert "on the host" in text and WHY in text


@pytest.mark.parametrize("command", ["verify", "bisect"])
def test_they_are_verified(run: Run, model: Path, command: str) -> None:
    pytest.importorskip("onnxruntime", reason="verify compares with ONNX Runtime")
    ran = run(command, model, "--device", "interpreter", "--json", *(["--per-kernel"] if command == "verify" else []))
    assert ran.status == 0 and ran.json["ok"], ran.err


def test_they_can_be_refused(run: Run, model: Path, tmp_path: Path) -> None:
    ran = run("compile", model, "-o", tmp_path / "d.convc", "--disable", "host-steps")
    assert ran.status == 2 and f"{WHY} (node 'determinant')" in ran.err and len(ran.err.splitlines()) == 1
