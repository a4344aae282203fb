"""Quantised graphs on the emitted kernels: the very integers of ONNX Runtime, in every numeric mode.

Scales are powers of two and weights small, so that fp16 and bf16 hold every real number on the way exactly: a wrong
rounding, a missing saturation or a wrong zero point is a wrong integer, and nothing hides it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from compiled import planned, retiled, run, run_planned, same
from onnx import TensorProto, helper, numpy_helper

import convc
from convc.analysis.verify import reference_outputs
from convc.codegen.cubin import parse
from convc.codegen.sass import disassemble
from convc.compiler import compile_plan
from convc.planner import make_plan
from convc.program import Options

pytestmark = pytest.mark.usefixtures("interpreters")
MODES = ("fp32", "fp16", "bf16")
N = helper.make_node
ELEMENTS = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}
stream = np.random.default_rng(11)


def on_kernels(network: onnx.ModelProto, feeds: dict[str, np.ndarray], **options: str) -> dict[str, np.ndarray]:
    """What the kernels compute, without a step on the host."""
    graph = convc.import_onnx(network)
    (program,) = convc.plan(graph, target="interpreter", **options).programs
    assert not program.host_steps
    return run(graph, feeds, **options)


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
    same(on_kernels(network, feeds, dtype=mode, opt=opt), expected)


def test_quantisation_ends_the_kernel_of_the_convolution() -> None:
    """Kernels that compute a convolution store 8 bits; one kernel quantises the input, and one dequantises."""
    network, _ = quantised_chain(np.int8)
    (program,) = make_plan(convc.import_onnx(network), Options(("sm_90",), "fp16")).programs
    problems = [problem for launch in program.launches for problem in launch.problems]
    stored = [(problem.family, problem.output.dtype.value) for problem in problems]
    assert [dtype for family, dtype in stored if family == "contraction"] == ["int8", "int8"]
    assert [dtype for family, dtype in stored if family == "pointwise"] == ["int8", "fp16"], "and one dequantises"


# -- products of integers ---------------------------------------------------------------------------------------------
CONVOLUTIONS = {
    # channels, filters, groups, attributes
    "3x3": (20, 9, 1, {"pads": [1] * 4}),
    "strided": (3, 5, 1, {"pads": [0, 1, 2, 1], "strides": [2, 1]}),
    "1x1": (40, 17, 1, {"kernel_shape": [1, 1]}),
    "grouped": (8, 6, 2, {"pads": [1] * 4, "dilations": [2, 1]}),
    "depthwise": (6, 12, 6, {"pads": [1] * 4}),
    "one filter": (5, 1, 1, {"pads": [1] * 4}),
}


def weights_of(case: str, dtype: type) -> np.ndarray:
    channels, filters, groups, attributes = CONVOLUTIONS[case]
    return drawn(dtype, filters, channels // groups, *attributes.get("kernel_shape", [3, 3]))


def qlinear(case: str, dtype: type, w: np.ndarray, wz: np.ndarray) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """QLinearConv with a bias, a scale a filter, and a zero point that the border does not have; sums are large."""
    channels, filters, groups, attributes = CONVOLUTIONS[case]
    constants = {
        "xs": f32(0.03),
        "xz": np.array(7, dtype),
        "w": w,
        "ws": (stream.random(filters) / 500 + 0.0005).astype(np.float32),
        "wz": wz,
        "ys": f32(0.07),
        "yz": np.array(-5 if dtype is np.int8 else 120, dtype),
        "b": stream.integers(-(2**25), 2**25, filters).astype(np.int32) // 1000,
    }
    node = N("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"], ["y"], group=groups, **attributes)
    feeds = {"x": drawn(dtype, 2, channels, 7, 6)}
    return model([node], feeds, constants, {"y": ELEMENTS[np.dtype(dtype)]}), feeds


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CONVOLUTIONS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantised_convolution(dtype: type, case: str, mode: str) -> None:
    filters = CONVOLUTIONS[case][1]
    network, feeds = qlinear(case, dtype, weights_of(case, np.int8), np.zeros(filters, np.int8))
    expected = reference_outputs(network, feeds)
    assert len(np.unique(expected["y"])) > 25, "results spread over the type"
    same(on_kernels(network, feeds, dtype=mode), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("constant", [True, False], ids=["constant", "computed"])
def test_integers_with_zero_points(constant: bool, mode: str) -> None:
    """Weights of uint8 with zero points, and all of it given at run time: the definition's sums, to the last bit."""
    arrays = {
        "w": drawn(np.uint8, 9, 20, 3, 3),
        "wz": np.array(200, np.uint8),
        "xz": np.array(13, np.uint8),
        "v": drawn(np.uint8, 33, 18),
        "vz": drawn(np.uint8, 18) if constant else np.array(9, np.uint8),
        "uz": np.array(251, np.uint8),
    }
    data = {"x": drawn(np.uint8, 1, 20, 6, 5), "u": drawn(np.uint8, 2, 7, 33)}
    feeds, constants = (data, arrays) if constant else (data | arrays, {})
    nodes = [
        N("ConvInteger", ["x", "w", "xz", "wz"], ["c"], pads=[1] * 4),
        N("MatMulInteger", ["u", "v", "uz", "vz"], ["m"]),
        N("Cast", ["c"], ["r"], to=TensorProto.FLOAT),
    ]
    network = model(nodes, feeds, constants, {"c": TensorProto.INT32, "m": TensorProto.INT32, "r": TensorProto.FLOAT})
    expected = reference_outputs(network, feeds)
    found = on_kernels(network, feeds, dtype=mode)
    same(found, expected)
    assert found["c"].dtype == np.int32


