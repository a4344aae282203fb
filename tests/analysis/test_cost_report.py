"""The cost-model benchmark on measurements that are made up: predictions, correlation, regret, and what is left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import convc
from bench import cost_model as bench
from convc.targets.tuned import SCHEDULE

NETWORK = "resnet20"


@pytest.fixture(scope="module")
def known() -> dict:
    made = convc.plan(convc.zoo.build(NETWORK, weights="none").graph)
    return bench.predictions(made, made.programs[0])


def rows(known: dict, time) -> list:  # type: ignore[no-untyped-def]
    return [bench.Measurement(NETWORK, "fp16", 1, layers, tile, time(us)) for (layers, tile), us in known.items()]


def test_rank_correlation() -> None:
    xs = [3.0, 1.0, 2.0, 10.0, 4.0]
    assert bench.rank_correlation(xs, [x**3 for x in xs]) == pytest.approx(1)
    assert bench.rank_correlation(xs, [-x for x in xs]) == pytest.approx(-1)
    assert bench.rank_correlation(xs, [1.0] * 5) is None
    assert bench.ranks([5.0, 1.0, 5.0, 2.0]) == [3.5, 1.0, 3.5, 2.0]
    # Four untied pairs by Spearman's own formula, 1 − 6 Σd² / (n (n² − 1)): differences 1, 1, 0, 0.
    assert bench.rank_correlation([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 3.0, 4.0]) == pytest.approx(1 - 6 * 2 / (4 * 15))


def test_a_model_that_is_right_has_no_regret(known: dict) -> None:
    pairs = bench.paired(rows(known, lambda us: 2 * us), "sm_90")
    assert len(pairs) == len(known) > 20
    assert all(pair.measured_us == pytest.approx(2 * pair.predicted_us) for pair in pairs)
    text = list(bench.report([pair.measurement for pair in pairs], "sm_90", "made up", 3))
    assert "0 of launches or tiles" in text[0] and f"… and {len(pairs) - 3} more" in text
    assert "rank correlation of predicted and measured times: 1.000" in text
    assert "measured over predicted: median 2.00, 2.00 to 2.00" in text
    assert text[-1].startswith("regret of the first choice") and "mean 0.0%" in text[-1]


def test_a_model_that_is_wrong_pays(known: dict) -> None:
    text = list(bench.report(rows(known, lambda us: 100 / us), "sm_90", "made up", 0))
    assert any(line.endswith("times: -1.000") for line in text)
    regrets = bench.regrets(bench.paired(rows(known, lambda us: 100 / us), "sm_90"))
    assert regrets and max(regrets.values()) > 0.1
    layers = {problem[3] for problem in regrets}
    for name in layers:
        times = [us for (found, _), us in known.items() if found == name]
        assert regrets[NETWORK, "fp16", 1, name] == pytest.approx(max(times) / min(times) - 1)


def test_what_no_plan_has_is_counted(known: dict) -> None:
    ((layers, tile), _), *_ = known.items()
    stale = [
        bench.Measurement(NETWORK, "fp16", 1, ("gone",), tile, 1.0),
        bench.Measurement(NETWORK, "fp16", 1, layers, (("rows", 7), *tile[1:]), 1.0),
    ]
    assert list(bench.report(stale, "sm_90", "made up", 3)) == [
        "sm_90 (made up): 2 measurements, 2 of launches or tiles that no plan has now"
    ]
    one = bench.Measurement(NETWORK, "fp16", 1, layers, tile, 1.0)
    text = list(bench.report([one], "sm_90", "made up", 3))
    assert any("not known, too little varies" in line for line in text)
    assert text[-1] == "regret of the first choice: not known, no kernel was measured under several tiles"


def test_files(known: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([], tmp_path) == 0
    assert "nothing is measured yet" in capsys.readouterr().out
    measured = rows(known, lambda us: us)
    file = bench.record(measured[:2], "sm_90", "made up", tmp_path)
    assert bench.record(measured[1:3], "sm_90", "made up", tmp_path) == file
    content = json.loads(file.read_text())
    assert [bench.Measurement.of(row) for row in content["rows"]] == measured[:3]
    assert content["rows"][0]["tile"].keys() == set(SCHEDULE)
    assert bench.main(["--rows", "1"], tmp_path) == 0
    assert "sm_90 (made up): 3 measurements, 0 of" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="Triton's interpreter")
def test_measuring_takes_several_tiles(interpreters: None) -> None:
    """On the interpreter, whose times mean nothing: every tile is one that the model knows."""
    found = bench.measure("lenet5", "fp32", 1, 3, "interpreter", "interpreter")
    assert len(found) > len({row.problem for row in found}) > 0
    assert len(bench.paired(found, "interpreter")) == len(found)
    assert all(row.measured_us > 0 for row in found)
