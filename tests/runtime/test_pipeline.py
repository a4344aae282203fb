"""Batches whose copies overlap: on a driver that puts work off, in any order that streams and events leave open."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from fake_streams import Lazy
from tiny_network import COLS, ROWS, SHAPE, Network, rows_network

from convc import errors
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine
from convc.runtime.network import CompiledNetwork

SEEDS = range(40)


def batches(count: int, shape: tuple[int, ...] = SHAPE) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(count)
    return [{"x": random.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def lazily(network: Network, seed: int, **options: Any) -> tuple[FakeDriver, Engine]:
    fake = FakeDriver(hooks=HOOKS, schedule=Lazy(seed), **options)
    return fake, Engine(network.build(), CudaExecutor(driver=Driver(fake)))


def wrong_seeds(network: Network, count: int = 9) -> list[int]:
    """The seeds for which any result of a stream is not what it should be."""
    found = []
    for seed in SEEDS:
        fake, engine = lazily(network, seed)
        given = batches(count)
        results = list(engine.stream(given))
        assert len(results) == count and fake.violations == []
        if any(not np.array_equal(r["y"], network.expected(g["x"])) for r, g in zip(results, given, strict=True)):
            found.append(seed)
    return found


def test_every_result_is_right_in_any_order(network: Network) -> None:
    assert wrong_seeds(network) == []


WAITS = {
    "for inputs to arrive before they are read": r"driver\.wait\(self\._run, lane\.arrived\)",
    "for inputs to be read before they are overwritten": r"driver\.wait\(self\._up, lane\.computed\)",
    "for the host's copy of the inputs": r"driver\.finish\(lane\.arrived\)",
    "for outputs to be computed before they are copied": r"driver\.wait\(self\._down, lane\.computed\)",
    "for outputs to reach the host": r"self\._driver\.finish\(lane\.left\)",
}


@pytest.mark.parametrize("wait", WAITS)
def test_every_wait_is_needed(network: Network, wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one of them some order gives wrong results."""
    import convc.runtime.cuda as cuda
    import convc.runtime.pipeline as pipeline

    source = Path(pipeline.__file__).read_text()
    changed, count = re.subn(WAITS[wait], "pass", source)
    assert count == 1
    namespace: dict[str, Any] = {"__name__": pipeline.__name__, "__package__": "convc.runtime"}
    exec(compile(changed, pipeline.__file__, "exec"), namespace)
    monkeypatch.setattr(cuda, "Pipeline", namespace["Pipeline"])
    assert wrong_seeds(network)


def test_copies_overlap_the_computation(network: Network, fake: FakeDriver, on_fake: Callable[..., Engine]) -> None:
    """Two batches are queued before the first results are waited for, on three streams."""
    engine = on_fake(network)
    before = len(fake.calls)
    list(engine.stream(batches(3)))
    calls = [call for call in fake.calls[before:] if re.match("cuGraphLaunch|cuMemcpy|cuEventSync|cuStreamSync", call)]
    lane = ["cuEventSynchronize", "cuMemcpyHtoDAsync"], ["cuGraphLaunch", "cuMemcpyDtoHAsync"], ["cuEventSynchronize"]
    upload, launch, collect = lane
    assert calls[:-2] == [*upload, *launch, *upload, *launch, *upload, *collect, *launch, *collect, *collect]
    assert calls[-2:] == ["cuStreamSynchronize"] * 2, "once, at the end"


def test_any_number_of_batches(network: Network, on_fake: Callable[..., Engine]) -> None:
    engine = on_fake(network)
    for count in range(6):
        given = batches(count)
        for result, batch in zip(engine.stream(given), given, strict=True):
            np.testing.assert_array_equal(result["y"], network.expected(batch["x"]))


def test_two_batches_are_taken_ahead(network: Network, on_fake: Callable[..., Engine]) -> None:
    taken = []

    def source() -> Iterator[dict[str, np.ndarray]]:
        for number, batch in enumerate(batches(6)):
            taken.append(number)
            yield batch

    ahead = [len(taken) - 1 - number for number, _ in enumerate(on_fake(network).stream(source()))]
    assert ahead == [2, 2, 2, 2, 1, 0]


