"""Operators without a kernel: run by the host, or refused all at once where host steps are switched off."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import convc
from convc import errors
from convc.analysis.summary import summarise
from convc.analysis.verify import verify

N = helper.make_node
WEIGHT = np.random.default_rng(3).standard_normal((4, 3, 3, 3)).astype(np.float32)


def model(*nodes: onnx.NodeProto, outputs: dict[str, int]) -> onnx.ModelProto:
    """Behind a convolution and a ReLU, whose result is ``r``."""
    head = [N("Conv", ["x", "w"], ["c"], name="conv"), N("Relu", ["c"], ["r"], name="relu")]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])]
    results = [helper.make_tensor_value_info(name, element, None) for name, element in outputs.items()]
    constants = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.array(3), "axis")]
    graph = helper.make_graph([*head, *nodes], "g", inputs, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


REFUSED = [
    N("CumSum", ["r", "axis"], ["z"], name="sums"),
    N("Asin", ["z"], ["a"], name="classes"),
    N("Tan", ["z"], ["t"], name="tangent"),
]
FOUND = N("NonZero", ["r"], ["nz"], name="places")
OUTPUTS = {"a": TensorProto.FLOAT, "z": TensorProto.FLOAT, "t": TensorProto.FLOAT}


@pytest.mark.parametrize("target", ["sm_90", "interpreter"])
def test_all_are_listed_at_once(target: str) -> None:
    with pytest.raises(errors.UnsupportedModelError) as caught:
        convc.plan(model(*REFUSED, outputs=OUTPUTS), target=target, disable="host-steps")
    text = str(caught.value)
    for operator, node in (("CumSum", "sums"), ("Asin", "classes"), ("Tan", "tangent")):
        assert f"{operator}: no kernel for it (node {node!r})" in text
    with pytest.raises(errors.UnsupportedModelError) as caught:
        network = model(*REFUSED, FOUND, outputs={**OUTPUTS, "nz": TensorProto.INT64})
        convc.plan(network, target=target, disable="host-steps")
    listed = dict(entry.op.split(": ") for entry in caught.value.unsupported)
    assert set(listed) == {"CumSum", "Asin", "Tan", "NonZero"}
    assert "depends on the values" in listed["NonZero"]


@pytest.mark.parametrize("target", ["sm_90", "interpreter"])
def test_the_host_runs_them(target: str) -> None:
    plan = convc.plan(model(*REFUSED, FOUND, outputs={**OUTPUTS, "nz": TensorProto.INT64}), target=target)
    ((before, step),) = plan.programs[0].host_steps
    assert before == len(plan.programs[0].launches) == 1
    assert set(plan.origins_of(step.region)) == {"sums", "classes", "tangent", "places"}


def test_padding_around_the_edge_has_no_kernel() -> None:
    graph = convc.Graph()
    x = graph.add_input("x", convc.ir.TensorType(convc.ir.DType.FP32, (2, 4)))
    graph.add_output("y", graph.add("Pad", [x], {"pads": (0, 1, 0, 2), "mode": "wrap"}, origins=["round"]))
    with pytest.raises(errors.UnsupportedModelError, match="Pad with mode wrap: no kernel"):
        convc.plan(graph, target="interpreter", disable="host-steps")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    with convc.compile(graph, target="interpreter").engine("interpreter") as engine:
        np.testing.assert_array_equal(engine(x), np.pad(x, ((0, 0), (1, 2)), mode="wrap"))


@pytest.mark.parametrize("device", ["numpy", "interpreter"])
def test_executors_run_them(device: str) -> None:
    checked = verify(model(*REFUSED, outputs=OUTPUTS), device, batch=2)
    assert checked.ok and [output.name for output in checked.outputs] == ["a", "z", "t"]


def test_sizes_that_only_the_run_finds(tmp_path) -> None:
    network = model(FOUND, N("Gather", ["r", "first"], ["g"], name="rows"), outputs={"nz": TensorProto.INT64})
    del network.graph.node[-1]
    checked = verify(network, "numpy")
    assert checked.ok
    assert summarise(convc.graph_of(network)).layers[-1].output_shape == (4, -1)
    plan = convc.planner.make_plan(convc.graph_of(network), convc.Options((), "fp32"))
    compiled = convc.CompiledNetwork(convc.compiler.compile_plan(plan))
    compiled.save(tmp_path / "found.convc")
    with convc.load(tmp_path / "found.convc").engine("numpy") as engine:
        x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
        found = engine(x)
    assert engine.outputs[0].shape == (4, -1)
    assert found.shape[0] == 4 and 0 < found.shape[1] < 4 * 36
