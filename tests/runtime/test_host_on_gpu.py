"""Steps of the host on a GPU: between pieces of the graph, in any order that streams and events leave open."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from fake_streams import Immediate, Lazy
from test_bound import Gpu
from tiny_network import COUNT, SHAPE, Network, tiny_network

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.course import Host
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine
from convc.runtime.host import HostStep

SEEDS = range(25)
BEHIND = 256
"""Where the host's result is in the arena."""
SHARED = """graph "hosted" stage=fused
%0 = Input() {name="x"} : fp32[2, 5, 5]
%1 = Constant(@c0) : fp32[2, 5, 5]
%2 = CumSum(%0) {axis=0} : fp32[2, 5, 5] region=0  # "early"
%3 = Add(%0, %1) : fp32[2, 5, 5] region=1
%4 = CumSum(%3) {axis=1} : fp32[2, 5, 5] region=2  # "late"
%5 = Add(%4, %2) : fp32[2, 5, 5] region=2
%6 = NonZero(%3) {count=n} : int64[3, n] region=2
%7 = Relu(%5) : fp32[2, 5, 5] region=3
%8 = Output(%7) {name="y"} : fp32[2, 5, 5]
"""


def dense(node: int, buffer: str, offset: int = 0) -> m.HostTensor:
    return m.HostTensor(node, 0, buffer, offset, "fp32", SHAPE, (25, 5, 1))


STEPS = (
    m.HostStepSpec(before=0, nodes=(2,), reads=(dense(0, "input:0"),), writes=(), origins=("early",)),
    m.HostStepSpec(1, (4, 5, 6), (dense(3, "arena"),), (dense(5, "arena", BEHIND),), origins=("late",)),
)


