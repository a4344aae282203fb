"""Small networks with random weights, against ONNX Runtime within the bound that their rounding errors give."""

from __future__ import annotations

import numpy as np
import pytest
from compiled import Builder, evaluate, inputs_of, run
from small_networks import NETWORKS

from convc.analysis.verify import verify

pytestmark = pytest.mark.usefixtures("interpreters")


@pytest.mark.parametrize("dtype", ["fp32", "tf32", "fp16", "bf16"])
@pytest.mark.parametrize("opt", ["none", "fold", "fuse"])
@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_within_its_bound(name: str, opt: str, dtype: str) -> None:
    result = verify(NETWORKS[name](), device="interpreter", dtype=dtype, opt=opt, seed=2)
    assert result.ok, result.outputs


@pytest.mark.parametrize("rule", ["concat-in-place", "update-in-place", "nest-concat"])
@pytest.mark.parametrize("name", NETWORKS)
def test_where_results_lie_changes_no_bit(name: str, rule: str) -> None:
    graph = NETWORKS[name]()
    inputs = inputs_of(graph)
    with_rule, without = run(graph, inputs, dtype="fp16"), run(graph, inputs, dtype="fp16", disable=rule)
    for output, array in with_rule.items():
        np.testing.assert_array_equal(array, without[output])


UNARY = ("Sigmoid", "Tanh", "Exp", "Softplus", "Erf", "Silu", "Mish", "HardSwish", "Gelu", "Elu", "Selu", "LeakyRelu")


@pytest.mark.parametrize("opt", ["none", "fuse"])
def test_functions_in_epilogues(opt: str) -> None:
    """Behind a product with the identity; each function's slope is at most 5 on [-1.5, 1.5], its error some units."""
    b = Builder()
    array = np.linspace(-1.5, 1.5, 17 * 8, dtype=np.float32).reshape(17, 8)
    product = b.add("MatMul", b.input(array), b.constant(np.eye(8, dtype=np.float32)))
    for op in UNARY:
        b.output(b.add(op, b.add("MatMul", b.input(array), b.constant(np.eye(8, dtype=np.float32)))))
    b.output(b.add("Mul", product, b.add("Sigmoid", product)))
    found, wanted = run(b.graph, b.inputs, opt=opt), evaluate(b.graph, b.inputs)
    for name, result in found.items():
        np.testing.assert_allclose(result, wanted[name], rtol=0, atol=16 * 2.0**-24 * 5)