def test_an_array_may_be_used_again(network: Network) -> None:
    """The caller's array is read when its batch is taken."""
    _, engine = lazily(network, 3)
    given = [batch["x"] for batch in batches(7)]
    one = np.empty(SHAPE, np.float32)

    def source() -> Iterator[dict[str, np.ndarray]]:
        for array in given:
            one[:] = array
            yield {"x": one}

    for result, array in zip(engine.stream(source()), given, strict=True):
        np.testing.assert_array_equal(result["y"], network.expected(array))


def test_results_are_the_caller_s(network: Network, on_fake: Callable[..., Engine]) -> None:
    given = batches(5)
    kept = [result["y"] for result in on_fake(network).stream(given)]
    for array, batch in zip(kept, given, strict=True):
        np.testing.assert_array_equal(array, network.expected(batch["x"]))


def test_tensor_maps_are_those_of_the_lane(cubins: dict[str, bytes]) -> None:
    """A descriptor of an input is encoded for each lane's own buffer."""
    network = rows_network(cubins)
    fake, engine = lazily(network, 5)
    given = batches(5, (ROWS, COLS))
    for result, batch in zip(engine.stream(given), given, strict=True):
        np.testing.assert_array_equal(result["y"][:ROWS], np.maximum(batch["x"], 0))
    assert len({record.values[0].address for record in fake.launches}) == 3 and fake.violations == []


def test_runs_between_batches(network: Network) -> None:
    """A run of its own, and a second stream, in the middle of one."""
    fake, engine = lazily(network, 7)
    given = batches(8)
    other = engine.stream(given)
    for result, batch in zip(engine.stream(given), given, strict=True):
        np.testing.assert_array_equal(engine(batch["x"]), network.expected(batch["x"]))
        np.testing.assert_array_equal(next(other)["y"], result["y"])
        np.testing.assert_array_equal(result["y"], network.expected(batch["x"]))
    assert fake.violations == []


def test_threads_beside_a_stream(network: Network, on_fake: Callable[..., Engine], fake: FakeDriver) -> None:
    engine = on_fake(network)

    def streamed(seed: int) -> bool:
        given = batches(20 + seed)
        results = engine.stream(given)
        return all(np.array_equal(r["y"], network.expected(g["x"])) for r, g in zip(results, given, strict=True))

    def alone(seed: int) -> bool:
        return all(np.array_equal(engine(g["x"]), network.expected(g["x"])) for g in batches(30 + seed))

    with ThreadPoolExecutor(6) as pool:
        outcomes = [pool.submit(task, seed) for seed in range(3) for task in (streamed, alone)]
    assert all(outcome.result() for outcome in outcomes) and fake.violations == []


# -- What can go wrong


def test_a_wrong_batch_comes_behind_the_results_before_it(network: Network, on_fake: Callable[..., Engine]) -> None:
    engine, given = on_fake(network), batches(4)
    given.insert(3, {"x": given[0]["x"].astype(np.float64)})
    results = engine.stream(given)
    for batch in given[:3]:
        np.testing.assert_array_equal(next(results)["y"], network.expected(batch["x"]))
    with pytest.raises(errors.InputError, match="expected dtype float32"):
        next(results)
    np.testing.assert_array_equal(engine(given[0]["x"]), network.expected(given[0]["x"]))


def test_an_error_of_the_source(network: Network, on_fake: Callable[..., Engine], fake: FakeDriver) -> None:
    def source() -> Iterator[dict[str, np.ndarray]]:
        yield batches(1)[0]
        raise KeyError("no more images")

    engine = on_fake(network)
    results = engine.stream(source())
    next(results)
    with pytest.raises(KeyError, match="no more images"):
        next(results)
    engine.close()
    gc.collect()
    assert not fake.allocations and not fake.host_memory


