"""Every operator's ONNX spelling in several opsets, names, symbolic dimensions, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from graph_reference import (
    evaluate,
    onnxruntime_outputs,
    outputs,
    random_inputs,
    relative_error,
    rounding_bound,
)
from onnx.reference import ReferenceEvaluator

from convc import errors
from convc.frontends import dsl, zoo
from convc.frontends.export import OPSETS, export_onnx
from convc.frontends.onnx import import_onnx
from convc.frontends.spellings import REDUCTIONS, SPELLINGS
from convc.ir import parse_graph, print_graph
from convc.ir.dims import Dim
from convc.ir.graph import Graph, Node
from convc.ir.operator import operators
from convc.ir.types import DType, TensorType

IMAGE = (2, 4, 9, 8)
WINDOW = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1)}
BOTH = {"a": (2, 3), "b": (1, 3)}

Case = tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]

UNARY: list[Case] = [
    *((op, {"x": IMAGE}, {}) for op in ("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Mish")),
    *((op, {"x": IMAGE}, {}) for op in ("Silu", "Erf", "Exp", "Abs", "Neg", "Floor", "Ceil", "Sign", "Copy")),
    *((op, {"positive": IMAGE}, {}) for op in ("Log", "Sqrt", "Reciprocal")),
    ("LeakyRelu", {"x": IMAGE}, {"alpha": 0.3}),
    ("Elu", {"x": IMAGE}, {"alpha": 0.7}),
    ("Celu", {"x": IMAGE}, {"alpha": 0.7}),
    ("Selu", {"x": IMAGE}, {}),
    ("HardSigmoid", {"x": IMAGE}, {"alpha": 0.3, "beta": 0.4}),
    ("Gelu", {"x": IMAGE}, {}),
    ("Gelu", {"x": IMAGE}, {"approximate": "tanh"}),
    ("Clip", {"x": IMAGE}, {"min": -0.5, "max": 0.5}),
    ("Clip", {"x": IMAGE}, {"min": -0.5}),
    ("Clip", {"x": IMAGE}, {"max": 0.5}),
    ("Clip", {"x": IMAGE}, {}),
    ("Cast", {"x": IMAGE}, {"dtype": DType.INT32}),
    ("Cast", {"x": IMAGE}, {"dtype": DType.FP64}),
]
BINARY: list[Case] = [
    *((op, BOTH, {}) for op in ("Add", "Sub", "Mul", "Max", "Min", "Equal", "Less", "LessOrEqual")),
    *((op, BOTH, {}) for op in ("Greater", "GreaterOrEqual", "PRelu")),
    ("Div", {"a": (2, 3), "positive": (1, 3)}, {}),
    ("Pow", {"positive": (2, 3), "b": (1, 3)}, {}),
    ("PRelu", {"b": (1, 3), "a": (2, 1)}, {}),
    ("And", {"truth": (2, 3), "other truth": (1, 3)}, {}),
    ("Or", {"truth": (2, 3), "other truth": (1, 3)}, {}),
    ("Not", {"truth": (2, 3)}, {}),
    ("Where", {"truth": (2, 3), "a": (1, 3), "b": (2, 1)}, {}),
]
CONTRACTIONS: list[Case] = [
    ("MatMul", {"a": (2, 1, 3, 4), "b": (5, 4, 2)}, {}),
    ("Gemm", {"a": (3, 4), "b": (4, 5)}, {}),
    ("Gemm", {"a": (4, 3), "b": (5, 4), "c": (3, 1)}, {"alpha": 0.5, "beta": 2.0, "trans_a": True, "trans_b": True}),
    (
        "Conv",
        {"x": (2, 4, 9), "w": (6, 2, 3), "b": (6,)},
        {"strides": (2,), "pads": (1, 0), "dilations": (2,), "groups": 2},
    ),
    ("Conv", {"x": IMAGE, "w": (3, 4, 3, 2)}, {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}),
    (
        "Conv",
        {"x": (1, 2, 5, 4, 6), "w": (3, 2, 2, 3, 1)},
        {"strides": (1,) * 3, "pads": (0,) * 6, "dilations": (1,) * 3},
    ),
    (
        "ConvInteger",
        {"differences": IMAGE, "other differences": (6, 2, 3, 3), "sums": (6,)},
        {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "groups": 2},
    ),
    (
        "ConvInteger",
        {"bits": IMAGE, "other bits": (3, 4, 3, 2)},
        {n: WINDOW[n] for n in ("strides", "pads", "dilations")},
    ),
    ("MatMulInteger", {"differences": (2, 1, 3, 4), "bits": (5, 4, 2)}, {}),
]
WINDOWS: list[Case] = [
    ("MaxPool", {"x": IMAGE}, WINDOW),
    ("MaxPool", {"x": IMAGE}, {**WINDOW, "strides": (3, 3), "ceil_mode": True}),
    ("MaxPool", {"x": IMAGE}, {**WINDOW, "dilations": (2, 2)}),
    ("AveragePool", {"x": IMAGE}, WINDOW),
    ("AveragePool", {"x": IMAGE}, {**WINDOW, "count_include_pad": True}),
    ("AveragePool", {"x": IMAGE}, {**WINDOW, "strides": (3, 3), "ceil_mode": True}),
    ("LRN", {"x": IMAGE}, {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}),
    ("BatchNormalization", {"x": IMAGE, "s": (4,), "b": (4,), "m": (4,), "positive": (4,)}, {"epsilon": 1e-3}),
    ("Softmax", {"x": IMAGE}, {"axis": 1}),
    ("LogSoftmax", {"x": IMAGE}, {"axis": 3}),
]
SHAPES: list[Case] = [
    *((op, {"positive": IMAGE}, {"axes": (1, 3), "keepdims": False}) for op in REDUCTIONS),
    *((op, {"positive": IMAGE}, {"axes": (2, 3)}) for op in REDUCTIONS),
    ("Reshape", {"x": IMAGE}, {"shape": (8, 72)}),
    ("Transpose", {"x": IMAGE}, {"perm": (2, 0, 3, 1)}),
    ("Slice", {"x": IMAGE}, {"starts": (0, 3, 8, 1), "sizes": (2, 2, 5, 3), "steps": (1, -2, -2, 2)}),
    ("Slice", {"x": IMAGE}, {"starts": (0, 3, 0, 7), "sizes": (2, 4, 9, 8), "steps": (1, -1, 1, -1)}),
    ("Slice", {"x": IMAGE}, {"starts": (0,) * 4, "sizes": IMAGE, "steps": (1,) * 4}),
    ("Expand", {"x": (4, 1, 8)}, {"shape": (2, 4, 9, 8)}),
    ("Concat", {"a": (2, 3, 4), "b": (2, 1, 4), "c": (2, 2, 4)}, {"axis": 1}),
    ("Pad", {"x": IMAGE}, {"pads": (0, 1, 2, 0, 1, 0, 0, 3), "value": -1.5}),
    ("Pad", {"x": IMAGE}, {"pads": (0, 0, 2, 3, 0, 0, 1, 0), "mode": "reflect"}),
    ("Pad", {"x": IMAGE}, {"pads": (0, 0, 2, 3, 0, 0, 1, 0), "mode": "edge"}),
    ("Gather", {"x": IMAGE, "indices": (2, 3)}, {"axis": 2}),
]
GRID = {"x": IMAGE, "grid": (2, 3, 5, 2)}
DEFORMED = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 2, "offset_groups": 2}
TRANSPOSED = {"strides": (2, 1), "pads": (1, 0, 0, 1), "dilations": (1, 2), "output_padding": (1, 0)}
PLACED = {"reduction": "add"}
HOST: list[Case] = [
    *((op, {"x": IMAGE}, {}) for op in ("Round", "Sin", "Cos", "Sinh", "Cosh", "Atan", "Asinh", "IsNaN")),
    *((op, {"small": IMAGE}, {}) for op in ("Tan", "Asin", "Acos", "Atanh")),
    ("Acosh", {"large": IMAGE}, {}),
    ("IsInf", {"x": IMAGE}, {"negative": False}),
    ("Xor", {"truth": (2, 3), "other truth": (1, 3)}, {}),
    ("Mod", {"a": (2, 3), "positive": (1, 3)}, {"fmod": True}),
    ("BitShift", {"bits": (2, 3), "other bits": (1, 3)}, {"direction": "LEFT"}),
    *((op, {"bits": (2, 3), "other bits": (1, 3)}, {}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    ("BitwiseNot", {"bits": (2, 3)}, {}),
    ("ConvTranspose", {"x": IMAGE, "w": (4, 3, 2, 3), "b": (6,)}, {**TRANSPOSED, "groups": 2}),
    ("Resize", {"x": IMAGE}, {"sizes": (2, 4, 13, 5), "mode": "linear"}),
    ("Resize", {"x": IMAGE}, {"sizes": (2, 4, 22, 12), "scales": (1.0, 1.0, 2.5, 1.5), "transformation": "asymmetric"}),
    ("Resize", {"x": IMAGE}, {"sizes": (2, 4, 5, 5), "mode": "cubic", "transformation": "align_corners"}),
    ("GatherElements", {"x": IMAGE, "indices": (2, 4, 3, 2)}, {"axis": 2}),
    ("ScatterElements", {"x": IMAGE, "indices": (1, 2, 3, 2), "u": (1, 2, 3, 2)}, {"axis": 3}),
    ("ScatterElements", {"x": IMAGE, "indices": (1, 2, 3, 2), "u": (1, 2, 3, 2)}, {"axis": 3, **PLACED}),
    ("GatherND", {"d": (5, 4, 6), "indices": (5, 3, 1)}, {"batch_dims": 1}),
    ("ScatterND", {"d": (5, 4, 6), "indices": (3, 2), "u": (3, 6)}, PLACED),
    *((op, {"x": IMAGE}, {"axis": 2, "keepdims": False}) for op in ("ArgMax", "ArgMin")),
    *((op, {"x": IMAGE}, {"axis": 3, "k": 3}) for op in ("TopK", "TopKIndices")),
    ("CumSum", {"x": IMAGE}, {"axis": 1, "exclusive": True, "reverse": True}),
    ("CumProd", {"x": IMAGE}, {"axis": 1}),
    ("BitCast", {"x": IMAGE}, {"dtype": DType.INT32}),
    ("MaxPoolIndices", {"x": IMAGE}, WINDOW),
    ("GridSample", GRID, {}),
    ("GridSample", GRID, {"mode": "cubic", "padding_mode": "reflection", "align_corners": True}),
    ("DeformConv", {"x": IMAGE, "w": (6, 2, 3, 3), "o": (2, 36, 9, 8), "b": (6,), "m": (2, 18, 9, 8)}, DEFORMED),
    ("RoiAlign", {"x": IMAGE, "rois": (3, 4), "images": (3,)}, {"output_height": 3, "output_width": 2}),
    ("NonZero", {"whole": (3, 4)}, {"count": Dim.symbol("found")}),
    (
        "NonMaxSuppression",
        {"boxes": (1, 9, 4), "scores": (1, 2, 9)},
        {"count": Dim.symbol("found"), "most": 3, "overlap": 0.25},
    ),
    ("Einsum", {"a": (2, 3, 4), "b": (4, 3)}, {"equation": "bij,ji->bi"}),
    ("Det", {"a": (2, 3, 3)}, {}),
]
FIRST_OPSET = {"BitwiseAnd": 18, "BitwiseOr": 18, "BitwiseXor": 18, "BitwiseNot": 18, "GridSample": 16, "RoiAlign": 16}
FIRST_OPSET |= {"DeformConv": 19, "CumProd": 26, "BitCast": 26}
CASES = [*UNARY, *BINARY, *CONTRACTIONS, *WINDOWS, *SHAPES, *HOST]


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values by kind: "indices", "truth", "positive", …, or standard normal."""
    stream = np.random.default_rng(len(name))
    if name == "indices":
        return stream.integers(-4, 4, shape)
    if name == "images":
        return stream.integers(0, 2, shape)
    if "differences" in name:
        return stream.integers(-255, 256, shape).astype(np.int16)
    if name == "sums":
        return stream.integers(-(2**20), 2**20, shape).astype(np.int32)
    if "bits" in name:
        return stream.integers(0, 9, shape).astype(np.uint8)
    if name == "whole":
        return stream.integers(-1, 2, shape).astype(np.float32)
    if name in ("boxes", "rois"):
        low = stream.uniform(0, 4, (*shape[:-1], 2))
        return np.concatenate([low, low + stream.uniform(1, 4, low.shape)], axis=-1).astype(np.float32)
    if name in ("small", "large", "grid"):
        return stream.uniform(*{"small": (-0.9, 0.9), "large": (1.1, 9), "grid": (-1.2, 1.2)}[name], shape).astype("f4")
    values = stream.standard_normal(shape).astype(np.float32)
    return values > 0 if "truth" in name else np.abs(values) + np.float32(0.1) if name == "positive" else values


