"""Tuning: which problems are one, what may be timed, which candidate wins, and what a table changes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import Builder, conv, integers
from interpreted_gpu import InterpretedGpu

import convc.analysis.tune as tuning
import convc.targets.tuned as tables
from convc import errors
from convc.analysis.tune import Candidate, Tuned, compile_candidates, measure, problems_of, variant
from convc.codegen.cache import KernelCache
from convc.codegen.fingerprint import fingerprint
from convc.codegen.packed import LABEL, open_cache
from convc.compiler import compile_plan
from convc.ir.digest import problem_digest
from convc.passes import Switches
from convc.passes.tiling import ranked
from convc.planner import Options, Plan, make_plan
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.network import CompiledNetwork
from convc.targets import TARGETS, target
from convc.targets.tuned import Entry, Measured, Table, measured_of, read_table, schedule_of, tables_of

APART = Switches(disable=(*tuning.GROUPING, "conv-pool", "pool-conv", "zero-borders"))
POOL = {"kernel_shape": (2, 2), "strides": (1, 1), "pads": (0, 0, 1, 1), "dilations": (1, 1), "ceil_mode": False}


def network(seed: int = 0, filters: int = 32, extra: bool = False, op: str = "Relu") -> Builder:
    """Two equal convolutions between poolings, and in front of them what may change the nodes' numbers."""
    random = np.random.default_rng(seed)
    b = Builder(f"network{seed}")
    x = b.input(integers(random, (1, 32, 8, 8), 1), "image")
    if extra:
        x = b.add("MaxPool", x, **POOL)
    x = b.add("MaxPool", x, **POOL)
    for _ in range(2):
        channels = x_channels(b, x)
        x = conv(b, x, integers(random, (filters, channels, 3, 3), 1), integers(random, (filters,)), pads=(1,) * 4)
        x = b.add(op, x)
    b.output(b.add("MaxPool", x, **POOL))
    return b


def x_channels(b: Builder, x: Any) -> int:
    return int(b.graph.type(x).shape[1])


def planned(b: Builder, machine: str = "sm_90", **options: Any) -> Plan:
    return make_plan(b.graph, Options((machine,), "fp16", switches=APART, **{"tuned": False, **options}))


def convolutions(plan: Plan) -> list[Any]:
    return [problem for problem in plan.programs[0].problems if problem.family == "contraction"]


# -- digests


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


