"""Exported models: names, element types, symbolic dimensions, files, and the way back."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from export_cases import CASES, drawn
from graph_reference import (
    evaluate,
    onnxruntime_outputs,
    outputs,
    random_inputs,
    relative_error,
    rounding_bound,
)

from convc import errors
from convc.frontends import dsl, zoo
from convc.frontends.export import export_onnx
from convc.frontends.onnx import import_onnx
from convc.ir.dims import Dim
from convc.ir.graph import Graph
from convc.ir.operator import operators
from convc.ir.types import DType, TensorType


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