def single(
    op: str, shapes: dict[str, tuple[int, ...]], attributes: dict[str, Any]
) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph of one operator with its inputs; the weights of a Conv, known when it runs, are inputs here too."""
    graph = Graph(op)
    arrays = {name: drawn(name, shape) for name, shape in shapes.items()}
    types = {name: TensorType(DType.of(array.dtype), array.shape) for name, array in arrays.items()}
    values = [graph.add_input(name, type) for name, type in types.items()]
    graph.add_output("y", graph.add(op, values, attributes, origins=[op.lower()]))
    return graph, arrays


def test_every_operator_has_a_case() -> None:
    structural = {"Input", "Constant", "Output"}
    assert {op for op, _, _ in CASES} == operators().keys() - structural
    assert SPELLINGS.keys() <= operators().keys()


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 23])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{sorted(case[2].items())}"[:60])
def test_operator(case: Case, opset: int) -> None:
    graph, arrays = single(*case)
    least = FIRST_OPSET.get(case[0], 16 if case[2].get("reduction") == "add" else 13)
    if opset < least:
        with pytest.raises(errors.UsageError, match=f"opset {least}"):
            export_onnx(graph, opset=opset)
        return
    model = export_onnx(graph, opset=opset)
    assert model.opset_import[0].version == opset
    beyond = case[0] == "RoiAlign" and opset >= 22  # ONNX Runtime 1.31 stops at the older form
    found = ReferenceEvaluator(model).run(None, arrays)[0] if beyond else onnxruntime_outputs(model, arrays)["y"]
    expected = outputs(graph, evaluate(graph, arrays))["y"]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if expected.dtype.kind == "f":
        assert relative_error(found, expected) <= 8 * rounding_bound(graph, DType.FP32.epsilon)
    else:
        assert (found == expected).all()


WRITTEN_OUT = {"Silu", "Copy", "PRelu", "Slice", "Einsum", "ConvInteger", "MatMulInteger"}
"""Operators that come back as others, some of their forms at least."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{sorted(case[2].items())}"[:60])
def test_operator_comes_back(case: Case) -> None:
    """From its text equal, from ONNX as itself."""
    graph, _ = single(*case)
    assert parse_graph(print_graph(graph)) == graph
    if FIRST_OPSET.get(case[0], 13) <= 22 and case[0] not in WRITTEN_OUT:
        (node,) = (node for node in import_onnx(export_onnx(graph, opset=22)).nodes() if node.op == case[0])
        (given,) = (node for node in graph.nodes() if node.op == case[0])
        assert in_fp32(node) == in_fp32(given)


