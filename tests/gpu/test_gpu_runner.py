"""Steps that crash, hang or run out of time: what they did is kept, the rest goes on, later runs go on behind it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

import bench.gpu.runner as module
from bench.gpu.journal import BEGUN, RESULTS, Journal
from bench.gpu.runner import Runner, Step

SCRIPT = """
import os, sys, time
from pathlib import Path
from bench.gpu.journal import Journal
journal = Journal(Path(sys.argv[1]))
step = sys.argv[2]
if step == "broken":
    print("there is no GPU", file=sys.stderr)
    sys.exit(3)
for key in ("a", "b", "c"):
    if not journal.begin(step, key):
        continue
    if (step, key) == ("crashes", "b"):
        os.kill(os.getpid(), 11)
    if (step, key) == ("hangs", "b"):
        time.sleep(600)
    if step == "stuck":
        time.sleep(600)
    if step == "raises":
        raise RuntimeError("no such thing")
    if (step, key) == ("loses", "b"):
        journal.put(step, key, error="illegal address", lost=True)
        sys.exit(1)
    journal.put(step, key, value=1)
if step == "leaves":
    import subprocess
    child = subprocess.Popen(["sleep", "600"])
    Path(sys.argv[1], "child").write_text(str(child.pid))
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    script = tmp_path / "step.py"
    script.write_text(SCRIPT)

    def make(budget_s: float = 60.0, out: str = "out", earlier: tuple[str, ...] = ()) -> Runner:
        journal = Journal(tmp_path / out, [tmp_path / name for name in earlier])
        return Runner(journal, [sys.executable, str(script), str(tmp_path / out)], budget_s)

    return make


def found(runner: Runner, step: str) -> dict[str, dict]:
    return {row["key"]: row for row in runner.journal.rows() if row["step"] == step}


def test_a_step_that_works(runner):
    one = runner()
    assert one.run([Step("works", 20, "A")])
    rows = found(one, "works")
    assert rows.keys() == {"a", "b", "c", "end"} and rows["end"]["outcome"] == "done"


def test_a_crash_loses_one_measurement_and_no_step(runner):
    one = runner()
    assert one.run([Step("crashes", 20, "A"), Step("works", 20, "A")])
    rows = found(one, "crashes")
    assert "did not survive: exit status -11" in rows["b"]["error"]
    assert rows["a"]["value"] == rows["c"]["value"] == 1 and rows["end"]["outcome"] == "done"
    assert found(one, "works")["end"]["outcome"] == "done"


def test_a_hang_ends_at_its_limit_and_the_rest_goes_on(runner, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 10)  # a machine that is busy takes long to start a process
    one = runner()
    assert one.run([Step("hangs", 4, "A"), Step("works", 20, "A")])
    rows = found(one, "hangs")
    assert "time limit of 4 s" in rows["b"]["error"] and rows["c"]["value"] == 1


def test_a_step_that_always_hangs_gets_half_as_much_again(runner, monkeypatch):
    one, limits = runner(), []
    process = one._process
    monkeypatch.setattr(one, "_process", lambda step, limit_s: limits.append(limit_s) or process(step, limit_s))
    assert not one.run([Step("stuck", 2, "A")])
    assert limits[0] == 2 and sum(limits) <= 2 * module.PATIENCE
    assert found(one, "stuck")["end"]["outcome"].startswith("time limit")


def test_every_measurement_may_fail(runner):
    one = runner()
    assert one.run([Step("raises", 20, "A")])
    assert all("exit status 1" in found(one, "raises")[key]["error"] for key in "abc")
    assert "no such thing" in one.log.read_text()


def test_a_lost_gpu_ends_the_process_and_not_the_step(runner):
    one = runner()
    assert one.run([Step("loses", 20, "A")])
    rows = found(one, "loses")
    assert rows["b"]["lost"] and rows["c"]["value"] == 1 and rows["end"]["outcome"] == "done"


def test_a_step_that_does_not_begin_is_given_up(runner, capsys):
    one = runner()
    assert not one.run([Step("broken", 20, "A"), Step("works", 20, "A")])
    assert found(one, "broken").keys() == {"end"} and found(one, "broken")["end"]["outcome"] == "exit status 3"
    assert found(one, "broken")["end"]["said"] == "there is no GPU" and "there is no GPU" in capsys.readouterr().out
    assert found(one, "works")["end"]["outcome"] == "done"


def test_a_later_run_skips_what_is_done(runner):
    runner().run([Step("works", 20, "A"), Step("crashes", 20, "A")])
    before = runner().journal.rows()
    assert runner().run([Step("works", 20, "A"), Step("crashes", 20, "A")])
    assert runner().journal.rows() == before


def test_a_later_run_goes_on_from_another_folder(runner, tmp_path):
    runner(out="first").run([Step("works", 20, "A")])
    second = runner(out="second", earlier=("first",))
    assert second.run([Step("works", 20, "A"), Step("crashes", 20, "A")])
    assert not [row for row in Journal(tmp_path / "second").rows() if row["step"] == "works"]


def test_an_interrupted_step_goes_on_behind_its_last_row(runner, tmp_path):
    journal = Journal(tmp_path / "out")
    journal.put("works", "a", value="from before")
    with (tmp_path / "out" / RESULTS).open("a") as stream:
        stream.write('{"step": "works", "key": "b", "val')  # cut off
    (tmp_path / "out" / RESULTS).write_text((tmp_path / "out" / RESULTS).read_text() + "\n")
    one = runner()
    assert one.run([Step("works", 20, "A")])
    assert found(one, "works")["a"]["value"] == "from before" and found(one, "works")["b"]["value"] == 1


def test_without_time_nothing_is_begun(runner):
    one = runner(budget_s=8)
    assert not one.run([Step("works", 20, "A")])
    assert found(one, "works") == {"end": found(one, "works")["end"]}
    assert found(one, "works")["end"]["outcome"] == "no time left"
    assert not (one.journal.folder / BEGUN).exists()
    assert runner().run([Step("works", 20, "A")]), "the next run has time for it"


def test_what_the_budget_ends_has_not_failed(runner, monkeypatch):
    """The last step of a call is cut off in the middle of something that a later call can measure."""
    monkeypatch.setattr(module, "LEAST_S", 1.0)
    one = runner(budget_s=module.MARGIN_S + 3)
    one.journal.begin("stuck", "of an earlier process")
    assert not one.run([Step("stuck", 60, "A")])
    rows = found(one, "stuck")
    assert rows.keys() == {"end"} and rows["end"]["outcome"].startswith("time limit")
    assert one.journal.begin("stuck", "a")


def test_nothing_of_a_step_is_left_running(runner, tmp_path):
    assert runner().run([Step("leaves", 20, "A")])
    child = int((tmp_path / "out" / "child").read_text())
    for _ in range(50):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} is still running")


def test_parts_name_calls_steps_and_beginnings():
    step = Step("speed:resnet50:fp16", 10, "A")
    for part in ("A", "speed", "speed:resnet50", "speed:resnet50:fp16"):
        assert step.chosen([part])
    for part in ("B", "spe", "speed:resnet5", "resnet50", ""):
        assert not step.chosen([part])


def test_rows_are_lines_of_json(tmp_path):
    journal = Journal(tmp_path)
    journal.put("step", "key", path=Path("somewhere"), number=1.5)
    (row,) = map(json.loads, (tmp_path / RESULTS).read_text().splitlines())
    assert row.items() >= {"step": "step", "key": "key", "path": "somewhere", "number": 1.5}.items()
