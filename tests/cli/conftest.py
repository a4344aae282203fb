"""Running commands in this process, and small models for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from convc.cli import main


@dataclass
class Ran:
    """A command that ended: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        return json.loads(self.out)


Run = Callable[..., Ran]


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
    """convnetjs_cifar10 compiled for sm_90 and the interpreter, with the JSON of that."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    path = tmp_path_factory.mktemp("compiled") / "cifar.convc"
    ran = run("compile", "zoo:convnetjs_cifar10", "-o", path, "--target", "sm_90,interpreter", "--json")
    assert ran.status == 0, ran.err
    return path, ran.json


def save_model(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], domains: tuple[str, ...] = ()) -> Path:
    """A model from x to y, both fp32 of one shape."""
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "small", tensors[:1], tensors[1:])
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    """A relu over [N, 3] with a symbolic N."""
    return save_model(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"], name="r")], ["N", 3])