def in_fp32(node: Node) -> dict[str, Any]:
    """A node's attributes, numbers as ONNX holds them; without a size that the run finds, which has the node's name."""
    return {
        name: np.float32(v) if isinstance(v, float) else v for name, v in node.attributes.items() if name != "count"
    }


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_passes_the_checker(opset: int) -> None:
    """Also those that ONNX Runtime does not have yet."""
    net = dsl.Network(batch="N")
    x = net.input(4, 9, 8).conv(6, 3, padding=1).batch_norm().silu().gelu().hard_swish().activation("Mish")
    x = x.max_pool(2, ceil=True).avg_pool(2).lrn().global_avg_pool().dense(10).softmax()
    onnx.checker.check_model(export_onnx(net.output(x).graph, opset=opset), full_check=True)


@pytest.mark.parametrize("opset", [12, 0, OPSETS[-1] + 1])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(errors.UsageError, match=f"opset {opset} .* 13 to {OPSETS[-1]}"):
        export_onnx(dsl.Network().graph, opset=opset)


def test_dilated_average_pooling_needs_its_opset() -> None:
    net = dsl.Network()
    net.output(net.input(1, 9, 9).avg_pool(2, stride=1, dilation=2, name="wide"))
    with pytest.raises(errors.UsageError, match=r"wide.*opset 19"):
        export_onnx(net.graph, opset=17)
    inputs = random_inputs(net.graph)
    found = onnxruntime_outputs(export_onnx(net.graph, opset=19), inputs)["output"]
    expected = outputs(net.graph, evaluate(net.graph, inputs))["output"]
    assert relative_error(found, expected) <= 4 * DType.FP32.epsilon


