"""Exported models: every one of the first list compiles and verifies; the slow part runs with ``pytest -m slow``."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from corpus import FOLDER, REFUSABLE, filled, first, index, needs_corpus
from onnx import numpy_helper
from stages import outcome, run

import convc
from convc.analysis.bounds import output_bounds
from convc.analysis.verify import verify
from convc.compiler import compile_plan
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.network import CompiledNetwork

QUICK = ("lenet_caffe.dyn", "convnetjs_cifar10.dyn", "cifar_resnet20.tsbn12", "cifar_resnet20.dynf16")
MODES = [(opt, dtype) for opt in ("none", "fuse") for dtype in ("fp32", "fp16")]
SAMPLE = (
    "lenet5_1998.dyn",
    "lenet_caffe.ts7",
    "convnetjs_cifar10.dynB",
    "convnetjs_cifar10.qdq",
    "cifar_resnet20.dynraw",
    "cifar_resnet20.tsf16_15",
    "cifar_resnet20.qop",
    "dscnn_kws.tsbn12",
    "m5_audio1d.tsHW11",
    "wavenet1d.ts9",
    "vnet3d.tsB13",
    "aspp_dilated.dynHW",
    "yolo_focus_spp_mish.ts17",
    "timm_lcnet_050.dynB",
    "dcgan_g.dynf16",
    "dcgan_d.tsB13",
    "timm_tinynet_e.ts17",
    "timm_repghostnet_050.tsbn12",
    "timm_efficientvit_b0.dyn",
    "tv_mobilenet_v3_small.ts9",
    "tv_shufflenet_v2_x1_0.ts7",
    "c2_shufflenet.caffe2_9",
    "tf_lenet.tf13",
    "tf_unet.tfnchw11",
    "tf_mobilenetv3small.tfB15",
    "tf_mobilenetv2.tfHW18",
    "keras_mobilenetv2.kexport",
    "fpn_retina.tsHW11",
    "yolov3_tiny_decode.ts9",
    "espcn_x3.dynHW",
)
"""Small networks of `make corpus`: every exporter and kind of file, element types, open sizes."""
INTERPRETED = [name for name, interpreted in first().items() if interpreted]


def slow_unless_quick(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names]


@needs_corpus
@pytest.mark.parametrize("name", slow_unless_quick(list(first())))
def test_verifies_on_numpy(name):
    checked = verify(filled(name), "numpy", "fp32")
    assert checked.ok, outcome(checked)


@needs_corpus
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(name):
    entry = index()[name]
    expected = "refused" if entry.variant in REFUSABLE else "pass"
    stages = run(entry, list(index().values()), ("import", "plan", "numpy"))
    assert stages[-1].outcome == expected, stages[-1].message
    assert all(stage.outcome == "pass" for stage in stages[:-1]), stages


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
@pytest.mark.parametrize("name", ["mnist_8", "super_resolution_10"])
def test_a_trained_network_gives_its_recorded_outputs(name, device):
    """They were recorded by another implementation in fp32, which may be as far from the exact result as this one."""
    folder = FOLDER / "real" / name
    plan = make_plan(convc.graph_of(folder / "model.onnx"), Options(("interpreter",), "fp32"))
    network = CompiledNetwork(compile_plan(plan))
    cases = sorted(folder.glob("test_data_set_*"))
    assert cases
    with network.engine(device) as engine:
        for case in cases:
            x, expected = tensor(case / "input_0.pb"), tensor(case / "output_0.pb")
            inputs = {network.inputs[0].name: x}
            (found,), (bound,) = engine.run(inputs).values(), output_bounds(plan.graph, "fp32", inputs).values()
            assert np.abs(found - expected).max() <= 2 * bound


@needs_corpus
@pytest.mark.parametrize("name", ["ultralight_rfb_320", "ultralight_slim_320"])
def test_a_trained_face_detector(name):
    checked = verify(str(FOLDER / "real" / f"{name}.onnx"), "numpy", "fp32")
    assert checked.ok, outcome(checked)
