"""A network bound to the caller's memory on the GPU, on the caller's stream."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from fake_streams import Immediate, Lazy, Stream
from tiny_network import SHAPE, Network, interface_only

from convc import errors
from convc.runtime.cuda import CudaExecutor
from convc.runtime.device_array import DeviceArray
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine

SEEDS = range(20)


class Gpu:
    """A driver, an engine on it, and arrays and a stream of the caller's."""

    def __init__(self, network: Network, schedule: Immediate | Lazy | None = None) -> None:
        self.fake = FakeDriver(hooks=HOOKS, schedule=schedule)
        self.engine = Engine(network.build(), CudaExecutor(driver=Driver(self.fake)))
        self.device = self.engine.executor.device  # type: ignore[attr-defined]

    def array(self, values: np.ndarray) -> DeviceArray:
        with self.device.current():
            made = DeviceArray(self.device, values.shape, values.dtype)
        ctypes.memmove(made.pointer, values.ctypes.data, values.nbytes)
        return made

    def stream(self) -> Any:
        with self.device.current():
            return self.device.driver.create_stream()

    def queue_copy(self, array: DeviceArray, values: np.ndarray, stream: Any) -> None:
        with self.device.current():
            self.device.driver.to_device(array.pointer, values.ctypes.data, values.nbytes, stream)

    def read(self, array: DeviceArray, stream: Any = None) -> np.ndarray:
        if stream is not None:
            with self.device.current():
                self.device.driver.synchronize(stream)
        found = np.empty(array.shape, array.dtype)
        ctypes.memmove(found.ctypes.data, array.pointer, array.nbytes)
        return found


@pytest.fixture
def gpu(network: Network) -> Gpu:
    return Gpu(network)


def test_runs_where_the_arrays_are(network: Network, gpu: Gpu, x: np.ndarray) -> None:
    """What the input holds when the network is called counts, and nothing is copied or allocated."""
    array = gpu.array(x)
    bound = gpu.engine.bind({"x": array})
    before = len(gpu.fake.calls)
    outputs = bound()
    assert gpu.fake.calls[before:] == ["cuCtxPushCurrent", "cuGraphLaunch", "cuStreamSynchronize", "cuCtxPopCurrent"]
    np.testing.assert_array_equal(gpu.read(outputs["y"]), network.expected(x))
    ctypes.memmove(array.pointer, (-x).ctypes.data, x.nbytes)
    assert bound()["y"] is outputs["y"]
    np.testing.assert_array_equal(gpu.read(outputs["y"]), network.expected(-x))
    assert gpu.fake.violations == []


@pytest.mark.parametrize("spelled", [lambda array: array, interface_only])
def test_outputs_of_the_caller(network: Network, gpu: Gpu, x: np.ndarray, spelled: Any) -> None:
    into = gpu.array(np.zeros(SHAPE, np.float32))
    given = spelled(into)
    bound = gpu.engine.bind({"x": spelled(gpu.array(x))}, {"y": given})
    assert bound()["y"] is given
    np.testing.assert_array_equal(gpu.read(into), network.expected(x))
    with pytest.raises(errors.InputError, match="no input 'z'"):
        gpu.engine.bind({"x": gpu.array(x)}, {"z": into})


@pytest.mark.parametrize("seed", SEEDS)
def test_on_the_caller_s_stream(network: Network, seed: int) -> None:
    """In order with what the caller queues there, with runs of the engine itself, and with another binding."""
    gpu = Gpu(network, Lazy(seed))
    random = np.random.default_rng(seed)
    first, second = ((gpu.array(np.zeros(SHAPE, np.float32)), gpu.stream()) for _ in range(2))
    pairs = [(array, stream, gpu.engine.bind({"x": array})) for array, stream in (first, second)]
    for _ in range(4):
        values = random.standard_normal((3, *SHAPE)).astype(np.float32)
        for (array, stream, bound), x in zip(pairs, values, strict=False):
            gpu.queue_copy(array, x, stream)
            bound(stream)
        np.testing.assert_array_equal(gpu.engine(values[2]), network.expected(values[2]))
        for (_, stream, bound), x in zip(pairs, values, strict=False):
            np.testing.assert_array_equal(gpu.read(bound.outputs["y"], stream), network.expected(x))
    assert gpu.fake.violations == []