def test_ceil_mode_where_old_opsets_count_a_window_too_many() -> None:
    """Width 5 by windows of 1 and stride 3 in ceil mode: old shape inference counts one at 6, past the end."""
    net = dsl.Network()
    net.output(net.input(1, 5, 5).max_pool(1, stride=3, ceil=True, name="sparse"))
    assert net.graph.graph_outputs[0].outputs[0].shape == (1, 1, 2, 2)
    with pytest.raises(errors.UsageError, match=r"sparse.*opset 22"):
        export_onnx(net.graph, opset=17)
    inputs = random_inputs(net.graph)
    found = onnxruntime_outputs(export_onnx(net.graph, opset=22), inputs)["output"]
    assert (found == inputs["input"][:, :, ::3, ::3]).all()


def test_chains_below_the_opset_of_their_operator() -> None:
    def ops(op: str, opset: int, **attributes: Any) -> list[str]:
        graph, _ = single(op, {"x": IMAGE}, attributes)
        return [node.op_type for node in export_onnx(graph, opset=opset).graph.node]

    assert (ops("Silu", 23), ops("Silu", 24)) == (["Sigmoid", "Mul"], ["Swish"])
    assert (ops("Mish", 17), ops("Mish", 18)) == (["Softplus", "Tanh", "Mul"], ["Mish"])
    assert (ops("HardSwish", 13), ops("HardSwish", 14)) == (["HardSigmoid", "Mul"], ["HardSwish"])
    assert "Erf" in ops("Gelu", 19) and "Tanh" in ops("Gelu", 19, approximate="tanh")
    assert ops("Gelu", 20) == ops("Gelu", 20, approximate="tanh") == ["Gelu"]


