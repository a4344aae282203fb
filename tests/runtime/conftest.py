"""Cubins of two tiny kernels, a network made of them, a fake driver that runs it, and arrays in its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from recorder import engine_for
from tiny_network import SHAPE, Network, tiny_network

from convc.runtime.cuda import CudaExecutor
from convc.runtime.device_array import DeviceArray
from convc.runtime.driver import Device, Driver
from convc.runtime.engine import Engine


@pytest.fixture(scope="session")
def cubins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Kernel name → cubin for sm_90, compiled here and now. The process that compiles never runs the engine."""
    pytest.importorskip("triton", reason="the kernels of these tests are compiled with Triton")
    folder = tmp_path_factory.mktemp("cubins")
    script = Path(__file__).with_name("tiny_kernels.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {path.stem: path.read_bytes() for path in sorted(folder.glob("*.cubin"))}


@pytest.fixture
def network(cubins: dict[str, bytes]) -> Network:
    return tiny_network(cubins)


@pytest.fixture
def fake() -> FakeDriver:
    return FakeDriver(hooks=HOOKS)


@pytest.fixture
def on_fake(fake: FakeDriver) -> Callable[..., Engine]:
    """An engine for a network on the fake driver."""
    return lambda network, **options: Engine(network.build(), CudaExecutor(driver=Driver(fake)), **options)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)


@pytest.fixture
def two() -> Engine:
    """An engine with two inputs and two outputs."""
    return engine_for({"a": ("fp32", (2, 3)), "b": ("int64", ())}, {"p": ("fp32", (1,)), "q": ("bf16", (2,))})


@pytest.fixture
def on_gpu(fake: FakeDriver) -> Callable[[np.ndarray], DeviceArray]:
    """Makes arrays in the fake GPU's memory."""
    device = Device(Driver(fake))

    def make(array: np.ndarray) -> DeviceArray:
        with device.current():
            made = DeviceArray(device, array.shape, array.dtype)
            device.driver.to_device(made.pointer, np.ascontiguousarray(array).ctypes.data, array.nbytes, None)
        return made

    return make


@pytest.fixture
def file(network: Network, tmp_path: Path) -> Path:
    """The tiny network, written down."""
    path = tmp_path / "tiny.convc"
    network.build().save(path)
    return path