@pytest.mark.parametrize("missing", ["before", "after"])
def test_both_waits_are_needed(network: Network, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs share the arena: without either wait some order of the streams gives wrong results."""
    wait = Driver.wait

    def forgetful(self: Driver, stream: Stream, event: Any) -> None:
        own = stream is not theirs[0]
        if own != (missing == "after"):
            wait(self, stream, event)

    monkeypatch.setattr(Driver, "wait", forgetful)
    theirs: list[Any] = [None]
    for seed in range(60):
        gpu = Gpu(network, Lazy(seed))
        x = np.random.default_rng(seed).standard_normal((2, *SHAPE)).astype(np.float32)
        theirs[0] = gpu.stream()
        bound = gpu.engine.bind({"x": gpu.array(x[0])})
        results = gpu.engine.stream({"x": x[1]} for _ in range(2))
        for result in results:
            bound(theirs[0])
            if not np.array_equal(result["y"], network.expected(x[1])):
                return
            if not np.array_equal(gpu.read(bound.outputs["y"], theirs[0]), network.expected(x[0])):
                return
    pytest.fail("no order gave a wrong result")


def test_wrong_arrays(network: Network, gpu: Gpu, x: np.ndarray) -> None:
    array = gpu.array(x)
    with pytest.raises(errors.InputError, match=r"'x'.*is in host memory"):
        gpu.engine.bind({"x": x})
    pointer = array.pointer + 8
    with pytest.raises(errors.InputError, match="not a multiple of 16"):
        gpu.engine.bind({"x": interface_only(array, data=(pointer, False))})
    with pytest.raises(errors.InputError, match="expected 3 dimensions"):
        gpu.engine.bind({"x": gpu.array(x[0])})
    with pytest.raises(errors.InputError, match=r"'y'.*expected dtype float32"):
        gpu.engine.bind({"x": array}, {"y": gpu.array(x.astype(np.float64))})
    with pytest.raises(errors.InputError, match="no array for input 'x'"):
        gpu.engine.bind({})


def test_outputs_apart_from_everything_else(network: Network, gpu: Gpu, x: np.ndarray) -> None:
    array, two = gpu.array(x), gpu.array(np.concatenate([x, x, x]))
    behind = interface_only(two, shape=SHAPE, data=(two.pointer + 208, False))
    for given, into, words in (
        (array, array, "output 'y' shares memory with input 'x'"),
        (interface_only(two, shape=SHAPE), interface_only(two, shape=SHAPE, data=(two.pointer + 192, False)), "shares"),
        (array, interface_only(two, shape=SHAPE, data=(two.pointer, True)), "'y'.*is read-only"),
    ):
        with pytest.raises(errors.InputError, match=words):
            gpu.engine.bind({"x": given}, {"y": into})
    gpu.engine.bind({"x": interface_only(two, shape=SHAPE, data=(two.pointer, True))}, {"y": behind})()
    np.testing.assert_array_equal(gpu.read(two)[2:].reshape(-1)[2:52], network.expected(x).reshape(-1))


def test_a_run_that_is_interrupted(network: Network, gpu: Gpu, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been queued by then is waited for: on the caller's stream by later runs, on the engine's at once."""
    bound, stream = gpu.engine.bind({"x": gpu.array(x)}), gpu.stream()
    launch = gpu.device.driver.launch_graph

    def interrupted(*arguments: Any) -> None:
        launch(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu.device.driver, "launch_graph", interrupted)
    for run, last in ((lambda: bound(stream), "cuStreamWaitEvent"), (lambda: gpu.engine(x), "cuGraphLaunch")):
        before = len(gpu.fake.calls)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert gpu.fake.calls[before:][-3:] == [last, "cuStreamSynchronize", "cuCtxPopCurrent"]
    monkeypatch.undo()
    np.testing.assert_array_equal(gpu.engine(x), network.expected(x))


def test_the_first_failure_is_told(gpu: Gpu, x: np.ndarray) -> None:
    """Not one of the calls behind it, which fail as well."""
    bound, stream = gpu.engine.bind({"x": gpu.array(x)}), gpu.stream()
    gpu.fake.fail("cuGraphLaunch", 700)
    gpu.fake.fail("cuEventRecord", 700, 2)
    with pytest.raises(errors.DeviceError, match="cuGraphLaunch failed"):
        bound(stream)


def test_a_capture_that_is_interrupted(
    network: Network, gpu: Gpu, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes next on the engine's stream is run, not recorded."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu.device.driver, "launch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        gpu.engine.bind({"x": gpu.array(x)})
    monkeypatch.undo()
    np.testing.assert_array_equal(gpu.engine(x), network.expected(x))
    assert gpu.engine.bind({"x": gpu.array(x)})() and gpu.fake.violations == []


def test_elsewhere(network: Network, x: np.ndarray) -> None:
    class Plain:
        def prepare(self, artifact: Any, program: Any) -> None: ...

        def close(self) -> None: ...

    with pytest.raises(errors.DeviceError, match="only an engine on a GPU can be bound"):
        Engine(network.build(), Plain()).bind({"x": x})  # type: ignore[arg-type]


def test_closing(network: Network, gpu: Gpu, x: np.ndarray) -> None:
    """The outputs outlive the engine; the network does not."""
    bound = gpu.engine.bind({"x": gpu.array(x)})
    outputs = bound()
    gpu.engine.close()
    with pytest.raises(errors.UsageError, match="closed"):
        bound()
    np.testing.assert_array_equal(gpu.read(outputs["y"]), network.expected(x))
    del outputs, bound
    gc.collect()
    assert not gpu.fake.allocations and not gpu.fake.open["event"] and not gpu.fake.open["executable graph"]


@pytest.mark.parametrize("seed", range(4))
def test_dropping(network: Network, x: np.ndarray, seed: int) -> None:
    """A bound network that nobody holds any longer gives everything back, and what it has queued is still done."""
    gpu = Gpu(network, Lazy(seed))
    array, into, stream = gpu.array(x), gpu.array(np.zeros(SHAPE, np.float32)), gpu.stream()
    before = +gpu.fake.open
    for _ in range(3):
        gpu.engine.bind({"x": array}, {"y": into})(stream)
    gc.collect()
    assert +gpu.fake.open == before
    np.testing.assert_array_equal(gpu.read(into, stream), network.expected(x))
    assert gpu.fake.violations == []


def test_keeps_its_executor(network: Network, x: np.ndarray) -> None:
    """What is bound runs in the executor's arena."""
    fake = FakeDriver(hooks=HOOKS)
    executor = CudaExecutor(driver=Driver(fake))
    executor.prepare(network.build(), None)
    with executor.device.current():
        array, into = (DeviceArray(executor.device, SHAPE, np.dtype(np.float32)) for _ in range(2))
    ctypes.memmove(array.pointer, x.ctypes.data, x.nbytes)
    bound = executor.bind({"input:0": array.pointer, "output:0": into.pointer})
    del executor
    gc.collect()
    bound.run()
    found = into.numpy()
    np.testing.assert_array_equal(found, network.expected(x))
    del bound, array, into
    gc.collect()
    assert fake.clean and fake.violations == []


def test_closing_in_a_fork(network: Network, gpu: Gpu, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to the parent is left alone."""
    executor: CudaExecutor = gpu.engine.executor  # type: ignore[assignment]
    array = gpu.array(x)
    made = [executor.bind({"input:0": array.pointer}), executor.pipeline()]
    before = len(gpu.fake.calls)
    monkeypatch.setattr("os.getpid", lambda: gpu.device.pid + 1)
    for each in made:
        each.close()
    assert len(gpu.fake.calls) == before


def test_failures(network: Network, gpu: Gpu, x: np.ndarray) -> None:
    array = gpu.array(x)
    before = gpu.fake.used
    gpu.fake.fail("cuGraphInstantiate", 1)
    with pytest.raises(errors.DeviceError, match="cuGraphInstantiate failed"):
        gpu.engine.bind({"x": array})
    gc.collect()
    assert gpu.fake.used == before
    gpu.fake.fail("cuEventCreate", 1, nth=2)
    with pytest.raises(errors.DeviceError, match="cuEventCreate failed"):
        gpu.engine.bind({"x": array})
    assert not gpu.fake.open["event"]
    bound = gpu.engine.bind({"x": array})
    gpu.fake.fail("cuGraphLaunch", 1)
    with pytest.raises(errors.DeviceError, match="cuGraphLaunch failed"):
        bound()
    np.testing.assert_array_equal(gpu.read(bound()["y"]), network.expected(x))