# -- names ------------------------------------------------------------------------------------------------------------
def test_names_are_those_of_the_layers() -> None:
    net = dsl.Network("named")
    x = net.input(3, 8, 8, name="image")
    net.output(x.conv(4, 3, name="stem").relu(name="act").dense(5, name="head"), name="scores")
    graph = export_onnx(net.graph).graph
    assert graph.name == "named"
    assert [node.name for node in graph.node] == ["stem", "act", "head.flatten", "head"]
    assert [node.output[0] for node in graph.node] == ["stem", "act", "head.flatten", "scores"]
    assert {"stem.weight", "stem.bias", "head.weight", "head.bias"} <= {tensor.name for tensor in graph.initializer}
    assert (graph.input[0].name, graph.output[0].name) == ("image", "scores")


def test_equal_origins_become_unique_names() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FP32, (2,)))
    for _ in range(3):
        x = graph.add("Relu", [x], origins=["x"])
    graph.add_output("y", x)
    model = export_onnx(graph)
    onnx.checker.check_model(model, full_check=True)
    assert [node.name for node in model.graph.node] == ["x", "x_1", "x_2"]
    assert [node.output[0] for node in model.graph.node] == ["x_1", "x_2", "y"]


def test_outputs_that_are_inputs_constants_or_each_other() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FP32, (2,)))
    y = graph.add("Relu", [x])
    for name, value in (
        ("same", x),
        ("first", y),
        ("second", y),
        ("fixed", graph.add_constant(np.ones(3, np.float32))),
    ):
        graph.add_output(name, value)
    array = np.array([-1, 2], np.float32)
    found = onnxruntime_outputs(export_onnx(graph), {"x": array})
    expected = {"same": array, "first": np.maximum(array, 0), "second": np.maximum(array, 0), "fixed": np.ones(3)}
    assert found.keys() == expected.keys()
    assert all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP64, DType.FP16])