def table_for(problem: Any, number: int = 1, machine: str = "sm_90", **changes: Any) -> Table:
    """A table in which candidate ``number`` of a problem is the fastest."""
    tile = ranked(problem, target(machine))[number]
    values = {"target": machine, "gpu": "NVIDIA H200", "triton": open_cache().triton, "templates": fingerprint()}
    return Table(**values | changes, entries={problem_digest(problem): Entry(schedule_of(tile), 2.5, 5.0, 8)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables of the user are."""
    monkeypatch.setattr(tables, "user_directory", lambda: tmp_path)
    return tmp_path


def write(folder: Path, table: Table) -> Path:
    import msgspec

    path = folder / table.file_name
    path.write_bytes(msgspec.json.encode(table))
    return path


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
        number = max((n for n, tile in tiles if ({tile.num_warps} == warps) == wanted), default=None)
        if number is None:
            continue
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


# -- candidates


def test_problems_of_a_network() -> None:
    """Equal ones count once, and those without a choice not at all; every candidate is another tile."""
    plan = planned(network())
    (tuned,) = problems_of(plan, 4)
    assert len(tuned.launches) == 2 and len(tuned.candidates) == 4
    assert [c.tile for c in tuned.candidates] == ranked(tuned.problem, target("sm_90"))[:4]
    assert len({str(schedule_of(c.tile)) for c in tuned.candidates}) == 4
    assert problems_of(plan, 4, {tuned.digest: Entry({}, 1.0, 1.0, 1)}) == []


def test_variants() -> None:
    plan = planned(network())
    problems = problems_of(plan, 3)
    problems[0].candidates[2].dropped = "for a reason"
    for number, expected in ((0, 0), (1, 1), (2, 0)):
        launches = variant(plan, problems, number).programs[0].launches
        for index in problems[0].launches:
            assert schedule_of(launches[index].steps[0].tile) == schedule_of(problems[0].candidates[expected].tile)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelCache]:
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    folder = tmp_path_factory.mktemp("kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVC_CACHE_DIR", str(folder))
        yield KernelCache(folder)


def test_prepared_candidates_need_no_compiler(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(network())
    assert compile_candidates(plan, problems_of(plan, 2), cache) == 2
    monkeypatch.setattr("convc.codegen.pool._compile_missing", lambda missing: _none(missing))
    problems = problems_of(plan, 2)
    compile_candidates(plan, problems, cache)
    assert not any(candidate.dropped for candidate in problems[0].candidates)


def _none(missing: dict[str, Any]) -> Iterator[Any]:
    assert not missing, "everything is in the cache"
    yield from ()


def test_what_does_not_compile_or_suit_is_dropped(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(network())
    problems = problems_of(plan, 3)
    names = [variant(plan, problems, n).programs[0].launches[problems[0].launches[0]].kernel.name for n in range(3)]
    compile_kernels = tuning.compile_kernels

    def failing(jobs: Any, *rest: Any) -> Any:
        if any(job.request.name == names[1] for job in jobs):
            raise errors.kernel_failed("conv", names[1], 90, "no", Path("x"))
        return compile_kernels(jobs, *rest)

    monkeypatch.setattr(tuning, "compile_kernels", failing)
    monkeypatch.setattr(
        tuning, "suits", lambda compiled, target: b"_" in compiled.cubin and names[2].encode() not in compiled.cubin
    )
    compile_candidates(plan, problems, cache)
    first, second, third = problems[0].candidates
    assert not first.dropped and names[1] in second.dropped and "spills" in third.dropped


# -- measuring


class TimedGpu(InterpretedGpu):
    """Kernels take as long as ``times`` says, by name; those in ``still`` leave what was there."""

    def __init__(self, network: CompiledNetwork, times: dict[str, float], still: set[str]) -> None:
        super().__init__(network.artifact, network.plan)
        self.milliseconds = lambda record: times.get(record.name, 1.0)
        for name in still & self.hooks.keys():
            self.hooks[name] = lambda record: None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, interpreters: None) -> None:
    monkeypatch.setattr(tuning, "ROUNDS", 3)
    monkeypatch.setattr(tuning, "REPEATS", 2)


def names_of(plan: Plan, problems: list[Tuned]) -> list[str]:
    (tuned,) = problems
    launches = [variant(plan, problems, n).programs[0].launches for n in range(len(tuned.candidates))]
    return [each[tuned.launches[0]].kernel.name for each in launches]


def test_between_equals_the_cost_model_decides() -> None:
    problem = convolutions(planned(network()))[0]
    tiles = ranked(problem, target("sm_90"))[:3]
    candidates = [
        Candidate(tile, times=times)
        for tile, times in zip(tiles, ([9.0, 3.0, 4.0], [4.0] * 3, [1.0, 5.0, 5.0]), strict=True)
    ]
    tuned = Tuned("d", problem, [0], candidates)
    assert tuned.best is candidates[0], "medians count: 4, 4 and 5"
    assert tuned.entry() == Entry(schedule_of(tiles[0]), 4.0, 4.0, 3)
    assert Tuned("d", problem, [0], [Candidate(tile) for tile in tiles]).entry() is None


def test_the_fastest_right_candidate_wins(cache: KernelCache, quick: None, folder: Path) -> None:
    """In a table, with its time; a candidate whose results are wrong is never timed, however fast it would be."""
    times, wrong, best = (5.0, 4.0, 1.0), 2, 1
    plan = planned(network())
    problems = problems_of(plan, 3)
    names = names_of(plan, problems)
    gpus = []

    def place(compiled: CompiledNetwork) -> CudaExecutor:
        """Every variant is first checked, and then, when nothing looks at the results any more, timed."""
        checking = len(gpus) < len(names)
        faults = {names[wrong]} if checking else {kernel.name for kernel in compiled.kernels}
        gpus.append(TimedGpu(compiled, dict(zip(names, times, strict=True)), faults))
        return CudaExecutor(driver=Driver(gpus[-1]))

    compile_candidates(plan, problems, cache)
    gpu = measure(plan, problems, place)
    (tuned,) = problems
    for number, candidate in enumerate(tuned.candidates):
        assert bool(candidate.times) == (number != wrong) and ("wrong" in candidate.dropped) == (number == wrong)
        assert candidate.times in ([], [1000.0 * times[number]] * 3)
    assert tuned.best is tuned.candidates[best]
    path = tuning.store(plan, problems, gpu, folder)
    assert path.name == "sm_90-fake-gpu.json" and all(gpu.violations == [] for gpu in gpus)
    entry = tuned.entry()
    assert entry == Entry(schedule_of(tuned.candidates[best].tile), 1000.0 * times[best], 1000.0 * times[0], 2)
    assert tuning.stored(target("sm_90"), folder) == {tuned.digest: entry}
    after = planned(network(), tuned=True).programs[0].launches[tuned.launches[0]]
    assert schedule_of(after.steps[0].tile) == entry.tile and "on Fake GPU" in after.tile_reason
    tuned_names = {
        kernel.name for kernel in compile_plan(planned(network(), tuned=True), cache).manifest.programs[0].kernels
    }
    assert names[best] in tuned_names


def test_what_does_not_fit_beside_the_others_takes_no_part(
    cache: KernelCache, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_drop_wrong", lambda *_: None)
    plan = planned(network())
    problems = problems_of(plan, 3)
    places = []

    def place(compiled: CompiledNetwork) -> CudaExecutor:
        """The third variant to be timed finds too little memory; one that is checked has enough."""
        places.append(TimedGpu(compiled, {}, {kernel.name for kernel in compiled.kernels}))
        if len(places) == 6:
            places[-1].memory_size = 1000
        return CudaExecutor(driver=Driver(places[-1]))

    compile_candidates(plan, problems, cache)
    measure(plan, problems, place)
    assert ["no memory left" in candidate.dropped for candidate in problems[0].candidates] == [False, False, True]
    assert [bool(candidate.times) for candidate in problems[0].candidates] == [True, True, False]


def test_rounds_are_interleaved() -> None:
    """Whatever slows the device down for a while hits all candidates of a problem."""
    order: list[int] = []

    class Engine:
        def __init__(self, number: int) -> None:
            self.executor, self.number = self, number

        def timer(self, launch: int, repeats: int) -> Any:
            return lambda: order.append(self.number) or float(self.number)

    tile = ranked(convolutions(planned(network()))[0], target("sm_90"))[0]
    tuned = Tuned(
        "d", convolutions(planned(network()))[0], [0], [Candidate(tile), Candidate(tile, "dropped"), Candidate(tile)]
    )
    tuning._time(tuned, [Engine(n) for n in range(3)])  # type: ignore[misc]
    assert order == [0, 2] * (1 + tuning.ROUNDS), "once to warm up, then in turn"
    assert [len(c.times) for c in tuned.candidates] == [tuning.ROUNDS, 0, tuning.ROUNDS]


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


@pytest.mark.usefixtures("quick")
def test_in_the_interpreter(folder: Path) -> None:
    """The whole of it, on small convolutions; a network that is known is not measured again."""
    plan = planned(network(), "interpreter")
    problems = problems_of(plan, 2)
    assert compile_candidates(plan, problems) == 0
    gpu = measure(plan, problems, lambda _: "interpreter")
    assert gpu == "Triton's interpreter" and all(len(c.times) == 3 for c in problems[0].candidates)
    path = tuning.store(plan, problems, gpu, folder)
    assert path.name == "interpreter-triton-s-interpreter.json"
    assert problems_of(plan, 2, tuning.stored(target("interpreter"), folder)) == []
