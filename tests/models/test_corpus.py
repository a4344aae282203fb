"""Exported models: every one of the first list compiles and verifies; the slow part runs with ``pytest -m slow``."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from corpus import FOLDER, filled, first, needs_corpus
from onnx import numpy_helper

import convc
from convc.analysis.verify import verify

QUICK = ("lenet_caffe.dyn", "convnetjs_cifar10.dyn", "cifar_resnet20.tsbn12", "cifar_resnet20.dynf16")
MODES = [(opt, dtype) for opt in ("none", "fuse") for dtype in ("fp32", "fp16")]
INTERPRETED = [name for name, interpreted in first().items() if interpreted]


def slow_unless_quick(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


def outcome(checked) -> str:
    return "; ".join(f"{o.name}: error {o.max_abs:.3g}, bound {o.bound:.3g}" for o in checked.outputs)


@needs_corpus
@pytest.mark.parametrize("name", slow_unless_quick(list(first())))
def test_verifies_on_numpy(name):
    checked = verify(filled(name), "numpy", "fp32")
    assert checked.ok, outcome(checked)


@needs_corpus
@pytest.mark.parametrize(("opt", "dtype"), MODES)
@pytest.mark.parametrize("name", slow_unless_quick(INTERPRETED))
def test_verifies_in_the_interpreter(name, opt, dtype):
    checked = verify(filled(name), "interpreter", dtype, opt)
    assert checked.ok, outcome(checked)


@needs_corpus
@pytest.mark.slow
@pytest.mark.parametrize("name", list(first()))
def test_compiles_ahead_of_time(name):
    network = convc.compile(filled(name), target=("sm_80", "sm_90"))
    assert not [k.name for k in network.kernels for figures in k.targets.values() if figures["spill_bytes"]]
    for program in network.programs:
        assert program.arena_bytes <= 1.15 * program.arena_lower_bound
        for launch in program.launches:
            kernel = program.kernels[launch.kernel]
            if kernel.family == "contraction":
                assert kernel.binary.tensor_core_instructions, f"{launch.origins} does without tensor cores"


def tensor(path) -> np.ndarray:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


@needs_corpus
@pytest.mark.parametrize("device", ["numpy", "interpreter"])
def test_a_trained_network_gives_its_recorded_outputs(device):
    folder = FOLDER / "real" / "mnist_8"
    network = convc.compile(folder / "model.onnx", target="interpreter", dtype="fp32")
    with network.engine(device) as engine:
        for case in sorted(folder.glob("test_data_set_*")):
            x, expected = tensor(case / "input_0.pb"), tensor(case / "output_0.pb")
            (found,) = engine.run({network.inputs[0].name: x}).values()
            # Recorded by another implementation in fp32: sums of at most 400 products, four layers deep.
            bound = 4 * 400 * np.finfo(np.float32).eps * np.abs(expected).max()
            assert np.abs(found - expected).max() <= bound