def test_element_types(dtype: DType) -> None:
    """ONNX Runtime has no fp64 convolution."""
    net = dsl.Network(dtype=dtype)
    x = net.input(3, 6, 6)
    net.output((x if dtype is DType.FP64 else x.conv(4, 3)).relu6().dense(5))
    inputs = random_inputs(net.graph)
    found = onnxruntime_outputs(export_onnx(net.graph), inputs)["output"]
    expected = outputs(net.graph, evaluate(net.graph, inputs))["output"]
    assert found.dtype == expected.dtype == dtype.numpy
    assert relative_error(found, expected) <= 2 * rounding_bound(net.graph, dtype.epsilon)


def test_bfloat16_passes_the_checker() -> None:
    net = dsl.Network(dtype=DType.BF16)
    net.output(net.input(3, 6, 6).conv(4, 3).relu())
    model = export_onnx(net.graph, opset=22)
    onnx.checker.check_model(model, full_check=True)
    assert {tensor.data_type for tensor in model.graph.initializer} == {onnx.TensorProto.BFLOAT16}


# -- symbolic dimensions ----------------------------------------------------------------------------------------------
def symbolic(*shape: int | str) -> TensorType:
    return TensorType(DType.FP32, tuple(Dim.symbol(dim) if isinstance(dim, str) else dim for dim in shape))


def agrees_at(graph: Graph, sizes: dict[str, int]) -> None:
    """The model with open dimensions computes what the graph does with these sizes."""
    model = export_onnx(graph)
    bound = graph.bind(sizes)
    inputs = random_inputs(bound)
    found = onnxruntime_outputs(model, inputs)
    for name, expected in outputs(bound, evaluate(bound, inputs)).items():
        assert found[name].shape == expected.shape
        assert (found[name] == expected).all()


def test_batch_is_a_dim_param() -> None:
    net = dsl.Network(batch="N")
    net.output(net.input(3, 8, 8).max_pool(2).flatten())
    model = export_onnx(net.graph)
    for value in (model.graph.input[0], model.graph.output[0]):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"
    reshape = next(tensor for tensor in model.graph.initializer if tensor.name == "flatten1.shape")
    assert onnx.numpy_helper.to_array(reshape).tolist() == [0, 48]
    agrees_at(net.graph, {"N": 3})


def test_reshape_that_moves_symbols() -> None:
    graph = Graph()
    x = graph.add_input("x", symbolic("N", "H", 6))
    n, h = Dim.symbol("N"), Dim.symbol("H")
    graph.add_output("moved", graph.add("Reshape", [x], {"shape": (h, 2, n, 3)}))
    graph.add_output("merged", graph.add("Reshape", [x], {"shape": (n * h * 2, 3)}))
    graph.add_output("split", graph.add("Reshape", [x], {"shape": (n, h * 2, 3)}))
    agrees_at(graph, {"N": 3, "H": 5})


