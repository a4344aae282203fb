"""Quantised graphs on the emitted kernels: the very integers of ONNX Runtime, in every numeric mode.

Scales are powers of two and weights small, so that fp16 and bf16 hold every real number on the way exactly: a wrong
rounding, a missing saturation or a wrong zero point is a wrong integer, and nothing hides it.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from compiled import run, same
from onnx import TensorProto, helper, numpy_helper

import convc
from convc.analysis.verify import reference_outputs
from convc.planner import Options, make_plan

pytestmark = pytest.mark.usefixtures("interpreters")
MODES = ("fp32", "fp16", "bf16")
N = helper.make_node
ELEMENTS = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}
stream = np.random.default_rng(11)


def f32(*values: float) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def drawn(dtype: type, *shape: int, most: int = 255) -> np.ndarray:
    """Integers over the whole type, or within ±``most``."""
    bounds = np.iinfo(dtype)
    return stream.integers(max(bounds.min, -most), min(bounds.max, most) + 1, shape).astype(dtype)


def model(
    nodes: list[onnx.NodeProto],
    feeds: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    results: dict[str, int],
) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [helper.make_tensor_value_info(name, element, None) for name, element in results.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "quantised", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def quantised_chain(dtype: type) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Q → DQ → Conv → ReLU → Q → DQ → max pooling → Q → DQ → Conv of one scale a filter → Q; all of it comes out, too.

    The results of the first convolution are halves between integers after scaling, and pass the type's bounds.
    """
    zero = np.array(3, dtype)
    constants = {
        "one": f32(1.0),
        "two": f32(2.0),
        "small": f32(0.125),
        "zero": zero,
        "w": drawn(np.int8, 6, 3, 3, 3, most=3),
        "ws": f32(0.5),
        "wz": np.array(0, np.int8),
        "v": drawn(np.int8, 5, 6, 1, 1, most=1),
        "vs": f32(1.0, 0.5, 0.25, 1.0, 2.0),
        "vz": np.zeros(5, np.int8),
    }
    nodes = [
        N("QuantizeLinear", ["x", "one", "zero"], ["qx"]),
        N("DequantizeLinear", ["qx", "one", "zero"], ["dx"]),
        N("DequantizeLinear", ["w", "ws", "wz"], ["dw"]),
        N("Conv", ["dx", "dw"], ["c"], pads=[1] * 4),
        N("Relu", ["c"], ["r"]),
        N("QuantizeLinear", ["r", "one", "zero"], ["qr"]),
        N("DequantizeLinear", ["qr", "one", "zero"], ["dr"]),
        N("MaxPool", ["dr"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        N("QuantizeLinear", ["p", "two", "zero"], ["qp"]),
        N("DequantizeLinear", ["qp", "two", "zero"], ["dp"]),
        N("DequantizeLinear", ["v", "vs", "vz"], ["dv"], axis=0),
        N("Conv", ["dp", "dv"], ["e"]),
        N("QuantizeLinear", ["e", "small", "zero"], ["y"]),
    ]
    feeds = {"x": stream.integers(-20, 21, (2, 3, 8, 8)).astype(np.float32) / 2}
    element = ELEMENTS[np.dtype(dtype)]
    return model(nodes, feeds, constants, {"y": element, "qr": element}), feeds


@pytest.mark.parametrize("opt", ["fuse", "fold"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantised_between_operators_of_floats(dtype: type, mode: str, opt: str) -> None:
    network, feeds = quantised_chain(dtype)
    expected = reference_outputs(network, feeds)
    bounds = np.iinfo(dtype)
    assert {bounds.min, bounds.max} < set(expected["y"].ravel().tolist()), "some results are cut off, not all"
    graph = convc.import_onnx(network)
    same(run(graph, feeds, dtype=mode, opt=opt), expected)


def test_quantisation_ends_the_kernel_of_the_convolution() -> None:
    """Kernels that compute a convolution store 8 bits; one kernel quantises the input, and one dequantises."""
    network, _ = quantised_chain(np.int8)
    (program,) = make_plan(convc.import_onnx(network), Options(("sm_90",), "fp16")).programs
    problems = [problem for launch in program.launches for problem in launch.problems]
    stored = [(problem.family, problem.output.dtype.value) for problem in problems]
    assert [dtype for family, dtype in stored if family == "contraction"] == ["int8", "int8"]
    assert [dtype for family, dtype in stored if family == "pointwise"] == ["int8", "fp16"], "and one dequantises"
