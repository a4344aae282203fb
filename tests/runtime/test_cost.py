"""What the runtime itself costs: of a run on the host, and from a file to the first result."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from tiny_network import COUNT, Network
from undisturbed import MICROSECONDS_PER_RUN, fastest

from convc.runtime import driver
from convc.runtime import manifest as m
from convc.runtime.artifact import pack_weights, read
from convc.runtime.cuda import CudaExecutor
from convc.runtime.engine import Engine, load
from convc.runtime.weights import SECTION, weight_bytes

SECONDS_TO_THE_FIRST_RESULT = 0.5
MEGABYTES, TENSORS, LAUNCHES = 51, 160, 60
"""About those of ResNet-50 in fp16."""


class Still(FakeDriver):
    """A driver whose calls, once it is still, take next to no time: what is left is the runtime's."""

    def __init__(self) -> None:
        super().__init__(hooks=HOOKS)
        self.stillness: list[int] = []

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if not name.startswith("cu"):
            return found
        still = self.stillness
        return lambda *arguments: still or found(*arguments)

    @contextmanager
    def still(self) -> Iterator[None]:
        """All calls succeed, and nothing happens."""
        self.stillness.append(0)
        yield
        self.stillness.clear()


@pytest.mark.parametrize("way", ["call", "run", "bound"])
def test_a_run_costs_little_on_the_host(network: Network, x: np.ndarray, way: str) -> None:
    raw = Still()
    engine = Engine(network.build(), CudaExecutor(driver=driver.Driver(raw)))
    bound = engine.bind({"x": engine.executor.new_array(engine.inputs[0])})  # type: ignore[attr-defined]
    action = {"call": lambda: engine(x), "run": lambda: engine.run({"x": x}), "bound": bound}[way]
    limit = MICROSECONDS_PER_RUN * 1e-6
    with raw.still():
        assert fastest(action, limit, clock=time.thread_time) <= limit


def large(network: Network) -> Network:
    """The tiny kernels launched often, between as much memory of weights as ResNet-50 has."""
    random = np.random.default_rng(0)
    size = MEGABYTES * (1 << 20) // TENSORS
    arrays = {f"w{i}": random.integers(0, 255, size, dtype=np.uint8) for i in range(TENSORS)}
    arrays = {"w": network.weights} | arrays
    section, specs, total = pack_weights(arrays)
    add, clamp = network.manifest.programs[0].launches
    again = msgspec.structs.replace(
        clamp, arguments=(m.BufferArgument("arena"), m.BufferArgument("arena"), m.IntegerArgument(COUNT))
    )
    launches = (add, *[again] * (LAUNCHES - 2), clamp)
    manifest = msgspec.structs.replace(
        network.with_program(launches=launches).manifest, weights=specs, weights_bytes=total
    )
    return Network(manifest, network.blobs | {SECTION: section}, network.weights)


def test_the_first_result_comes_soon(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x: np.ndarray
) -> None:
    """From a file to the first result, beyond reading it: hashes are compared, weights copied, launches captured. In
    this process's own time: none of it waits for anything."""
    path = tmp_path / "large.convc"
    large(network).build().save(path)
    assert path.stat().st_size > MEGABYTES << 20
    monkeypatch.setattr(driver, "bindings", lambda: FakeDriver(hooks=HOOKS))

    def first() -> None:
        with load(path, "cuda") as engine:
            np.testing.assert_array_equal(engine(x), network.expected(x))

    reading = fastest(path.read_bytes, 0, repeats=1, attempts=5, clock=time.process_time)
    limit = SECONDS_TO_THE_FIRST_RESULT + reading
    assert fastest(first, limit, repeats=1, attempts=10, clock=time.process_time) <= limit


def test_weights_are_not_copied_on_the_host(network: Network, tmp_path: Path) -> None:
    """What goes to the driver are the pages of the file."""
    network.build().save(tmp_path / "m.convc")
    for artifact in (read(tmp_path / "m.convc"), network.build()):
        section = np.frombuffer(artifact.section(SECTION), np.uint8)
        for spec, data in weight_bytes(artifact):
            assert np.shares_memory(np.frombuffer(data, np.uint8), section) and len(data) == spec.nbytes


def test_sources_and_graph_are_not_read(
    network: Network, fake: FakeDriver, monkeypatch: pytest.MonkeyPatch, x: np.ndarray
) -> None:
    """A run needs the weights and the cubins; what is there for people is left alone."""
    artifact = network.build()
    asked: list[str] = []
    section = type(artifact).section
    monkeypatch.setattr(type(artifact), "section", lambda self, name: asked.append(name) or section(self, name))
    Engine(artifact, CudaExecutor(driver=driver.Driver(fake)))(x)
    assert set(asked) == {SECTION, "sm_90/add_weights.cubin", "sm_90/relu.cubin"}