@pytest.mark.parametrize(
    "name", ["cuMemcpyHtoDAsync", "cuGraphLaunch", "cuMemcpyDtoHAsync", "cuEventRecord", "cuStreamWaitEvent"]
)
@pytest.mark.parametrize("nth", [1, 4])
def test_a_passing_failure_leaves_the_engine_usable(network: Network, name: str, nth: int) -> None:
    for seed in range(4):
        fake, engine = lazily(network, seed)
        given = batches(6)
        fake.fail(name, 1, nth)
        with pytest.raises(errors.DeviceError, match=f"{name} failed"):
            list(engine.stream(given))
        for result, batch in zip(engine.stream(given), given, strict=True):
            np.testing.assert_array_equal(result["y"], network.expected(batch["x"]))
        engine.close()
        assert fake.violations == [] and not fake.allocations and not fake.host_memory


def test_an_illegal_address_marks_the_engine_dead(
    network: Network, on_fake: Callable[..., Engine], fake: FakeDriver
) -> None:
    engine = on_fake(network)
    fake.fail("cuGraphLaunch", 700, 2)
    with pytest.raises(errors.DeviceError, match="restart the process"):
        list(engine.stream(batches(4)))
    with pytest.raises(errors.DeviceError, match="unusable since an earlier failure"):
        engine(batches(1)[0]["x"])


@pytest.mark.parametrize("name", ["cuMemAlloc", "cuMemHostAlloc"])
@pytest.mark.parametrize("nth", range(1, 5))
def test_out_of_memory(
    network: Network, on_fake: Callable[..., Engine], fake: FakeDriver, x: np.ndarray, name: str, nth: int
) -> None:
    engine = on_fake(network)
    before = fake.used
    fake.fail(name, 2, nth)
    with pytest.raises(errors.DeviceError, match=r"memory.* for an .*put of batches that overlap: 200 bytes asked"):
        list(engine.stream(batches(3)))
    assert fake.used == before and not fake.host_memory
    np.testing.assert_array_equal(engine(x), network.expected(x))


def test_a_stream_that_is_left_gives_everything_back(network: Network) -> None:
    for seed in range(8):
        fake, engine = lazily(network, seed)
        before = fake.used
        results = engine.stream(batches(6))
        next(results)
        assert fake.used > before
        results.close()
        assert fake.used == before and not fake.host_memory and fake.violations == []


def test_a_pipeline_that_is_dropped_gives_everything_back(network: Network) -> None:
    """Also with batches on their way, and when its executor is dropped together with it, in a ring."""
    for seed in range(8):
        fake, engine = lazily(network, seed)
        executor: Any = engine.executor
        before, open_before = fake.used, +fake.open
        for ring in (False, True):
            pipeline = executor.pipeline()
            if ring:
                executor.ring = pipeline
            for batch in batches(2):
                pipeline.upload([batch["x"]])
                pipeline.launch()
            if ring:
                del engine, executor
            del pipeline
            gc.collect()
            expected = (0, {}) if ring else (before, open_before)
            assert (fake.used, +fake.open) == expected and not fake.host_memory and fake.violations == []


def test_closing_the_engine_ends_its_streams(network: Network) -> None:
    fake, engine = lazily(network, 1)
    results = engine.stream(batches(6))
    next(results)
    engine.close()
    assert not fake.allocations and not fake.host_memory and fake.violations == []
    with pytest.raises(errors.UsageError, match="closed"):
        next(results)


def test_arrays_on_the_gpu_are_refused(
    network: Network, on_fake: Callable[..., Engine], fake: FakeDriver, x: np.ndarray
) -> None:
    from convc.runtime.device_array import DeviceArray

    engine = on_fake(network)
    with engine.executor.device.current():
        there = DeviceArray(engine.executor.device, SHAPE, np.dtype(np.float32))
    with pytest.raises(errors.InputError, match=r"'x'.*in GPU memory"):
        list(engine.stream([{"x": there}]))


def test_elsewhere_batches_run_one_by_one(network: Network) -> None:
    """An executor without a pipeline; the network itself has the method, too."""

    class Plain:
        def prepare(self, artifact: Any, program: Any) -> None: ...

        def run(self, inputs: list[Any]) -> list[Any]:
            return [network.expected(inputs[0])]

        def close(self) -> None: ...

    made = CompiledNetwork(network.build(), Plain())  # type: ignore[arg-type]
    given = batches(3)
    for result, batch in zip(made.stream(given), given, strict=True):
        np.testing.assert_array_equal(result["y"], network.expected(batch["x"]))