def test_expand_slice_and_quotients_of_symbols() -> None:
    graph = Graph()
    x = graph.add_input("x", symbolic("N", 1, "H"))
    n, h = Dim.symbol("N"), Dim.symbol("H")
    graph.add_output("wide", graph.add("Expand", [x], {"shape": (n, 4, h)}))
    graph.add_output("repeated", graph.add("Expand", [x], {"shape": (2, n, n, h)}))
    backwards = {"starts": (0, 0, h - 1), "sizes": (n, 1, h), "steps": (1, 1, -1)}
    graph.add_output("backwards", graph.add("Slice", [x], backwards))
    half = {"starts": (0, 0, 0), "sizes": (n, 1, (h + 1) // 2), "steps": (1, 1, 2)}
    graph.add_output("half", graph.add("Slice", [x], half))
    tail = {"starts": (1, 0, 2), "sizes": (n - 1, 1, h - 2), "steps": (1, 1, 1)}
    graph.add_output("tail", graph.add("Slice", [x], tail))
    agrees_at(graph, {"N": 3, "H": 7})
    agrees_at(graph, {"N": 2, "H": 8})


def test_a_symbol_that_no_input_shows_is_refused() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.FP32, (Dim.symbol("N") * 2, 4)))
    wide = {"shape": (Dim.symbol("N"), Dim.symbol("N") * 2, 4)}
    graph.add_output("y", graph.add("Expand", [x], wide, origins=["wide"]))
    with pytest.raises(errors.ShapeError, match=r"wide.*dimension N"):
        export_onnx(graph)


# -- files ------------------------------------------------------------------------------------------------------------
def small() -> Graph:
    net = dsl.Network()
    return net.output(net.input(1, 4, 4).conv(2, 3).relu()).graph


def test_file_holds_the_model(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    model = export_onnx(small(), path)
    assert onnx.load(path) == model
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


def test_export_is_deterministic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_onnx(small(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.onnx"
    path.write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(errors.OutputError, match=r"small\.onnx.*No space left"):
        export_onnx(small(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.onnx"]


def test_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(errors.OutputError, match="No such file"):
        export_onnx(small(), tmp_path / "missing" / "small.onnx")


def test_more_weights_than_a_file_holds_are_refused() -> None:
    net = dsl.Network(weights="none")
    net.output(net.input(100_000).dense(10_000))
    assert net.params * 4 > 2**31
    with pytest.raises(errors.LimitError, match=r"4000040000 bytes"):
        export_onnx(net.graph)


@pytest.mark.parametrize("batch", [1, "N"])
@pytest.mark.parametrize("name", ["lenet5", "convnetjs_cifar10", "resnet20", "squeezenet1_1"])
def test_importing_an_export_gives_the_graph_back(name: str, batch: int | str) -> None:
    """ONNX holds attributes in fp32, so an epsilon comes back rounded; the results are the same bits."""
    graph = zoo.build(name, batch, **({"size": 64} if name.startswith("squeezenet") else {})).graph
    again = import_onnx(export_onnx(graph))
    assert again.symbols == graph.symbols
    assert [(node.op, node.outputs, node.label) for node in again.of_kind("Conv", "Gemm", "Concat", "Softmax")] == [
        (node.op, node.outputs, node.label) for node in graph.of_kind("Conv", "Gemm", "Concat", "Softmax")
    ]
    sizes = dict.fromkeys(graph.symbols, 2)
    before, after = graph.bind(sizes), again.bind(sizes)
    inputs = random_inputs(before)
    expected, found = (outputs(g, evaluate(g, inputs))["output"] for g in (before, after))
    assert (found == expected).all()


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64], ids=lambda dtype: dtype.__name__)
def test_other_floats_give_what_is_inferred(dtype: type) -> None:
    """Every operator that takes a type also computes in it."""
    for op, shapes, attributes in CASES:
        arrays = [drawn(name, shape) for name, shape in shapes.items()]
        arrays = [array.astype(dtype) if array.dtype == np.float32 else array for array in arrays]
        full = operators()[op].complete(attributes)
        if op == "BitCast":
            full["dtype"] = DType.of(dtype)
        types = operators()[op].infer(full, [TensorType(DType.of(array.dtype), array.shape) for array in arrays])
        results = operators()[op].evaluate(full, arrays)
        assert [DType.of(result.dtype) for result in results] == [type.dtype for type in types], op
