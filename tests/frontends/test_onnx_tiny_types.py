"""Element types of 8 bits and less that numbers are only kept in: read, converted, moved, run."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_support import info, model_of, run

import convc
from convc import errors
from convc.frontends.export import export_onnx
from convc.frontends.onnx import import_onnx
from convc.ir import DType
from convc.ir.text import parse_graph, print_graph
from convc.ir.types import TINY

CODES = {dtype: helper.np_dtype_to_tensor_dtype(dtype.numpy) for dtype in TINY}
EVERY = pytest.mark.parametrize("dtype", TINY, ids=str)


def all_of(dtype: DType) -> np.ndarray:
    """Every finite value of a type, in a number that its bytes do not divide."""
    low, high = TINY[dtype]
    codes = np.arange(256, dtype=np.uint8).view(dtype.numpy).astype(np.float32)
    values = np.unique(codes[np.isfinite(codes)])
    assert (values.min(), values.max()) == (low, high)
    return np.concatenate([values, values[:1]]).astype(dtype.numpy)


@EVERY
def test_weights_are_read_however_they_are_written(dtype: DType, tmp_path: Path) -> None:
    values = all_of(dtype)[:-1] if len(all_of(dtype)) % 2 == 0 else all_of(dtype)
    raw = numpy_helper.from_array(values, "w")
    typed = helper.make_tensor("w", CODES[dtype], [len(values)], values.astype(np.float32).tolist())
    for tensor in (raw, typed):
        node = helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)
        model = model_of([node], {}, opset=25)
        model.ir_version = onnx.IR_VERSION
        model.graph.initializer.append(tensor)
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        np.testing.assert_array_equal(run(import_onnx(path), {})["y"], values.astype(np.float32))


@EVERY
def test_a_graph_goes_to_text_and_onnx_and_back(dtype: DType) -> None:
    values = all_of(dtype)
    nodes = [helper.make_node("Concat", ["x", "w"], ["y"], axis=0)]
    model = model_of(nodes, {"x": values}, {"w": values}, opset=25, types={"y": CODES[dtype]})
    model.ir_version = onnx.IR_VERSION
    graph = import_onnx(model)
    constants = {node.payload.digest: node.array for node in graph.nodes() if node.op == "Constant"}
    for again in (graph, parse_graph(print_graph(graph), constants), import_onnx(export_onnx(graph, opset=24))):
        np.testing.assert_array_equal(run(again, {"x": values})["y"], np.concatenate([values, values]))


def converting(dtype: DType, **attributes: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=CODES[dtype], **attributes),
        helper.make_node("Cast", ["a"], ["y"], to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, {"x": np.zeros(6, np.float32)}, opset=25)
    model.ir_version = onnx.IR_VERSION
    return model


@pytest.mark.parametrize("dtype", [dtype for dtype in TINY if "fp8" in dtype.value], ids=str)
def test_too_large_numbers_are_held_to_the_bounds_or_lost(dtype: DType) -> None:
    low, high = TINY[dtype]
    x = np.array([1e6, -1e6, np.inf, -np.inf, np.nan, 0.7], np.float32)
    graphs = [import_onnx(converting(dtype, saturate=s)) for s in (1, 0)]
    held, lost = (run(graph, {"x": x})["y"] for graph in graphs)
    for graph, expected in zip(graphs, (held, lost), strict=True):
        exported = import_onnx(export_onnx(graph, opset=24))
        np.testing.assert_array_equal(run(exported, {"x": x})["y"], expected)
    np.testing.assert_array_equal(held[:5], [high, low, high, low, np.nan])
    assert not np.isfinite(lost[:5]).any() and held[5] == lost[5]
    infinite = dtype is DType.FP8E5M2
    np.testing.assert_array_equal(lost[:2], [np.inf, -np.inf] if infinite else [np.nan, np.nan])


def test_compiled_networks_round_as_the_definition_does() -> None:
    x = np.linspace(-21, 21, 6, dtype=np.float32)
    model = converting(DType.FP8E4M3FN)
    wanted = x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert (wanted != x).any()
    compiled = convc.compile(model, target="interpreter", dtype="fp32")
    for device in ("numpy", "interpreter"):
        np.testing.assert_array_equal(compiled.engine(device)(x), wanted)


def test_nothing_is_computed_in_them() -> None:
    for dtype in TINY:
        model = model_of([helper.make_node("Relu", ["x"], ["y"])], {}, opset=25, types={"y": CODES[dtype]})
        model.graph.input.append(info("x", np.zeros(3, dtype.numpy)))
        with pytest.raises(errors.ShapeError, match=f"Relu expects inputs of type a number, found {dtype}"):
            import_onnx(model)


def test_payloads_of_other_lengths() -> None:
    tensor = numpy_helper.from_array(np.zeros(3, ml_dtypes.int4), "w")
    tensor.raw_data = b"\0" * 3
    model = model_of([helper.make_node("Cast", ["w"], ["y"], to=TensorProto.FLOAT)], {}, opset=25)
    model.graph.initializer.append(tensor)
    with pytest.raises(errors.LoadError, match="3 bytes"):
        import_onnx(model)
