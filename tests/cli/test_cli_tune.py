"""``convc tune``: what it compiles, keeps and says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cli_support import Run

import convc.analysis.tune as tuning
from convc.analysis.tune import Tuned
from convc.program import Plan

MODEL = "zoo:lenet5"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second candidate is twice as fast as the first; nothing is run."""

    def measure(plan: Plan, problems: Sequence[Tuned], *_: Any) -> str:
        for tuned in problems:
            for number, candidate in enumerate(tuned.candidates):
                candidate.times = [8.0 / (number + 1)] * 3
        return plan.programs[0].target.device

    monkeypatch.setattr(tuning, "measure", measure)


def test_prepare(run: Run) -> None:
    """Without a GPU: the candidates are compiled, and no table is written."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    report = run("tune", MODEL, "--prepare", "--candidates", 2, "--json").json
    assert report["target"] == "sm_90" and report["gpu"] is report["table"] is None
    assert report["kernels"] == 2 * len(report["problems"]) > 0
    for problem in report["problems"]:
        assert len(problem["candidates"]) == 2 and all(c["microseconds"] is None for c in problem["candidates"])
    said = run("tune", MODEL, "--prepare", "--candidates", 2).out
    assert said.startswith(f"{report['kernels']} kernels of {len(report['problems'])} problems for sm_90 are compiled")


@pytest.mark.usefixtures("timed")
def test_the_winners_are_kept_and_used(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--device", "interpreter", "--candidates", 2, "--tables", tmp_path)
    report = run("tune", MODEL, *options, "--json").json
    (path,) = tmp_path.iterdir()
    assert report["table"] == str(path) and report["gpu"] == "Triton's interpreter"
    table = json.loads(path.read_text())
    assert table["entries"].keys() == {problem["digest"] for problem in report["problems"]}
    for problem in report["problems"]:
        entry = table["entries"][problem["digest"]]
        assert problem["chosen"] == 1 and entry["tile"] == problem["candidates"][1]["tile"]
        assert (entry["microseconds"], entry["first_microseconds"], entry["candidates"]) == (4.0, 8.0, 2)
    monkeypatch.setattr("convc.targets.tuned.user_directory", lambda: tmp_path)
    reasons = [_reasons(run, tmp_path, *which) for which in ((), ("--no-tuned",))]
    assert "measured 4.0 us on Triton's interpreter" in reasons[0] and "measured" not in reasons[1]


def _reasons(run: Run, folder: Path, *options: str) -> str:
    import convc

    file = folder / "m.convc"
    apart = "last-block,sibling-convolutions"
    done = run("compile", MODEL, "-o", file, "--target", "interpreter", "--disable", apart, *options)
    assert done.status == 0, done.err
    return " ".join(launch.tile for launch in convc.load(file).plan.launches)


@pytest.mark.usefixtures("timed")
def test_times_of_the_interpreter_are_not_the_user_s(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes into the user's folder that no GPU measured."""
    monkeypatch.setattr(tuning, "user_directory", lambda: tmp_path)
    options = ("--device", "interpreter", "--candidates", 2)
    report = run("tune", MODEL, *options, "--json").json
    assert report["problems"] and report["gpu"] and report["table"] is None
    assert "Triton's interpreter: not kept" in run("tune", MODEL, *options).out
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_without_a_gpu_nothing_is_measured(run: Run, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convc.api.present_target", lambda ordinal=0: "interpreter")
    done = run("tune", MODEL, "--device", device)
    assert done.status == 2 and "nothing to measure; --prepare" in done.err and done.err.count("\n") == 1


@pytest.mark.usefixtures("timed")
def test_what_is_known_is_not_measured_again(run: Run, tmp_path: Path) -> None:
    options = ("--device", "interpreter", "--candidates", 2, "--tables", tmp_path)
    first = run("tune", MODEL, *options, "--json").json
    second = run("tune", MODEL, *options, "--json").json
    assert second["problems"] == [] and second["known"] == len(first["problems"]) and second["table"] is None
    assert "nothing to measure" in run("tune", MODEL, *options).out
    assert run("tune", "zoo:perceptron", *options, "--prepare", "--target", "interpreter", "--json").json["known"] == 0
    again = run("tune", MODEL, *options, "--again").out
    assert "2.00x" in again and "say nothing about a GPU" in again


@pytest.mark.usefixtures("timed")
def test_doctor_tells_of_tables(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("tune", MODEL, "--device", "interpreter", "--candidates", 2, "--tables", tmp_path)
    monkeypatch.setattr("convc.targets.tuned.user_directory", lambda: tmp_path)
    (found,) = run("doctor", "--json").json["tuned"]
    (path,) = tmp_path.iterdir()
    assert found == {
        "target": "interpreter",
        "gpu": "Triton's interpreter",
        "problems": found["problems"],
        "used": True,
    }
    assert f"on Triton's interpreter: {found['problems']} problems\n" in run("doctor").out
    path.write_text(path.read_text().replace('"templates": "', '"templates": "0'))
    assert "not used" in run("doctor").out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "numpy"), "only be timed on a GPU"),
        (("--device", "interpreter", "--target", "sm_90"), "cannot be measured on 'interpreter'"),
        (("--prepare", "--target", "sm_80,sm_90"), "one target, found sm_80, sm_90"),
        (("--device", "interpreter", "--candidates", "1"), "candidates"),
        (("--prepare", "--target", "sm_1"), "unknown target"),
    ],
)
def test_what_cannot_be_tuned(run: Run, options: tuple[str, ...], words: str) -> None:
    done = run("tune", MODEL, *options)
    assert done.status == 2 and words in done.err


def test_a_compiled_network(run: Run, artifact: Path) -> None:
    assert run("tune", artifact).status == 2


def test_a_network_without_a_choice(run: Run, relu: Path) -> None:
    assert "nothing to measure" in run("tune", relu, "--device", "interpreter").out
