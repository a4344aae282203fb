"""Every network of the zoo against ONNX Runtime, through its export."""

from __future__ import annotations

import pytest

from convc.analysis.verify import verify
from convc.frontends import zoo

QUICK = ("lenet5", "convnetjs_cifar10", "resnet20", "alphago_policy", "squeezenet1_1", "mobilenet_v2", "resnet18")
INTERPRETED = ("lenet5", "convnetjs_cifar10", "resnet20")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in zoo.names()])
def test_zoo_network_verifies(name):
    checked = verify(f"zoo:{name}", "numpy", "fp32")
    assert checked.ok, checked.outputs


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", "tf32"])
@pytest.mark.parametrize("name", INTERPRETED)
def test_emitted_kernels_verify_in_every_mode(name, dtype):
    checked = verify(f"zoo:{name}", "interpreter", dtype)
    assert checked.ok, checked.outputs