def test_long_sums_are_exact() -> None:
    """20,000 products of 255·254 pass 2^24, behind which fp32 has gaps."""
    a, b = np.full((3, 20000), 255, np.uint8), np.full((20000, 5), 254, np.uint8)
    b[::7] = drawn(np.uint8, *b[::7].shape)
    feeds = {"a": a}
    network = model([N("MatMulInteger", ["a", "b"], ["y"])], feeds, {"b": b}, {"y": TensorProto.INT32})
    exact = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.int32)
    assert exact.min() > 2**24 and (exact % 4 != 0).any()
    graph = convc.import_onnx(network)
    same(run(graph, feeds), {"y": exact})
    split = retiled(planned(graph), lambda problem, tile: replace(tile, rows=16, cols=16, depth=32, split_k=5))
    same(run_planned(split, feeds), {"y": exact})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_quantised_product_of_computed_matrices(dtype: type, mode: str) -> None:
    """Scales are constant: those of 16-bit modes would be rounded on their way in."""
    matrices = {"a": drawn(dtype, 2, 5, 19), "b": drawn(dtype, 2, 19, 6)}
    zeros = {"az": np.array(4, dtype), "bz": np.array(11, dtype), "yz": np.array(2, dtype)}
    scales = {"as": f32(0.031), "bs": f32(0.017), "ys": f32(0.61)}
    element = ELEMENTS[np.dtype(dtype)]
    node = N("QLinearMatMul", ["a", "as", "az", "b", "bs", "bz", "ys", "yz"], ["y"])
    feeds = matrices | zeros
    network = model([node], feeds, scales, {"y": element})
    same(on_kernels(network, feeds, dtype=mode), reference_outputs(network, feeds))


# -- machine code -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["3x3", "depthwise"])
def test_no_spills_and_no_product_that_is_rounded_once_with_the_sum_behind_it(case: str) -> None:
    """What is rounded to whole numbers is rounded as a product first: a fused multiply-add would skip that. The numbers
    that round are told by 2^23, which they add."""
    network, _ = qlinear(case, np.int8, weights_of(case, np.int8), np.zeros(CONVOLUTIONS[case][1], np.int8))
    artifact = compile_plan(make_plan(convc.import_onnx(network), Options(("sm_80", "sm_90"), "fp16")))
    for program in artifact.manifest.programs:
        assert all(kernel.binary.spill_bytes == 0 for kernel in program.kernels)
        products = [k.binary.tensor_core_instructions for k in program.kernels if k.family == "contraction"]
        assert all(products) and bool(products) == (case == "3x3")
        found = Counter()
        for kernel in program.kernels:
            code = parse(bytes(artifact.section(kernel.binary.section))).kernels[kernel.name].code
            (instructions,) = disassemble([code], int(program.target.removeprefix("sm_")))
            found.update(each.name for each in instructions if "8388608" in each.operands)
        assert found["FADD"] > 0 and found["FFMA"] == 0


def test_quotients_that_are_rounded_are_those_of_ieee() -> None:
    """The division of GPUs is up to two units in the last place off, which moves what lies halfway."""
    network, _ = quantised_chain(np.uint8)
    (program,) = make_plan(convc.import_onnx(network), Options(("sm_90",), "fp16")).programs
    lines = [line for launch in program.launches for line in launch.kernel.source.splitlines() if "=" in line]
    assert any("tl.div_rn(" in line for line in lines)
    assert not any(re.search(r" = \w+ / ", line) for line in lines)
