"""`make corpus` itself: what it runs, what it writes down, how it goes on, and what it says."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from corpus import Entry, interpreted, open_sizes
from run_corpus import Result, failures, main, recorded, run_all, table
from stages import Stage


def entry(network: str, variant: str, *inputs: str) -> Entry:
    return Entry(network, variant, tuple(tuple(shape.split(",")) for shape in inputs), 1)


def result(name: str, *outcomes: str) -> Result:
    names = ("import", "plan", "numpy")
    return Result(name, tuple(Stage(n, o, 1.0, 1.0, "why") for n, o in zip(names, outcomes, strict=False)))


def test_open_sizes_are_those_of_a_static_file_of_the_network() -> None:
    nhwc, nchw = entry("a", "tf13", "1,32,48,3"), entry("a", "ts17", "1,3,30,40")
    entries = [entry("b", "ts17", "1,3,8,8"), nchw, nhwc]
    assert open_sizes(nchw, entries, 2) == {}
    assert open_sizes(entry("a", "dynB", "batch,3,30,40"), entries, 2) == {"batch": 2}
    assert open_sizes(entry("a", "dynHW", "n,3,h,w"), entries, 2) == {"n": 2, "h": 30, "w": 40}
    assert open_sizes(entry("a", "tfHW18", "n,h,w,3"), entries, 1) == {"n": 1, "h": 32, "w": 48}


def test_the_interpreter_runs_one_file_of_each_network() -> None:
    entries = [entry(network, variant, "1,3,8,8") for network in "abcdefgh" for variant in ("dyn", "ts17", "qop")]
    chosen = interpreted(entries)
    assert {name.partition(".")[0] for name in chosen} == set("abcdefgh") and len(chosen) == 8
    assert {name.partition(".")[2] for name in chosen} == {"dyn", "ts17"}


def work(entry: Entry) -> list[Stage]:
    if entry.network == "slow":
        time.sleep(60)
    if entry.network == "crash":
        os._exit(3)
    return [Stage("import", "pass", 0.1, 0.1)]


def test_a_file_that_ends_the_process_or_takes_too_long_is_a_result() -> None:
    entries = [entry(network, "dyn") for network in ("good", "crash", "slow", "last")]
    found = {result.name: result for result in run_all(entries, work, jobs=2, limit=1.0)}
    assert found["good.dyn"].ok and found["last.dyn"].ok
    assert [found[name].stages[0].outcome for name in ("crash.dyn", "slow.dyn")] == ["ended", "time"]
    assert "ended with 3" in found["crash.dyn"].stages[0].message


def test_results_are_read_again_the_last_of_each_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = result("a.dyn", "pass", "error"), result("a.dyn", "pass", "pass")
    path.write_text(
        "\n".join([first.line(), result("b.dyn", "refused").line(), second.line(), '{"name": "c.dyn", "st'])
    )
    assert recorded(path) == {"a.dyn": second, "b.dyn": result("b.dyn", "refused")}
    assert recorded(tmp_path / "none") == {}


def test_only_files_in_the_operators_of_another_vendor_may_be_refused() -> None:
    results = [result("a.dyn", "pass", "pass", "pass"), result("a.qop", "refused"), result("b.dyn", "refused")]
    results += [result("b.qop", "error"), result("c.dyn", "pass", "pass", "wrong")]
    assert [found.ok for found in results] == [True, True, False, False, False]
    assert [line.split(":")[0] for line in failures(results)] == ["b.dyn", "b.qop", "c.dyn"]
    rows = [line.split() for line in table(results).splitlines()]
    assert rows[1][:3] == ["dyn", "3", "1"] and rows[-1][:6] == ["all", "5", "2", "2", "of", "5"]


def test_a_file_is_done_when_all_stages_that_are_wanted_passed_or_it_may_be_refused() -> None:
    found = result("a.dyn", "pass", "pass")
    assert found.covers({"import", "plan"}) and not found.covers({"import", "numpy"})
    assert result("a.qop", "refused").covers({"import", "numpy"})
    assert not result("a.dyn", "pass", "error").covers({"import"})


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--models", str(tmp_path)]) == 2
    assert f"{tmp_path}: no folder of exported models" in capsys.readouterr().out
