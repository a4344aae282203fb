"""The real cuda.bindings on a libcuda.so.1 written in C: the calls are well-formed, and the values arrive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny_network import COLS, ROWS, rows_network
from undisturbed import MICROSECONDS_PER_RUN

RUN = """
import json, sys
import numpy as np
import convc
from convc import ConvcError
try:
    engine = convc.load(sys.argv[1]).engine("cuda")
    shape = engine.inputs[0].shape
    x = np.linspace(-3, 3, np.prod(shape), dtype=np.float32).reshape(shape)
    y = engine(x)
    again = engine(-x)
    timed = [engine.profile({"x": x}), engine.measure({"x": x}, repeats=2)]
    engine.close()
    del engine
    print(json.dumps({"y": y.ravel().tolist(), "again": again.ravel().tolist(), "timed": timed}))
except ConvcError as error:
    print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    """The folder of the fake library."""
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the fake libcuda with")
    folder = tmp_path_factory.mktemp("fakecuda")
    source = Path(__file__).with_name("fakecuda.c")
    command = [compiler, "-O1", "-w", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(library, network, tmp_path):
    """Runs a network in a process of its own; its answer and the calls of the driver."""

    def run(changed=network, **environment):
        changed.build().save(tmp_path / "m.convc")
        log = tmp_path / "log"
        log.write_text("")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FAKE_")}
        paths = {"LD_LIBRARY_PATH": str(library), "FAKE_CUDA_LOG": str(log)}
        command = [sys.executable, "-c", RUN, str(tmp_path / "m.convc")]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=inherited | paths | environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), [line.split() for line in log.read_text().splitlines()]

    return run


def test_end_to_end(run, network):
    import numpy as np

    answer, calls = run()
    x = np.linspace(-3, 3, 50, dtype=np.float32).reshape(2, 5, 5)
    np.testing.assert_array_equal(np.float32(answer["y"]), network.expected(x).ravel())
    np.testing.assert_array_equal(np.float32(answer["again"]), network.expected(-x).ravel())
    assert answer["timed"] == [[500.0, 500.0], [500.0, 500.0]]
    count = Counter(call[0] for call in calls)
    assert not count.keys() & {"wrong", "no"}, calls
    assert count["cuMemAlloc_v2"] == count["cuMemFree_v2"] == 5
    assert count["cuStreamCreate"] == count["cuStreamDestroy_v2"] == count["cuGraphExecDestroy"] == 1
    assert count["cuLaunchKernelEx"] == 2 + 2, "captured once, and once for the profile"
    assert count["cuLibraryUnload"] == 2 and count["cuDevicePrimaryCtxRelease_v2"] == 1


COST = """
import sys, time
import numpy as np
import convc
from undisturbed import fastest
engine = convc.load(sys.argv[1]).engine("cuda")
x = np.ones(engine.inputs[0].shape, np.float32)
print(1e6 * fastest(lambda: engine(x), float(sys.argv[2]), clock=time.thread_time))
"""


def test_a_run_costs_little_on_the_host(library, network, tmp_path):
    """With the bindings' own cost."""
    network.build().save(tmp_path / "m.convc")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FAKE_")}
    command = [sys.executable, "-c", COST, str(tmp_path / "m.convc"), str(1e-6 * MICROSECONDS_PER_RUN)]
    root = Path(__file__).parents[2]
    paths = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": os.pathsep.join(map(str, (root, Path(__file__).parent)))}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment | paths)
    assert float(done.stdout) <= MICROSECONDS_PER_RUN, done.stderr


def test_batches_and_bindings(library, network, tmp_path):
    """Page-locked memory, events and waits reach the driver as the bindings want them."""
    network.build().save(tmp_path / "m.convc")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("FAKE_")}
    log = tmp_path / "log"
    environment = inherited | {"LD_LIBRARY_PATH": str(library), "FAKE_CUDA_LOG": str(log)}
    command = [sys.executable, "-c", BATCHES, str(tmp_path / "m.convc")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment)
    assert done.stdout == "True\n" * 6, done.stderr
    count = Counter(line.split()[0] for line in log.read_text().splitlines())
    assert not count.keys() & {"wrong", "no"}
    assert count["cuMemHostAlloc"] == count["cuMemFreeHost"] == 4 and count["cuMemAlloc_v2"] == count["cuMemFree_v2"]
    assert count["cuEventCreate"] == count["cuEventDestroy_v2"] == 2 * 3 + 2


BATCHES = """
import sys
import numpy as np
import convc
from convc.runtime.engine import load
engine = load(sys.argv[1], "cuda")
xs = [np.random.default_rng(i).standard_normal(engine.inputs[0].shape).astype(np.float32) for i in range(5)]
alone = [engine(x) for x in xs]
for x, one, result in zip(xs, alone, engine.stream({"x": x} for x in xs)):
    print(np.array_equal(result["y"], one))
array = engine.executor.new_array(engine.inputs[0])
with engine.executor.device.current():
    engine.executor.device.driver.to_device(array.pointer, xs[0].ctypes.data, array.nbytes, engine.executor.stream)
    stream = engine.executor.device.driver.create_stream()
bound = engine.bind({"x": array})
for where in (None, stream, int(stream)):
    bound(where)
print(np.array_equal(bound()["y"].numpy(), alone[0]))
engine.close()
with engine.executor.device.current():
    engine.executor.device.driver.destroy_stream(stream)
del bound, array, engine
"""


def test_tensor_maps(run, cubins):
    import numpy as np

    answer, calls = run(rows_network(cubins))
    x = np.linspace(-3, 3, ROWS * COLS, dtype=np.float32)
    np.testing.assert_array_equal(np.float32(answer["y"])[: x.size], np.maximum(x, 0))
    assert ["cuTensorMapEncodeTiled", "7", "1"] in calls and not any(call[0] == "wrong" for call in calls)


def test_early_starts(run, network):
    answer, calls = run(network.with_binary(1, programmatic_launch=True))
    assert "y" in answer and [call[0] for call in calls].count("programmatic") == 1, "in the graph, not in the profile"


def test_large_shared_memory(run, network):
    answer, calls = run(network.with_binary(1, shared_bytes=65536))
    assert (
        "y" in answer and ["cuFuncSetAttribute", "8", "65536"] in calls and ["cuLaunchKernelEx", "4", "65536"] in calls
    )


def test_out_of_memory(run):
    answer, calls = run(FAKE_CUDA_MEMORY="220")
    assert "out of GPU memory for the buffer 'weights': 256 bytes asked, 1000 of 2000 bytes free" in answer["error"]
    count = Counter(call[0] for call in calls)
    assert count["cuMemFree_v2"] == 1 and count["cuStreamDestroy_v2"] == 1


def test_a_driver_without_the_calls_that_are_needed(run):
    answer, _ = run(FAKE_CUDA_OLD="1")
    assert "a driver for CUDA 12.0 or newer is needed" in answer["error"]
