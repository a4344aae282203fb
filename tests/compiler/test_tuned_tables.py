"""Tables of measured tiles: what they are about, when they count, and what they change in a plan."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import Builder, conv, integers
from tunable import APART, POOL, convolutions, network, planned, table_for, write

import convc.analysis.tune as tuning
import convc.targets.tuned as tables
from convc import errors
from convc.analysis.tune import problems_of
from convc.codegen.cache import KernelCache
from convc.codegen.fingerprint import fingerprint
from convc.codegen.packed import LABEL, open_cache
from convc.compiler import compile_plan
from convc.ir.digest import problem_digest
from convc.passes.tiling import ranked
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.targets import TARGETS, target
from convc.targets.tuned import Entry, Measured, Table, measured_of, read_table, schedule_of, tables_of

# -- problems


def test_equal_problems_of_different_networks_are_one() -> None:
    first, second = convolutions(planned(network()))
    other, _ = convolutions(planned(network(seed=5, extra=True)))
    assert first.x.source != other.x.source and first.w.source != second.w.source
    assert len({problem_digest(problem) for problem in (first, second, other)}) == 1


@pytest.mark.parametrize("change", [{"filters": 16}, {"op": "Sigmoid"}])
def test_other_problems_are_others(change: dict[str, Any]) -> None:
    first, other = (convolutions(planned(network(**each)))[0] for each in ({}, change))
    assert problem_digest(first) != problem_digest(other)


def test_the_mode_of_numbers_counts() -> None:
    modes = [
        make_plan(network().graph, Options(("sm_90",), dtype, switches=APART))
        for dtype in ("fp16", "bf16", "tf32", "fp32")
    ]
    assert len({problem_digest(convolutions(plan)[0]) for plan in modes}) == 4


def test_sharing_a_tensor_counts() -> None:
    """y = x + x and y = x + z are not the same kernel."""
    found = []
    for both in (True, False):
        b = Builder()
        x, z = (b.add("Neg", b.input(np.ones((2, 64), np.float32))) for _ in range(2))
        b.output(b.add("Neg", b.add("Softmax", b.add("Add", x, x if both else z), axis=1)))
        plan = planned(b)
        found.append([problem_digest(p) for p in plan.programs[0].problems if "+" in p.equation])
    assert found[0] != found[1]


# -- tables


def test_a_measured_tile_is_taken(folder: Path) -> None:
    plain = planned(network())
    problem = convolutions(plain)[0]
    write(folder, table_for(problem, 3))
    plans = [planned(network(seed=2), tuned=True) for _ in range(2)]
    steps = [
        launch.steps[0]
        for launch in plans[0].programs[0].launches
        if launch.steps[0].work.problem.family == "contraction"
    ]
    expected = ranked(problem, target("sm_90"))[3]
    for step in steps:
        assert schedule_of(step.tile) == schedule_of(expected) and step.tile.predicted_us == expected.predicted_us
        assert "measured 2.5 us on NVIDIA H200, the fastest of 8" in step.tile.reason
    texts = [[kernel.source for kernel in plan.programs[0].kernels.values()] for plan in plans]
    assert texts[0] == texts[1], "one table, one plan"
    untuned = planned(network(seed=2), tuned=False)
    assert not any("measured" in launch.tile_reason for launch in untuned.programs[0].launches)


def test_tables_of_other_versions_and_targets_are_left_alone(folder: Path) -> None:
    problem = convolutions(planned(network()))[0]
    for number, change in enumerate(({"triton": "0.1"}, {"templates": "0"}, {"target": "sm_80"}, {"format": 2})):
        write(folder, table_for(problem, 3, gpu=f"NVIDIA H200 {number}", **change))
    assert not any("measured" in launch.tile_reason for launch in planned(network(), tuned=True).programs[0].launches)


def test_a_tile_that_is_no_candidate_any_more(folder: Path) -> None:
    problem = convolutions(planned(network()))[0]
    table = table_for(problem)
    (digest,) = table.entries
    entry = table.entries[digest]
    strange = Entry(entry.tile | {"rows": 48}, 1.0, 2.0, 2)
    assert Measured("x", {digest: strange}).best(digest, ranked(problem, target("sm_90"))) is None
    write(folder, Table(table.target, table.gpu, table.triton, table.templates, {digest: strange}))
    assert _tiles(planned(network(), tuned=True)) == _tiles(planned(network()))


def _tiles(plan: Plan) -> list[Any]:
    return [step.tile for launch in plan.programs[0].launches for step in launch.steps]


def test_what_shares_a_launch_stays_as_it_is(folder: Path) -> None:
    """A measured tile that is predicted to be slow changes no decision, and stands only where its warps fit."""
    b = Builder("siblings")
    x = b.add("MaxPool", b.input(np.ones((1, 64, 16, 16), np.float32)), **POOL)
    for seed in range(2):
        b.output(b.add("Relu", conv(b, x, integers(np.random.default_rng(seed), (64, 64, 1, 1), 1))))
    options = Options(("sm_90",), "fp16", tuned=False)
    plain = make_plan(b.graph, options)
    (group,) = [launch for launch in plain.programs[0].launches if len(launch.steps) > 1]
    warps = {step.tile.num_warps for step in group.steps}
    problem = group.steps[0].work.problem
    for wanted in (True, False):
        tiles = enumerate(ranked(problem, target("sm_90")))
        number = max(n for n, tile in tiles if ({tile.num_warps} == warps) == wanted)
        write(folder, table_for(problem, number))
        after = make_plan(b.graph, replace(options, tuned=True)).programs[0].launches
        assert [len(launch.steps) for launch in after] == [len(launch.steps) for launch in plain.programs[0].launches]
        taken = ["measured" in step.tile.reason for launch in after for step in launch.steps if len(launch.steps) > 1]
        assert taken == [wanted] * len(group.steps)


def test_damaged_tables_are_left_out_with_a_word(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "sm_90-broken.json").write_text("{")
    (folder / "sm_90-other.json").write_text('{"target": 3}')
    with caplog.at_level(logging.WARNING, "convc"):
        assert tables_of(target("sm_90")) == []
    assert caplog.text.count("left out the table of measured tiles") == 2


def test_the_described_gpu_and_the_user_s_own_come_first() -> None:
    problem = convolutions(planned(network()))[0]
    own, shipped, other = (
        table_for(problem, n, gpu=g) for n, g in ((1, "NVIDIA H200"), (2, "NVIDIA H200"), (3, "A first H100"))
    )
    versions = (open_cache().triton, fingerprint())

    def taken(*given: Table) -> int:
        measured, tiles = measured_of(target("sm_90"), given, *versions), ranked(problem, target("sm_90"))
        assert measured is not None
        best = measured.best(problem_digest(problem), tiles)
        return [schedule_of(tile) for tile in tiles].index(schedule_of(best))

    assert (taken(other, own, shipped), taken(shipped, own), taken(other)) == (1, 2, 3)
    assert measured_of(target("sm_90"), [], *versions) is None


def test_what_ships_is_for_a_target_and_can_be_read() -> None:
    for path in tables.PACKAGED.glob("*.json"):
        table = read_table(path)
        assert table is not None and table.target in TARGETS and path.name == table.file_name


def test_the_fingerprint_is_that_of_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import convc.codegen.fingerprint as module

    for name in ("codegen/emit.py", "codegen/worker.py", "codegen/templates/a.j2", "ir/ops/pool.py", "passes/fuse.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("text")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "codegen" / "fingerprint.py"))
    for name, writes in (
        ("codegen/worker.py", False),
        ("passes/fuse.py", False),
        ("codegen/templates/a.j2", True),
        ("ir/ops/pool.py", True),
    ):
        before = fingerprint.__wrapped__()
        (tmp_path / name).write_text("changed")
        assert (fingerprint.__wrapped__() != before) == writes, name


class _Elsewhere(KernelCache):
    """A cache whose kernels another version of Triton makes."""

    triton = "0.1"


def test_measured_tiles_are_for_the_cache_that_is_compiled_with(folder: Path) -> None:
    options, problem = Options(("sm_90",), "fp16", switches=APART), convolutions(planned(network()))[0]
    write(folder, table_for(problem, 3, triton="0.1"))

    def reasons(plan: Plan) -> str:
        return " ".join(launch.tile_reason for launch in plan.programs[0].launches)

    assert "measured" not in reasons(make_plan(network().graph, options))
    assert "measured" in reasons(make_plan(network().graph, options, _Elsewhere(folder)))


def test_a_broken_pack_is_told_of_when_something_is_compiled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, table_for(convolutions(planned(network()))[0], 3))
    (tmp_path / LABEL).write_text("{")
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    plan = planned(network(), tuned=True)
    with pytest.raises(errors.UsageError, match="no pack of compiled kernels"):
        compile_plan(plan)


# -- written by `convc tune`


def test_tables_grow_and_forget_other_versions(folder: Path) -> None:
    plan = planned(network())
    (first,), (second,) = problems_of(plan, 2), problems_of(planned(network(filters=16)), 2)[:1]
    for tuned in (first, second):
        tuned.candidates[1].times = [2.0]
        tuned.candidates[0].times = [4.0]
    for tuned in (first, second):
        path = tuning.store(plan, [tuned], "NVIDIA H200", folder)
    assert read_table(path).entries.keys() == {first.digest, second.digest}  # type: ignore[union-attr]
    write(folder, table_for(first.problem, templates="old"))
    tuning.store(plan, [second], "NVIDIA H200", folder)
    assert read_table(path).entries.keys() == {second.digest}  # type: ignore[union-attr]


def test_what_is_known_is_known_of_one_gpu(folder: Path) -> None:
    """Another GPU's times say nothing of this one, nor does a table for another target."""
    problem = convolutions(planned(network()))[0]
    digest = problem_digest(problem)
    for number, gpu in enumerate(("NVIDIA H100 PCIe", "NVIDIA H200")):
        write(folder, table_for(problem, number, gpu=gpu))
    strange = table_for(problem, 2, machine="sm_80", gpu="NVIDIA GH200")
    write(folder, strange).rename(folder / "sm_90-nvidia-gh200.json")
    tiles = [schedule_of(tile) for tile in ranked(problem, target("sm_90"))]

    def known(gpu: str | None) -> list[int]:
        entries = tuning.stored(target("sm_90"), folder, gpu)
        return [tiles.index(entries[digest].tile)] if entries else []

    assert [known(gpu) for gpu in ("NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA GH200", None)] == [[0], [1], [], [1]]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.OutputError):
        tuning.store(planned(network()), [], "NVIDIA H200", tmp_path / "file" / "tuned")
