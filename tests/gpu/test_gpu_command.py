"""The commands as `make` calls them, each in processes of its own, on the fake driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = [ROOT, ROOT / "tests" / "gpu" / "fake_site", ROOT / "tests" / "runtime"]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PLACES))}
    words = [sys.executable, "-m", "bench.gpu", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=600)


@pytest.fixture
def places(tmp_path: Path) -> list[object]:
    return ["--out", tmp_path / "out", "--scratch", tmp_path / "scratch", "--pack", tmp_path / "none"]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_part_runs_and_is_not_run_again(places, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="the probes are compiled with Triton")
    done = command("run", "--parts", "facts", *places)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "out" / "log.txt").read_text()
    found = {row["key"]: row for row in rows(tmp_path / "out")}
    assert found["end"]["outcome"] == "done" and found["device"]["name"] == "Fake GPU"
    assert "## Facts" in done.stdout and "| gap |" in done.stdout, "the report so far comes last"
    before = rows(tmp_path / "out")
    again = command("run", "--parts", "facts", *places)
    assert again.returncode == 0 and "there already" in again.stdout and rows(tmp_path / "out") == before


def test_results_of_another_folder_count(places, tmp_path: Path) -> None:
    from bench.gpu.journal import Journal

    Journal(tmp_path / "earlier").put("facts", "end", outcome="done")
    done = command("run", "--parts", "facts", "--from", tmp_path / "earlier", *places)
    assert done.returncode == 0 and "facts: there already" in done.stdout


def test_a_part_that_does_not_exist(places) -> None:
    done = command("run", "--parts", "speed:resnet5", *places)
    assert (
        done.returncode == 2
        and "no step is called speed:resnet5" in done.stderr
        and "speed:resnet50:fp16" in done.stderr
    )


def test_a_budget_that_is_too_small(places, tmp_path: Path) -> None:
    done = command("run", "--parts", "facts,questions", "--budget", "5", *places)
    assert done.returncode == 4
    assert [row["outcome"] for row in rows(tmp_path / "out")] == ["no time left"] * 2


def test_every_step_is_in_a_call_and_can_be_named() -> None:
    from bench.gpu.steps import CALLS, KINDS, all_steps, cases_networks

    steps = all_steps()
    assert len({step.name for step in steps}) == len(steps)
    assert {step.call for step in steps} == set(CALLS) and {step.name.split(":")[0] for step in steps} == set(KINDS)
    assert cases_networks([step for step in steps if step.call == "B"]) == [
        "resnet18",
        "vgg16",
        "densenet121",
        "resnet50",
    ]


def test_wheels_come_before_what_is_installed(tmp_path: Path) -> None:
    """A package that only the pack has is found by the step's process; nothing is installed."""
    import zipfile

    pack = tmp_path / "pack"
    (pack / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(pack / "wheels" / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "VALUE = 41\n")
    code = (
        "import os, subprocess, sys; from pathlib import Path; from bench.gpu.__main__ import add_paths; "
        f"add_paths(Path({str(pack)!r}), Path({str(tmp_path / 'scratch')!r})); import carried; "
        "subprocess.run([sys.executable, '-c', 'import carried; print(carried.VALUE + 1)'], check=True)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert done.stdout == "42\n", done.stderr
