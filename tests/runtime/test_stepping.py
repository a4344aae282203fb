"""Launch by launch on the fake driver: what is read between launches, poison, launches on a stream of the caller's."""

from __future__ import annotations

import numpy as np
import pytest
from fake_driver import FakeDriver, LaunchRecord, floats
from tiny_network import COUNT

from convc.analysis.kernel_check import check_kernels
from convc.compiler import compile_plan
from convc.ir import DType, Graph, TensorType
from convc.passes import Switches
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.network import CompiledNetwork


def test_a_network_runs_launch_by_launch(network, fake, on_fake, x):
    engine = on_fake(network)
    executor = engine.executor
    executor.load([x])
    executor.advance(0, 1)
    assert [record.name for record in fake.replayed] == ["add_weights"]
    between = executor.buffer("arena").view(np.float32)[:COUNT]
    np.testing.assert_array_equal(between, (x + network.weights).ravel())
    assert np.isnan(executor.buffer("output:0").view(np.float32)).all(), "the second launch has not run"
    executor.advance(1)
    np.testing.assert_array_equal(executor.buffer("output:0").view(np.float32), network.expected(x).ravel())
    assert fake.violations == []


def test_poison_covers_what_a_run_writes_and_nothing_else(network, fake, on_fake, x):
    engine = on_fake(network)
    engine(x)
    executor = engine.executor
    before = {name: executor.buffer(name).tobytes() for name in ("input:0", "weights")}
    executor.poison()
    for name in ("arena", "output:0"):
        assert set(executor.buffer(name)) == {0xFF}
    assert before == {name: executor.buffer(name).tobytes() for name in before}
    np.testing.assert_array_equal(engine(x), network.expected(x))
    assert fake.violations == []


def test_a_network_is_launched_on_the_callers_stream(network, fake, on_fake, x):
    engine = on_fake(network)
    executor = engine.executor
    executor.load([x])
    with executor.device.current():
        stream = executor.device.driver.create_stream()
        executor.enqueue(stream)
        executor.device.driver.synchronize(stream)
        executor.device.driver.destroy_stream(stream)
    np.testing.assert_array_equal(executor.buffer("output:0").view(np.float32), network.expected(x).ravel())


def negation() -> Graph:
    graph = Graph("negation")
    graph.add_output("y", graph.add("Neg", [graph.add_input("x", TensorType(DType.FP32, (4, 8)))]))
    return graph


@pytest.mark.parametrize(("factor", "ok"), [(-1.0, True), (-1.001, False), (None, False)])
def test_kernels_are_compared_one_by_one_on_a_gpu(factor, ok):
    """A kernel that is right, one that is a little wrong, and one that writes nothing."""
    pytest.importorskip("triton", reason="the kernel is compiled with Triton")
    plan = make_plan(negation(), Options(("sm_90",), "fp32", 1, Switches()))
    (launch,) = plan.programs[0].launches

    def negate(record: LaunchRecord) -> None:
        if factor is not None:
            floats(record.values[1], 32)[:] = factor * floats(record.values[0], 32)

    fake = FakeDriver(hooks={launch.kernel.name: negate})
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    executor = CudaExecutor(driver=Driver(fake))
    (check,) = check_kernels(plan, CompiledNetwork(compile_plan(plan)), executor, {"x": x})
    assert check.ok is ok and check.kernel == launch.kernel.name
    assert fake.violations == []
