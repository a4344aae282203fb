"""Tuning: what may be timed, and which candidate wins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from interpreted_gpu import InterpretedGpu
from tunable import convolutions, network, planned

import convc.analysis.tune as tuning
from convc import errors
from convc.analysis.tune import Candidate, Tuned, compile_candidates, measure, problems_of, variant
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.passes.tiling import ranked
from convc.program import Plan
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.network import CompiledNetwork
from convc.targets import target
from convc.targets.tuned import Entry, schedule_of

# -- candidates


def test_problems_of_a_network() -> None:
    """Equal ones count once, and those without a choice not at all; every candidate is another tile."""
    plan = planned(network())
    (tuned,) = problems_of(plan, 4)
    assert len(tuned.launches) == 2 and len(tuned.candidates) == 4
    assert [c.tile for c in tuned.candidates] == ranked(tuned.problem, target("sm_90"))[:4]
    assert len({str(schedule_of(c.tile)) for c in tuned.candidates}) == 4
    assert problems_of(plan, 4, {tuned.digest: Entry({}, 1.0, 1.0, 1)}) == []


@pytest.mark.parametrize("op", ["Relu", "Tan"])
def test_variants(op: str) -> None:
    """The host computes a tangent between launches."""
    plan = planned(network(op=op))
    assert len(plan.programs[0].host_steps) == (2 if op == "Tan" else 0)
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

    def compiled(jobs: Any, *rest: Any) -> Any:
        """Of the second kernel nothing, of the third code that spills registers."""
        asked = [job.request.name for job in jobs]
        if names[1] in asked:
            raise errors.kernel_failed("conv", names[1], 90, "no", Path("x"))
        found = zip(asked, compile_kernels(jobs, *rest), strict=True)
        return [msgspec.structs.replace(made, spill_bytes=4 * (name == names[2])) for name, made in found]

    monkeypatch.setattr(tuning, "compile_kernels", compiled)
    assert compile_candidates(plan, problems, cache) == 3
    first, second, third = problems[0].candidates
    assert not first.dropped and names[1] in second.dropped and "spills" in third.dropped
    left = [variant(plan, problems, n).programs[0].launches[problems[0].launches[0]].kernel.name for n in range(3)]
    assert left == [names[0]] * 3, "what is dropped takes part in nothing"


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
