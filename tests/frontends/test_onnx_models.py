"""Whole models outside the repository, where they lie beside it: exporters' graphs and hostile files.

Filled with seeded weights and compared with ONNX Runtime; skipped where the folder is absent.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx_support import bound_of, onnxruntime_outputs, run

from convc import errors
from convc.frontends.onnx import import_onnx

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SMALL = ["lenet_caffe.dyn", "convnetjs_cifar10.dyn", "cifar_resnet20.tsbn12", "cifar_resnet20.dynf16",
         "alphago_policy.dyn", "tv_resnet18.dynB", "tv_squeezenet1_1.ts17", "tv_mobilenet_v2.dyn",
         "tv_shufflenet_v2_x1_0.ts17", "c2_shufflenet.caffe2_9"]  # fmt: skip
LATER = {"nm_convtranspose_bn_group": "ConvTranspose", "opset9_upsample": "Upsample",
         "opset10_resize_asymmetric": "Resize"}  # fmt: skip
"""Models that need operators which the importer refuses by name."""

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no folder of models at {SHARED}")


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = found
    spec.loader.exec_module(found)
    return found


def check_agreement(path: Path, feeds: dict[str, np.ndarray]) -> None:
    """Imported and evaluated, the model at ``path`` is what ONNX Runtime computes, up to rounding."""
    graph = import_onnx(path)
    found, expected = run(graph, feeds), onnxruntime_outputs(str(path), feeds)
    assert list(found) == list(expected)
    for name, reference in expected.items():
        assert (found[name].dtype, found[name].shape) == (reference.dtype, reference.shape)
        bound = bound_of(graph.bind(dict.fromkeys(graph.symbols, 1)), reference)
        same = (found[name] == reference) | (np.isnan(found[name]) & np.isnan(reference))
        with np.errstate(invalid="ignore"):
            difference = np.abs(found[name].astype(np.float64) - reference.astype(np.float64))
        assert np.where(same, 0, difference).max(initial=0) <= bound


@needs_shared
@pytest.mark.parametrize("name", SMALL)
def test_exported_networks(name: str, tmp_path: Path) -> None:
    materialize = module(SHARED / "models" / "materialize.py")
    model = materialize.fill(materialize.load(SHARED / "models" / "skeletons" / f"{name}.onnx.gz"))
    path = tmp_path / "model.onnx"
    materialize.save(model, path)
    check_agreement(path, materialize.example_inputs(model, batch=2 if name.endswith("dynB") else 1))


@needs_shared
def test_a_trained_network_gives_its_recorded_answers() -> None:
    folder = SHARED / "models" / "real" / "mnist_8"
    [path] = folder.rglob("*.onnx")
    graph = import_onnx(path)
    recorded = sorted(folder.rglob("input_0.pb"))
    assert recorded

    def read(file: Path) -> np.ndarray:
        return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))

    for file in recorded:
        [found] = run(graph, {graph.graph_inputs[0].attributes["name"]: read(file)}).values()
        expected = read(file.with_name("output_0.pb"))
        assert np.abs(found - expected).max() <= bound_of(graph, expected)


@needs_shared
def test_hostile_broken_and_nasty_files(tmp_path: Path) -> None:
    """Each that must be refused is, with one of convc's errors and in a second; each that must work agrees."""
    maker: Any = module(SHARED / "bad_models" / "bad_models.py")
    wrong: list[str] = []
    for case in maker.build(str(tmp_path / "models")):
        path = tmp_path / "models" / case["path"]
        started = time.process_time()
        try:
            import_onnx(path)
            answer = "must_work"
        except errors.ConvcError as error:
            answer = "reject"
            named = error.unsupported and error.unsupported[0].op == LATER.get(case["name"])
            if case["expect"] == "must_work" and not named:
                wrong.append(f"{case['name']}: {error}")
        if answer != case["expect"] and not case["also_ok"] and case["name"] not in LATER:
            wrong.append(f"{case['name']}: {answer}, expected {case['expect']}")
        if answer == "reject" and time.process_time() - started > 1:
            wrong.append(f"{case['name']}: refused after more than a second")
        if answer == case["expect"] == "must_work" and not case["also_ok"]:
            check_agreement(path, maker.feeds_for(onnx.load(path)))
    assert not wrong
