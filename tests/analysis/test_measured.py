"""What `ablate` and `bench` make of a GPU's times, with an engine that says how long its runs took."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import convc.api
from convc.analysis import ablate, ablation_page, bench
from convc.analysis.figures import planned, roofline_us
from convc.analysis.models import Choices
from convc.program import Plan
from convc.runtime.manifest import TensorSpec
from convc.targets import target

TIMES = [30.0, 10.0, 20.0, 50.0, 40.0]


class TimedNetwork:
    """A network on a GPU that takes ``TIMES`` in turn, scaled by its number of launches."""

    def __init__(self, plan: Plan) -> None:
        assert plan.options.targets == ("sm_90",), "it is compiled for the GPU that is there"
        self.plan, program = plan, plan.programs[0]
        self.launches = program.launches
        self.inputs = [TensorSpec("input", "fp32", (1, 1, 32, 32))]

    @contextmanager
    def engine(self, device: str) -> Iterator[Any]:
        assert device == "cuda"
        kernels = [SimpleNamespace(name=launch.kernel.name) for launch in self.launches]
        specs = [SimpleNamespace(kernel=index, origins=()) for index in range(len(kernels))]
        yield SimpleNamespace(
            device="cuda:0",
            program=SimpleNamespace(kernels=kernels, launches=specs),
            run=lambda inputs: {},
            measure=lambda inputs, repeats: self.times(inputs),
            profile=lambda inputs: [float(index) for index in range(len(kernels))],
        )

    def times(self, inputs: Mapping[str, np.ndarray]) -> list[float]:
        assert set(inputs) == {"input"}
        return [time * len(self.launches) for time in TIMES]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convc.api, "present_target", lambda ordinal=0: "sm_90")
    for module in (ablate, bench):
        monkeypatch.setattr(module, "compile_network", lambda plan, progress=None: TimedNetwork(plan))


def test_ablate_takes_the_median_and_says_that_it_was_measured(gpu: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts are drawn with matplotlib")
    found = ablate.ablate("zoo:lenet5", Choices())
    assert found.measured and found.target.name == "sm_90"
    for row in found.rows:
        assert row.measured_us == statistics.median(TIMES) * row.launches
        assert row.max_error is None, "no comparison was asked for"
    for worth in found.worth:
        assert worth.measured_us == pytest.approx(statistics.median(TIMES) * worth.launches)
    written = ablation_page.write(found, str(tmp_path / "a.html"), None)
    page = (tmp_path / "a.html").read_text()
    assert "Nothing was measured" not in page and "measured on the GPU" in page
    assert "measured" in ablation_page.text(found, written)


def test_another_gpu_than_the_target_measures_nothing(gpu: None) -> None:
    assert not ablate.ablate("zoo:lenet5", Choices(target="sm_80")).measured


def test_bench_on_a_gpu_has_fractions_and_speedups(gpu: None) -> None:
    request = bench.Request("zoo:lenet5", ["none", "fuse"], None, None, None, "cuda", None, per_kernel=True)
    rows = bench.bench(request)["rows"]
    for row, opt in zip(rows, ("none", "fuse"), strict=True):
        plan = convc.plan("zoo:lenet5", opt=opt)
        launches = planned(plan, plan.programs[0])
        scale = len(launches)
        assert row["median_us"] == 30 * scale
        assert (row["p10_us"], row["p90_us"]) == (pytest.approx(14 * scale), pytest.approx(46 * scale))
        least = sum(roofline_us(launch, target("sm_90"), "fp16") for launch in launches)
        assert row["roofline_fraction"] == pytest.approx(least / row["median_us"])
        assert [kernel["measured_us"] for kernel in row["kernels"]] == list(range(scale))
    assert rows[0]["speedup"] == 1 and rows[1]["speedup"] == rows[0]["median_us"] / rows[1]["median_us"]
