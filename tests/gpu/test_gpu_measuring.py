"""Timing, numerics and cells on the fake driver, where a launch takes a millisecond and results are put in place."""

from __future__ import annotations

import ctypes
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from results_in_place import leave_results

from bench.gpu import cases, contestants, kernels, numerics, speed, steps, tuning
from bench.gpu.cases import Case
from bench.gpu.device import FLUSH_BYTES, opened_gpu
from bench.gpu.families import Family
from bench.gpu.setting import Abandoned, OutOfTime, Setting
from bench.gpu.timing import SHORT, Effort, measure, quantile, there_and_back
from convc import errors
from convc.compiler import compile_plan
from convc.runtime.artifact import Artifact
from convc.targets import target
from convc.targets.tuned import SCHEDULE

pytestmark = pytest.mark.usefixtures("fake", "triton")
CASE = Case("lenet5", 2)


@pytest.fixture(scope="session")
def triton() -> None:
    pytest.importorskip("triton", reason="the kernels of these tests are compiled with Triton")


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return compile_plan(CASE.plan())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """No peers, a small flush, two variants that differ and one that does not."""
    monkeypatch.setattr("bench.gpu.device.FLUSH_BYTES", 1 << 12)
    monkeypatch.setattr(speed, "usual_peers", tuple)
    monkeypatch.setattr(numerics, "reference", by_numpy)
    numerics.examined.cache_clear()
    monkeypatch.setattr(cases, "variants_of", lambda *_: ("fused", "unfused", "whole-batch"))
    monkeypatch.setattr(numerics, "variants_of", lambda *_: ("fused",))


