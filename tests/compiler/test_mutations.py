"""Verification accepts what is right, and rejects every small damage to a network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from compiled import Builder, conv

from convc.analysis.verify import verify, verify_compiled
from convc.compiler import compile_plan
from convc.frontends.export import export_onnx
from convc.ir import Graph, Payload, Value
from convc.planner import make_plan
from convc.program import Options
from convc.runtime.network import CompiledNetwork

pytestmark = pytest.mark.usefixtures("interpreters")


def network() -> Graph:
    """Convolution, batch normalisation, residual, concatenation, pooling and a dense layer."""
    random = np.random.default_rng(5)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    b = Builder()
    x = b.input(normal(1, 4, 8, 8), "x")
    stem = b.add("Relu", conv(b, x, normal(4, 4, 3, 3) / 6, normal(4), pads=(1, 1, 1, 1)))
    y = conv(b, stem, normal(4, 4, 3, 3) / 6, pads=(2, 0, 0, 2))
    parameters = [normal(4), normal(4), normal(4), np.abs(normal(4)) + np.float32(0.5)]
    y = b.add("BatchNormalization", y, *map(b.constant, parameters), epsilon=1e-5)
    y = b.add("Relu", b.add("Add", y, stem))
    y = b.add("Concat", y, b.add("Neg", stem), axis=1)
    window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": False}
    y = b.add("MaxPool", y, **window)
    flat = b.add("Reshape", y, shape=(1, 128))
    b.output(b.add("Gemm", flat, b.constant(normal(9, 128) / 11), b.constant(normal(9)), trans_b=True))
    return b.graph


def drop_relu(graph: Graph) -> None:
    node = next(graph.of_kind("Relu"))
    graph.replace(Value(node.id), graph.inputs(node)[0])


def drop_residual(graph: Graph) -> None:
    (node,) = graph.of_kind("Add")
    graph.replace(Value(node.id), graph.inputs(node)[0])


def shift_pads(graph: Graph) -> None:
    node = list(graph.of_kind("Conv"))[1]
    begin, left, end, right = node.attributes["pads"]
    graph.update(node, attributes={**node.attributes, "pads": (end, right, begin, left)})


def reverse_concat(graph: Graph) -> None:
    (node,) = graph.of_kind("Concat")
    reversed_ = graph.add("Concat", graph.inputs(node)[::-1], node.attributes)
    graph.replace(Value(node.id), reversed_)


def swap_gamma_and_beta(graph: Graph) -> None:
    (node,) = graph.of_kind("BatchNormalization")
    gamma, beta = (graph.producer(value) for value in graph.inputs(node)[1:3])
    swapped = gamma.payload, beta.payload
    graph.update(gamma, payload=swapped[1])
    graph.update(beta, payload=swapped[0])


def transpose_a_kernel(graph: Graph) -> None:
    node = next(graph.of_kind("Conv"))
    weight = graph.producer(graph.inputs(node)[1])
    graph.update(weight, payload=Payload(np.ascontiguousarray(weight.array.swapaxes(2, 3))))


def nudge_one_weight(graph: Graph) -> None:
    node = next(graph.of_kind("Conv"))
    weight = graph.producer(graph.inputs(node)[1])
    changed = weight.array.copy()
    changed[2, 1, 1, 1] *= 1.01
    graph.update(weight, payload=Payload(changed))


MUTATIONS = (
    drop_relu,
    drop_residual,
    shift_pads,
    reverse_concat,
    swap_gamma_and_beta,
    transpose_a_kernel,
    nudge_one_weight,
)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("device", ["interpreter", "numpy"])
def test_the_network_itself_is_ok(device: str, dtype: str) -> None:
    result = verify(network(), device=device, dtype=dtype)
    assert result.ok, result.outputs


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_mutation_is_caught(mutate: Callable[[Graph], None]) -> None:
    reference, mutant = export_onnx(network()), network()
    mutate(mutant)
    mutant.prune()
    plan = make_plan(mutant, Options(("interpreter",), "fp32"))
    result = verify_compiled(CompiledNetwork(compile_plan(plan)), plan, reference, "interpreter")
    (output,) = result.outputs
    assert not result.ok and output.max_abs > output.bound and output.smallest_tolerance > 0