class Hosted(Network):
    """``y = max(Σ(x + w) + Σx, 0)``: kernels add and clamp, the host sums; and where x + w is not 0."""

    def sums(self, x: np.ndarray) -> np.ndarray:
        return np.cumsum(x + self.weights, axis=1, dtype=np.float32) + np.cumsum(x, axis=0, dtype=np.float32)

    def expected(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(self.sums(x), np.float32(0))

    def places(self, x: np.ndarray) -> np.ndarray:
        return np.array(np.nonzero(x + self.weights))


def hosted(cubins: dict[str, bytes], found: bool = True) -> Hosted:
    """found: with the output whose size a run finds out."""
    network = tiny_network(cubins)
    program = network.manifest.programs[0]
    add, relu = program.launches
    arguments = (m.BufferArgument("arena", BEHIND), *relu.arguments[1:])
    program = msgspec.structs.replace(
        program,
        launches=(add, msgspec.structs.replace(relu, arguments=arguments)),
        arena_bytes=BEHIND + 4 * COUNT,
        host_steps=STEPS,
    )
    outputs = (*network.manifest.outputs, m.TensorSpec("places", "int64", (3, m.FOUND_SIZE)))[: 1 + found]
    manifest = msgspec.structs.replace(network.manifest, programs=(program,), outputs=outputs)
    text = SHARED + '%9 = Output(%6) {name="places"} : int64[3, n]\n' * found
    return Hosted(manifest, network.blobs | {"graph.txt": text.encode()}, network.weights)


@pytest.fixture
def network(cubins: dict[str, bytes]) -> Hosted:
    return hosted(cubins)


def some_inputs(count: int) -> list[np.ndarray]:
    """With zeros where x + w is to be 0 for some of them, so that sizes differ."""
    random = np.random.default_rng(count)
    return [random.standard_normal(SHAPE).astype(np.float32) for _ in range(count)]


def check(network: Hosted, x: np.ndarray, results: dict[str, Any]) -> None:
    np.testing.assert_array_equal(results["y"], network.expected(x), strict=True)
    np.testing.assert_array_equal(results["places"], network.places(x), strict=True)


# -- running ----------------------------------------------------------------------------------------------------------
def test_the_host_works_between_launches(network: Hosted, fake: FakeDriver, on_fake: Callable[..., Engine]) -> None:
    engine = on_fake(network)
    before = len(fake.calls)
    x = some_inputs(1)[0]
    x.flat[:7] = -network.weights.flat[:7]
    results = engine.run({"x": x})
    check(network, x, results)
    assert results["places"].shape == (3, COUNT - 7)
    copy_in, copy_out, launch, wait = "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuGraphLaunch", "cuStreamSynchronize"
    first, second = [copy_out, wait], [copy_out, wait, copy_in]
    calls = [call for call in fake.calls[before:] if "Ctx" not in call]
    assert calls == [copy_in, *first, launch, *second, launch, copy_out, wait]
    engine.close()
    del engine
    gc.collect()
    assert fake.clean and fake.violations == []


def test_without_steps_a_run_is_one_graph(cubins, fake, on_fake, x) -> None:
    on_fake(tiny_network(cubins))(x)
    assert fake.calls.count("cuGraphLaunch") == 1 and "cuMemHostAlloc" not in fake.calls


def wrong_seeds(network: Hosted, run: Callable[[Engine, list[np.ndarray]], list[Any]]) -> list[int]:
    """The seeds with which any of several runs in a row gives something else than it should."""
    found = []
    for seed in SEEDS:
        fake = FakeDriver(hooks=HOOKS, schedule=Lazy(seed))
        engine = Engine(network.build(), CudaExecutor(driver=Driver(fake)))
        given = some_inputs(4)
        results = run(engine, given)
        assert len(results) == 4 and fake.violations == []
        if any(not np.array_equal(r["y"], network.expected(g)) for r, g in zip(results, given, strict=True)):
            found.append(seed)
    return found


def one_by_one(engine: Engine, given: list[np.ndarray]) -> list[Any]:
    return [engine.run({"x": x}) for x in given]


def streamed(engine: Engine, given: list[np.ndarray]) -> list[Any]:
    return list(engine.stream({"x": x} for x in given))


@pytest.mark.parametrize("run", [one_by_one, streamed])
def test_in_any_order_of_the_streams(network: Hosted, run: Any) -> None:
    assert wrong_seeds(network, run) == []


@pytest.mark.parametrize("run", [one_by_one, streamed])
def test_the_wait_is_needed(network: Hosted, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the host computes with what was there before."""
    take = Host.take

    def hasty(self: Host, launches: int, buffers: Any, stream: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(self._driver, "synchronize", lambda stream: None)
            take(self, launches, buffers, stream)

    monkeypatch.setattr(Host, "take", hasty)
    assert wrong_seeds(network, run)


def test_streamed_batches_have_their_own_sizes(network: Hosted, on_fake: Callable[..., Engine]) -> None:
    given = some_inputs(5)
    for number, x in enumerate(given):
        x.flat[:number] = -network.weights.flat[:number]
    for x, results in zip(given, on_fake(network).stream({"x": x} for x in given), strict=True):
        check(network, x, results)


@pytest.mark.parametrize("seed", SEEDS)
def test_on_the_caller_s_stream(cubins: dict[str, bytes], seed: int) -> None:
    network = hosted(cubins, found=False)
    gpu = Gpu(network, Lazy(seed))
    first, second = some_inputs(2)
    array, stream = gpu.array(np.zeros(SHAPE, np.float32)), gpu.stream()
    bound = gpu.engine.bind({"x": array})
    for x in (first, second):
        gpu.queue_copy(array, x, stream)
        outputs = bound(stream)
        np.testing.assert_array_equal(gpu.engine.run({"x": second})["y"], network.expected(second))  # in between
        np.testing.assert_array_equal(gpu.read(outputs["y"], stream), network.expected(x))
    assert gpu.fake.violations == []


def test_an_output_of_unknown_size_cannot_be_bound(network: Hosted) -> None:
    gpu = Gpu(network)
    with pytest.raises(errors.DeviceError, match="'places' has a size that only the run finds out"):
        gpu.engine.bind({"x": gpu.array(np.zeros(SHAPE, np.float32))})


def test_arrays_on_the_gpu(network: Hosted) -> None:
    gpu = Gpu(network, Immediate())
    x = some_inputs(1)[0]
    results = gpu.engine.run({"x": gpu.array(x)})
    check(network, x, {name: gpu.read(array) for name, array in results.items()})


def test_piece_by_piece(network: Hosted, on_fake: Callable[..., Engine], fake: FakeDriver) -> None:
    """What a launch has in front of it is done when it is looked at, and what it brings on behind it."""
    engine: Any = on_fake(network)
    x = some_inputs(1)[0]
    engine.executor.load([x])
    engine.executor.advance(0, 1)
    behind = engine.executor.buffer("arena")[BEHIND:].view(np.float32)
    np.testing.assert_array_equal(behind.reshape(SHAPE), network.sums(x))
    engine.executor.advance(1, 2)
    np.testing.assert_array_equal(
        engine.executor.buffer("output:0").view(np.float32).reshape(SHAPE), network.expected(x)
    )


def test_profile_and_measure(network: Hosted, on_fake: Callable[..., Engine]) -> None:
    engine = on_fake(network)
    x = some_inputs(1)[0]
    assert engine.profile({"x": x}) == [1000.0, 1000.0]
    assert engine.measure({"x": x}, repeats=2) == [2000.0, 2000.0]
    check(network, x, engine.run({"x": x}))


# -- failures ---------------------------------------------------------------------------------------------------------
def test_a_step_that_fails_leaves_the_engine_usable(
    network: Hosted, on_fake: Callable[..., Engine], fake: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = on_fake(network)
    x = some_inputs(1)[0]
    with monkeypatch.context() as patch:
        patch.setattr(HostStep, "_evaluate", lambda *_: np.zeros(2)[5])
        with pytest.raises(errors.DeviceError, match="the host could not compute it: IndexError") as raised:
            engine.run({"x": x})
        assert raised.value.node == "early" and not raised.value.sticky
        with pytest.raises(errors.DeviceError, match="IndexError"):
            list(engine.stream([{"x": x}, {"x": x}]))
    check(network, x, engine.run({"x": x}))
    assert fake.violations == []


@pytest.mark.parametrize("bad", range(5))
def test_a_step_that_fails_in_a_stream_comes_behind_the_results_before_it(
    network: Hosted, on_fake: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    engine, given, evaluate = on_fake(network), some_inputs(5), HostStep._evaluate

    def refusing(self: HostStep, memory: Any, kept: Any) -> Any:
        values = evaluate(self, memory, kept)
        assert not any(np.array_equal(array, given[bad]) for array in values.values()), "the bad batch"
        return values

    results = engine.stream({"x": x} for x in given)
    with monkeypatch.context() as patch:
        patch.setattr(HostStep, "_evaluate", refusing)
        for x in given[:bad]:
            check(network, x, next(results))
        with pytest.raises(errors.DeviceError, match="the bad batch"):
            next(results)
    check(network, given[bad], engine.run({"x": given[bad]}))


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("name", ["cuMemcpyDtoHAsync", "cuStreamSynchronize", "cuGraphLaunch", "cuMemcpyHtoDAsync"])
def test_any_call_may_fail(
    network: Hosted, on_fake: Callable[..., Engine], fake: FakeDriver, name: str, nth: int
) -> None:
    engine = on_fake(network)
    x = some_inputs(1)[0]
    fake.fail(name, 2, nth)
    made = fake.calls.count(name)
    try:
        engine.run({"x": x})
    except errors.DeviceError as error:
        assert name in str(error)
    else:
        assert fake.calls.count(name) - made < nth
        fake.fail(name, 0, 10**9)
    check(network, x, engine.run({"x": x}))


def test_page_locked_memory_may_run_out(network: Hosted, on_fake: Callable[..., Engine], fake: FakeDriver) -> None:
    fake.fail("cuMemHostAlloc", 2, 2)
    with pytest.raises(errors.DeviceError, match="a step of the host"):
        on_fake(network)
    gc.collect()
    assert fake.clean


# -- files ------------------------------------------------------------------------------------------------------------
def test_the_format_version_says_that_there_are_steps(network: Hosted, cubins: dict[str, bytes]) -> None:
    assert network.build().manifest.format[0] == 2 and tiny_network(cubins).build().manifest.format[0] == 1


def lied(network: Hosted, number: int, **changes: Any) -> Hosted:
    steps = list(STEPS)
    steps[number] = msgspec.structs.replace(steps[number], **changes)
    return Hosted(network.with_program(host_steps=tuple(steps)).manifest, network.blobs, network.weights)


def tensor(**changes: Any) -> tuple[m.HostTensor]:
    return (msgspec.structs.replace(dense(3, "arena"), **changes),)


def written(**changes: Any) -> tuple[m.HostTensor]:
    return (msgspec.structs.replace(dense(5, "arena", BEHIND), **changes),)


HUGE = 1 << 60
MANIFESTS: dict[str, tuple[int, dict[str, Any], str]] = {
    "out of order": (0, {"before": 2}, "step 1 of the host is behind 1 launches, expected 2 to 2"),
    "behind the end": (1, {"before": 3}, "behind 3 launches, expected 0 to 2"),
    "negative": (1, {"before": -1}, "manifest"),
    "no nodes": (1, {"nodes": ()}, r"nodes \[\]"),
    "a node twice": (1, {"nodes": (4, 4)}, r"nodes \[4, 4\]"),
    "a tensor twice": (1, {"reads": 2 * tensor()}, "tensor '%3.0' is listed twice"),
    "unknown buffer": (1, {"reads": tensor(buffer="input:1")}, "'input:1', which is unknown or not the host's"),
    "weights": (1, {"reads": tensor(buffer="weights")}, "'weights', which is unknown or not the host's"),
    "counters": (1, {"writes": written(buffer="counters")}, "'counters', which is unknown or not the host's"),
    "an input that is written": (1, {"writes": written(buffer="input:0", offset=0)}, "is put into 'input:0'"),
    "dtype": (1, {"reads": tensor(dtype="fp33")}, "unknown dtype 'fp33'"),
    "behind the buffer": (1, {"reads": tensor(offset=260)}, "bytes 260 to 460 of 'arena', which has 456"),
    "far behind it": (1, {"reads": tensor(offset=HUGE)}, "which has 456"),
    "odd offset": (1, {"reads": tensor(offset=2)}, "offset 2 is not a multiple of 4"),
    "in front of the buffer": (1, {"reads": tensor(strides=(-25, 5, 1))}, "bytes -100 to 100"),
    "wide strides": (1, {"reads": tensor(strides=(HUGE, 5, 1))}, "which has 456"),
    "strides": (1, {"reads": tensor(strides=(25, 5))}, "has 2 strides"),
    "large": (1, {"reads": tensor(extents=(HUGE, 5, 5))}, "which has 456"),
    "gaps": (1, {"writes": written(strides=(26, 5, 1), offset=200)}, "leave gaps"),
    "overlaps": (1, {"writes": written(strides=(0, 5, 1))}, "leave gaps"),
    "rank": (1, {"reads": tensor(extents=(1,) * 33, strides=(1,) * 33)}, "manifest"),
}


@pytest.mark.parametrize("lie", MANIFESTS)
def test_lying_steps(network: Hosted, lie: str) -> None:
    number, changes, words = MANIFESTS[lie]
    with pytest.raises(errors.ArtifactError, match=words):
        lied(network, number, **changes).build()


GRAPHS: dict[str, tuple[int, dict[str, Any], str]] = {
    "a node that is not there": (1, {"nodes": (4, 5, 99)}, "99"),
    "a value that is not there": (1, {"reads": tensor(node=98)}, "98"),
    "a result that is not there": (1, {"reads": (*tensor(), *tensor(output=1))}, "out of range"),
    "nothing to read": (1, {"reads": ()}, "%4 reads %3, which the host does not have"),
    "nodes in the wrong order": (1, {"nodes": (5, 4, 6)}, "%5 reads %4, which the host does not have"),
    "what a later step makes": (0, {"nodes": (2, 5)}, "%5 reads %4, which the host does not have"),
    "another size": (1, {"reads": tensor(extents=(2, 5, 4))}, "%3, which is fp32"),
    "another type": (1, {"reads": tensor(dtype="int32")}, "int32.* for %3, which is fp32"),
    "a result of nobody's": (1, {"writes": written(node=2)}, "%2 is put into a buffer by a step that does not make it"),
    "an output that nobody makes": (1, {"nodes": (4, 5)}, "does not make the output 'places'"),
}


@pytest.mark.parametrize("lie", GRAPHS)
def test_steps_that_do_not_fit_the_graph(
    network: Hosted, on_fake: Callable[..., Engine], fake: FakeDriver, lie: str
) -> None:
    number, changes, words = GRAPHS[lie]
    with pytest.raises(errors.ArtifactError, match=words):
        on_fake(lied(network, number, **changes))
    gc.collect()
    assert fake.clean


@pytest.mark.parametrize("lie", [{"dtype": "int32"}, {"shape": (m.FOUND_SIZE,)}])
def test_an_output_of_another_type_than_the_host_makes(
    network: Hosted, on_fake: Callable[..., Engine], lie: dict[str, Any]
) -> None:
    """Its array on the GPU would be too small for what is copied there."""
    y, places = network.manifest.outputs
    manifest = msgspec.structs.replace(network.manifest, outputs=(y, msgspec.structs.replace(places, **lie)))
    with pytest.raises(errors.ArtifactError, match=r"the output 'places' is .*, the host's int64"):
        on_fake(Hosted(manifest, network.blobs, network.weights))


def test_a_text_that_is_no_graph(network: Hosted, on_fake: Callable[..., Engine]) -> None:
    with pytest.raises(errors.ArtifactError, match=r"graph\.txt"):
        on_fake(Hosted(network.manifest, network.blobs | {"graph.txt": b"add; relu"}, network.weights))
