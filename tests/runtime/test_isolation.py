"""What running needs: neither the compiler nor what it is made of, and no driver to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from fake_driver import FakeDriver, HOOKS
for name in [name for name in sys.modules if name.split(".")[0] in ("convc", "networkx")]:
    del sys.modules[name]  # the fake driver reads cubins with the compiler's reader
import convc
from convc.runtime import driver
driver.bindings = lambda: FakeDriver(hooks=HOOKS)
engine = convc.load(sys.argv[2]).engine()
assert engine.device == "cuda:0"
print(engine(np.ones((2, 5, 5), np.float32)).sum() != 0)
print(sorted(name for name in sys.modules if name.split(".")[0] in ("onnx", "networkx", "triton", "torch", "cuda")))
print(sorted(name for name in sys.modules if name.startswith("convc.") and "runtime" not in name))
"""


def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment or None, cwd=HERE.parents[1])


def test_running_imports_no_compiler(network, tmp_path):
    network.build().save(tmp_path / "m.convc")
    done = run(RUN, HERE, tmp_path / "m.convc")
    assert done.stdout.splitlines() == ["True", "[]", "['convc.errors', 'convc.loading', 'convc.version']"], done.stderr


def test_importing_convc_is_light():
    done = run("import sys, convc; print(sorted(n for n in sys.modules if n.startswith(('convc', 'numpy'))))")
    assert done.stdout.strip() == "['convc', 'convc.version']", done.stderr


@pytest.mark.parametrize("name", ["load", "ArtifactError", "errors", "runtime"])
def test_names_are_found_when_they_are_used(name):
    assert run(f"from convc import {name}").returncode == 0
    done = run("import convc; convc._secret")
    assert "module 'convc' has no attribute '_secret'" in done.stderr


NO_DRIVER = """
import sys
from convc import DeviceError
from convc.runtime.cuda import CudaExecutor
try:
    CudaExecutor()
except DeviceError as error:
    print(error)
"""


def test_no_driver():
    pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    done = run("import ctypes; ctypes.CDLL('libcuda.so.1')")
    if done.returncode == 0:
        pytest.skip("this machine has a CUDA driver")
    done = run(NO_DRIVER)
    assert "no CUDA driver found" in done.stdout and "install the NVIDIA driver" in done.stdout, done.stderr


def test_no_bindings():
    done = run("import sys; sys.modules['cuda.bindings'] = None\n" + NO_DRIVER)
    assert "pip install 'convc[cuda]'" in done.stdout, done.stderr
