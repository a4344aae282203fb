"""Every network of the zoo against ONNX Runtime, through its export."""

from __future__ import annotations

import pytest

from convc.analysis.verify import verify
from convc.frontends import zoo

QUICK = (
    *("perceptron", "linear_classifier", "two_layer", "lenet5", "convnetjs_cifar10", "resnet20", "alphago_policy"),
    *("squeezenet1_1", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "espcn"),
)
INTERPRETED = ("lenet5", "convnetjs_cifar10", "resnet20", "perceptron")
REDUCED = {"espcn": 12, "mobilenet_v3_small": 32, "yolo_v3_tiny": 32, "squeezenet1_1": 32}
REDUCED_SLOWLY = {
    **{
        "tiny_yolo_v2": 32,
        "openpose": 16,
        "faster_rcnn_rpn": 32,
        "unet": 188,
        "fcn8s": 32,
        "inception_v3": 75,
        "nasnet_mobile": 32,
        "googlenet": 64,
    },
    **dict.fromkeys(("resnext50", "se_resnet50", "wide_resnet50", "densenet121", "mobilenet_v1"), 32),
    **dict.fromkeys(("mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "resnet18", "resnet50", "vgg11"), 32),
}
"""Sides of inputs that still reach every kind of layer."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in zoo.names()])
def test_zoo_network_verifies(name):
    checked = verify(f"zoo:{name}", "numpy", "fp32")
    assert checked.ok, checked.outputs


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "tf32"])
@pytest.mark.parametrize("name", INTERPRETED)
def test_emitted_kernels_verify_in_every_mode(name, dtype):
    checked = verify(f"zoo:{name}", "interpreter", dtype)
    assert checked.ok, checked.outputs


@pytest.mark.parametrize("name", [*REDUCED, *(pytest.param(name, marks=pytest.mark.slow) for name in REDUCED_SLOWLY)])
def test_emitted_kernels_verify_on_a_smaller_input(name):
    fewer = {"filters": 8} if name == "unet" else {}
    net = zoo.build(name, size={**REDUCED, **REDUCED_SLOWLY}[name], **fewer)
    checked = verify(net, "interpreter", "fp16")
    assert checked.ok, checked.outputs
