"""The demo's functions on a few images: what it shows is what ONNX Runtime computes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="the demo compares with ONNX Runtime")
pytest.importorskip("triton", reason="the demo runs kernels in Triton's interpreter")

DEMO = Path(__file__).parents[1] / "examples" / "digits" / "demo.py"
IMAGES = 24


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("digits_demo", DEMO)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["digits_demo"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["digits_demo"]


def test_the_test_set_is_what_the_script_says(demo: ModuleType) -> None:
    images, labels = demo.test_set()
    assert images.shape == (540, 1, 8, 8) and images.dtype == np.float32
    assert images.min() == 0.0 and images.max() == 1.0
    assert labels.shape == (540,) and set(labels) == set(range(10))


def test_the_network_was_trained(demo: ModuleType) -> None:
    """At least 98 % of digits that the training never saw."""
    images, labels = demo.test_set()
    assert (demo.reference(images).argmax(1) == labels).mean() >= 0.98


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_every_level_agrees_with_onnxruntime(demo: ModuleType, dtype: str) -> None:
    images, labels = demo.test_set(IMAGES)
    expected = demo.reference(images)
    right = int((expected.argmax(1) == labels).sum())
    results = [demo.measure(level, dtype, images, labels, expected) for level in demo.LEVELS]
    for result in results:
        assert 0.0 < result.max_abs <= result.bound, result
        assert result.right == right, result
    launches = [result.launches for result in results]
    traffic = [result.traffic_bytes for result in results]
    assert launches == sorted(set(launches), reverse=True), "each level leaves fewer launches than the one before"
    assert traffic == sorted(set(traffic), reverse=True), "and moves fewer bytes"


def test_kernels_for_gpus_without_one(demo: ModuleType, tmp_path: Path) -> None:
    network = demo.for_gpus(IMAGES)
    pooled = demo.fused_most(network)
    assert pooled.origins == (
        "/block/second/Conv",
        "/block/norm/BatchNormalization",
        "/block/Add",
        "/block/Relu",
        "/GlobalAveragePool",
        "/classifier/Gemm",
    )
    assert all(kernel.targets for kernel in network.kernels)
    assert all(figures["tensor_core_instructions"] > 0 for figures in pooled.targets.values())
    files = demo.write_kernels(network, tmp_path / "kernels")
    assert sorted(files) == sorted((tmp_path / "kernels").iterdir())
    assert all("@triton.jit" in file.read_text(encoding="utf-8") for file in files)


def test_committed_files_stay_small() -> None:
    committed = [DEMO.with_name(name) for name in ("digits.onnx", "test.npz", "train.py", "demo.py")]
    assert sum(file.stat().st_size for file in committed) <= 1 << 20
