"""Running commands in this process, and what they run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import Ran, Run, save_model
from click.testing import CliRunner
from onnx import helper

from convc.cli import main


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kernel cache that these tests share and nobody else sees."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVC_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a command line that must not raise."""

    def ran(*words: object) -> Ran:
        result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
        return Ran(result.exit_code, result.stdout, result.stderr)

    return ran


@pytest.fixture(scope="session")
def artifact(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lenet5 compiled for the interpreter."""
    path = tmp_path_factory.mktemp("compiled") / "lenet5.convc"
    assert run("compile", "zoo:lenet5", "-o", path, "--target", "interpreter", "--dtype", "fp32").status == 0
    return path


@pytest.fixture(scope="session")
def gpu_artifact(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """convnetjs_cifar10 compiled for two GPUs and the interpreter, with the JSON of that."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    path = tmp_path_factory.mktemp("compiled") / "cifar.convc"
    ran = run("compile", "zoo:convnetjs_cifar10", "-o", path, "--target", "sm_90,sm_80,interpreter", "--json")
    assert ran.status == 0, ran.err
    return path, ran.json


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    """A relu over [N, 3] with a symbolic N."""
    return save_model(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"], name="r")], ["N", 3])