def by_numpy(network: str, dtype: str, images: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Also where torch is there."""
    return list(range(len(images))), numerics.in_numpy(network, dtype, images)


def test_times_are_those_of_the_events(fake) -> None:
    with opened_gpu() as gpu:
        ran: list[str] = []

        def contestant(name: str, launches: int) -> Callable[[], None]:
            def replay() -> None:
                ran.append(name)
                fake.clock += launches  # milliseconds

            return replay

        times, state = measure(gpu, {"one": contestant("one", 1), "three": contestant("three", 3)}, SHORT)
    assert times["one"]["warm"]["us"] == 1000.0 and times["three"]["warm"]["us"] == 3000.0
    assert times["three"]["cold"]["us"] == times["three"]["cold"]["us_p90"] == 3000.0
    assert times["one"]["host"]["samples"] >= 3 and state.keys() == {"before", "loaded", "after"}
    assert fake.violations == []


def test_blocks_are_as_long_as_asked(fake) -> None:
    with opened_gpu() as gpu:
        effort = Effort(block_ms=20.0, blocks=2, cold_samples=2, cold_budget_ms=0, host_samples=2, host_budget_ms=0)

        def replay() -> None:
            fake.clock += 1

        times, _ = measure(gpu, {"one": replay}, effort)
    assert times["one"]["warm"]["replays"] == 22 and times["one"]["warm"]["samples"] == 2


def test_the_state_under_load_is_asked_for_while_the_gpu_works(fake, monkeypatch) -> None:
    """However long the answer takes."""

    def state() -> dict[str, str]:
        if threading.current_thread() is threading.main_thread():
            return {}
        begun, end = fake.clock, time.monotonic() + 60
        while fake.clock == begun and time.monotonic() < end:
            time.sleep(0.001)
        return {"replayed": str(fake.clock > begun)}

    def replay() -> None:
        fake.clock += 1

    monkeypatch.setattr("bench.gpu.timing.state", state)
    with opened_gpu() as gpu:
        _, states = measure(gpu, {"one": replay}, SHORT)
    assert states == {"before": {}, "loaded": {"replayed": "True"}, "after": {}}


def test_a_step_opens_the_gpu_once(fake, setting, monkeypatch) -> None:
    """Executors come and go on a context that stays."""
    seen: list[int] = []
    monkeypatch.setitem(steps.KINDS, "looks", lambda _: seen.append(fake.retained))
    steps.run_step(setting("looks"))
    assert seen == [1] and fake.retained == 0


def test_without_a_gpu_nothing_is_measured(setting, monkeypatch) -> None:
    """The step comes to no end, and a later call finds everything still to be done."""

    def missing() -> None:
        raise errors.no_driver("none here")

    monkeypatch.setattr("convc.runtime.driver.bindings", missing)
    given: Setting = setting("facts")
    with pytest.raises(errors.DeviceError, match="none here"):
        steps.run_step(given)
    assert given.journal.rows() == []


def test_a_step_without_time_begins_nothing(setting) -> None:
    given: Setting = setting("facts", seconds=1.0)
    given.put("known", value=1)
    assert not given.todo("known")
    with pytest.raises(OutOfTime, match="no time left for another"):
        given.todo("another")
    assert given.journal.lost("facts") == []


def test_orders_alternate_and_quantiles_are_samples() -> None:
    assert there_and_back(["a", "b", "c"], 0) == ["a", "b", "c"] and there_and_back(["a", "b", "c"], 1) == [
        "c",
        "b",
        "a",
    ]
    assert quantile([3.0, 1.0, 2.0], 0.9) == 3.0 and quantile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_a_flush_writes_all_of_its_bytes_anew(fake) -> None:
    """What was in the cache, a flush of before included, is not what is written."""
    found = []
    with opened_gpu() as gpu:
        for _ in range(3):
            gpu.flush()
            (allocation,) = fake.allocations.values()
            found.append(set(ctypes.string_at(allocation.pointer, allocation.nbytes)))
    assert [len(each) for each in found] == [1, 1, 1] and len(set.union(*found)) == 3
    assert allocation.nbytes == 1 << 12, "as asked for here"
    assert 4 * target(cases.TARGET).l2_bytes <= FLUSH_BYTES


def test_whole_runs_that_are_right(fake, artifact) -> None:
    leave_results(fake, CASE, artifact)
    found = numerics.whole(CASE, artifact)
    assert found["ok"] and found["identical"] and found["top1"] == 1.0 and 0 < found["bound"] < 0.1
    assert fake.violations == [] and not fake.allocations


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y * 1.2,
        lambda y: np.full_like(y, np.nan),
        lambda y: np.concatenate([y[:1], np.zeros_like(y[1:])]),
        lambda y: y[::-1],
    ],
    ids=["off", "nan", "an image missing", "images exchanged"],
)
def test_whole_runs_that_are_wrong(fake, artifact, change) -> None:
    leave_results(fake, CASE, artifact, change)
    found = numerics.whole(CASE, artifact)
    assert not found["ok"] and found["rel_l2"] > found["bound"]


def test_runs_that_differ_are_told(fake, artifact) -> None:
    """Each run moves the result by one part in a million: within the bound, and not the same."""
    count = iter(range(100))
    leave_results(fake, CASE, artifact, lambda y: y * (1 + 1e-6 * next(count)))
    found = numerics.whole(CASE, artifact)
    assert found["rel_l2"] <= found["bound"] and not found["identical"] and not found["ok"]


def test_unwritten_outputs_are_found(artifact) -> None:
    found = numerics.whole(CASE, artifact)
    assert not found["ok"] and found["rel_l2"] == np.inf


def test_a_family_whose_kernels_write_nothing_departs(setting, monkeypatch) -> None:
    monkeypatch.setattr(numerics, "all_families", lambda: [Family("conv1x1", "fp16", "fused")])
    given: Setting = setting("numerics:families")
    numerics.families(given)
    (row,) = given.journal.rows()
    assert row["key"] == "conv1x1-fp16-fused" and not row["ok"] and row["departing"][0]["kernel"]


def test_a_network_is_checked_as_a_whole_and_kernel_by_kernel(fake, setting, artifact) -> None:
    leave_results(fake, CASE, artifact)
    given: Setting = setting("numerics:lenet5")
    numerics.network(given, "lenet5", (2,))
    numerics.network(given, "lenet5", (2,))
    (row,) = given.journal.rows()
    assert row["key"] == CASE.name and row["ok"]
    given = setting("numerics:stepped")
    assert numerics.stepped(given, Case("lenet5", 1))["ok"] is False, "the fake GPU computes nothing"


@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (1 + 1e-6, False)])
def test_kernels_that_begin_early_give_the_same_bits(fake, setting, artifact, monkeypatch, factor, ok) -> None:
    early = Case("lenet5", 2, variant="early-launch")
    leave_results(fake, CASE, artifact)
    leave_results(fake, early, compile_plan(early.plan()), lambda y: y * factor)
    monkeypatch.setattr(numerics, "variants_of", lambda *_: ("fused", "early-launch"))
    given: Setting = setting("numerics:lenet5")
    numerics.network(given, "lenet5", (2,))
    rows = {row["key"]: row for row in given.journal.rows()}
    assert rows[CASE.name]["ok"] and rows[early.name]["same_as_fused"] is ok and rows[early.name]["ok"] is ok


def test_launches_are_compared_as_long_as_there_is_time(setting, monkeypatch) -> None:
    monkeypatch.setattr(numerics, "STEPPING_S", 1e9)
    found = numerics.stepped(setting("numerics:lenet5"), Case("lenet5", 1, variant="unfused"))
    assert found["launches"] == 1 < found["of"]


def test_a_cell_times_what_is_right_and_nothing_else(fake, setting, artifact) -> None:
    leave_results(fake, CASE, artifact)
    given: Setting = setting("speed:lenet5:fp16")
    speed.speed(given, "lenet5", "fp16", (2,))
    cell = {row["key"]: row for row in given.journal.rows()}["lenet5-b2-fp16"]
    fused, unfused = (cell["contestants"][f"convc {name}"] for name in ("fused", "unfused"))
    launches = len(artifact.manifest.programs[0].launches)
    assert fused["ok"] and fused["warm"]["us"] == 1000.0 * launches and fused["launches"] == launches
    assert not unfused["ok"] and "warm" not in unfused, "its kernels left nothing"
    assert cell["equal"] == {"convc whole-batch": "convc fused"} and cell["refused"] == {}
    assert fake.violations == [] and not fake.allocations, "everything was given back"
    before = given.journal.rows()
    speed.speed(given, "lenet5", "fp16", (2,))
    assert given.journal.rows() == before, "a cell that is there is not measured again"


def test_a_contestant_that_killed_its_process_is_left_out(fake, setting, artifact) -> None:
    leave_results(fake, CASE, artifact)
    given: Setting = setting("speed:lenet5:fp16")
    given.journal.begin(given.step, "lenet5-b2-fp16 convc unfused")
    for key in given.journal.lost(given.step):
        given.put(key, error="its process did not survive: exit status -11")
    speed.speed(given, "lenet5", "fp16", (2,))
    cell = {row["key"]: row for row in given.journal.rows()}["lenet5-b2-fp16"]
    assert cell["refused"] == {"convc unfused": "a process did not survive it"} and list(cell["contestants"]) == [
        "convc fused"
    ]


def test_a_contestant_that_loses_the_gpu_is_left_out_the_next_time(fake, setting, artifact) -> None:
    """An illegal address in a kernel: nothing more can be done in this process, and the cell has no row yet."""
    leave_results(fake, CASE, artifact)
    given: Setting = setting("speed:lenet5:fp16")
    unfused = compile_plan(Case("lenet5", 2, variant="unfused").plan())
    first = unfused.manifest.programs[0].kernels[0].name

    def broken(record: Any) -> None:
        fake.violations.append("an illegal address")
        fake.hooks.pop(first)
        fake.fail("cuStreamSynchronize", 700)

    fake.hooks[first] = broken
    with pytest.raises(Abandoned):
        speed.speed(given, "lenet5", "fp16", (2,))
    rows = {row["key"]: row for row in given.journal.rows()}
    assert rows["lenet5-b2-fp16 convc unfused"]["lost"] and "lenet5-b2-fp16" not in rows
    assert given.journal.gpus_lost(given.step) == 1


def test_a_contestant_that_fails_is_told_and_the_others_go_on(fake, setting, artifact, monkeypatch) -> None:
    leave_results(fake, CASE, artifact)
    usual = contestants.of_artifact

    def fails(name: str, **given: Any) -> Any:
        if name == "convc unfused":
            raise ValueError("not today")
        return usual(name, **given)

    monkeypatch.setattr(speed, "of_artifact", fails)
    given: Setting = setting("speed:lenet5:fp16")
    speed.speed(given, "lenet5", "fp16", (2,))
    cell = {row["key"]: row for row in given.journal.rows()}["lenet5-b2-fp16"]
    assert cell["refused"] == {"convc unfused": "ValueError: not today"} and cell["contestants"]["convc fused"]["warm"]


def test_launches_are_timed_one_by_one(fake, setting, artifact) -> None:
    given: Setting = setting("kernels:lenet5")
    kernels.kernels(given, "lenet5", (2,))
    (row,) = given.journal.rows()
    program = artifact.manifest.programs[0]
    assert [launch["measured_us"] for launch in row["launches"]] == [1000.0] * len(program.launches)
    assert all(launch["predicted_us"] > launch["roofline_us"] > 0 for launch in row["launches"])
    alone = [launch["tile"] for launch in row["launches"] if launch["tile"] is not None]
    assert all(set(tile) == set(SCHEDULE) for tile in alone)
    assert fake.violations == [] and not fake.allocations


def test_tiles_are_tuned_and_wrong_ones_are_not_timed(fake, setting, monkeypatch) -> None:
    """The fake GPU computes nothing: what reads the images is found to be wrong, under every tile."""
    monkeypatch.setattr(tuning, "CANDIDATES", 2)
    given: Setting = setting("tune:lenet5:1")
    tuning.tuned(given, "lenet5", 1)
    (row,) = given.journal.rows()
    assert "error" not in row and not row["ok"]
    first = next(problem for problem in row["problems"] if 0 in problem["launches"])
    assert len(first["candidates"]) == 2 and first["chosen"] is None
    assert all(each["dropped"].startswith("wrong") and each["microseconds"] is None for each in first["candidates"])
    table = json.loads((given.journal.folder / row["table"]).read_text())
    assert table["gpu"] == "Fake GPU" and first["digest"] not in table.get("entries", {})
    assert fake.violations == [] and not fake.allocations
