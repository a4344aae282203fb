"""What the importer's tests share: small models, and the imported graph beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from convc.frontends.onnx import import_onnx
from convc.ir.dims import Dim
from convc.ir.graph import Graph, Value, bind_attributes
from convc.ir.types import DType

IR_OF_OPSET = {6: 3, 7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}
ROUNDINGS_OF_A_FUNCTION = 8
"""Rounding errors that one elementwise function may make: its argument, a few steps, its result."""

rng = np.random.default_rng(20)


def floats(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    """Standard normal values."""
    return rng.standard_normal(shape).astype(dtype)


def whole(*shape: int, dtype: Any = np.float32, low: int = -4, high: int = 5) -> np.ndarray:
    """Small whole numbers: sums and products of them are exact, whatever the order."""
    return rng.integers(low, high, shape).astype(dtype)


def info(name: str, array: np.ndarray, shape: Sequence[int | str] | None = None) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element, array.shape if shape is None else shape)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    feeds: Mapping[str, np.ndarray],
    constants: Mapping[str, np.ndarray] | None = None,
    *,
    results: Sequence[str] = ("y",),
    opset: int = 17,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    types: Mapping[str, int] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    """A model of these nodes. shapes: declared ones, where they differ from the arrays'; types: of the results."""
    inputs = [info(name, array, (shapes or {}).get(name)) for name, array in feeds.items()]
    initializers = [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()]
    types = types or {}
    declared = [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), None) for name in results]
    graph = helper.make_graph(list(nodes), "net", inputs, declared, initializers)
    opsets = more.pop("opset_imports", [helper.make_opsetid("", opset)])
    model = helper.make_model(graph, opset_imports=opsets, **more)
    model.ir_version = IR_OF_OPSET.get(opset, 10)
    return model


def run(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The graph's outputs, its symbols bound by the shapes of ``feeds``."""
    bindings: dict[str, int] = {}
    for node in graph.graph_inputs:
        for dim, size in zip(node.outputs[0].shape, feeds[node.attributes["name"]].shape, strict=True):
            if isinstance(dim, Dim):
                bindings[str(dim)] = size
    found: dict[Value, np.ndarray] = {}
    results: dict[str, np.ndarray] = {}
    bound = graph.bind(bindings)
    for node in bound.nodes():
        arrays = [found[value] for value in bound.inputs(node)]
        if node.op == "Constant":
            arrays = [node.array]
        elif node.op == "Input":
            arrays = [feeds[node.attributes["name"]]]
        elif node.op == "Output":
            results[node.attributes["name"]] = arrays[0]
        else:
            arrays = node.operator.evaluate(bind_attributes(node.attributes, bindings), arrays)
        for array, type in zip(arrays, node.outputs, strict=True):
            bindings |= {str(d): size for d, size in zip(type.shape, array.shape, strict=True) if _is_open(d, bindings)}
            assert array.shape == type.substitute(bindings).shape, node.label
        found.update(zip(bound.values(node), arrays, strict=True))
    return {node.attributes["name"]: results[node.attributes["name"]] for node in bound.graph_outputs}


def _is_open(dim: int | Dim, bindings: Mapping[str, int]) -> bool:
    """A size that only this run finds out."""
    return isinstance(dim, Dim) and dim.is_symbol and str(dim) not in bindings


def onnxruntime_outputs(model: onnx.ModelProto | str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes with its optimisations disabled."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    source = model if isinstance(model, str) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def bound_of(graph: Graph, expected: np.ndarray) -> float:
    """The largest difference of two evaluations of ``graph`` in any order of summation: K roundings of the size of the
    result for a sum of K terms, a few for any other function, each at the precision of the output."""
    roundings = 0.0
    for node in graph.nodes():
        types = [graph.type(value) for value in graph.inputs(node)]
        macs = node.operator.macs(node.attributes, types, node.outputs) if types else 0
        terms = macs // max(node.outputs[0].size, 1)
        if node.op.startswith("Reduce") or node.op in ("Softmax", "LogSoftmax"):
            terms = types[0].size // max(node.outputs[0].size, 1)
        roundings += max(terms, ROUNDINGS_OF_A_FUNCTION)
    finite = np.abs(expected.astype(np.float64))[np.isfinite(expected)]
    return 2 * roundings * DType.of(expected.dtype).epsilon * max(finite.max(initial=0.0), 1.0)


def agree(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    *,
    exact: bool = False,
    expected: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> Graph:
    """Imports ``model`` and compares it with ONNX Runtime (or ``expected``); returns the graph."""
    graph = import_onnx(model, **options)
    given = {name: array for name, array in feeds.items() if name not in options.get("constants", {})}
    found = run(graph, given)
    wanted = onnxruntime_outputs(model, feeds) if expected is None else expected
    assert list(found) == [output.name for output in model.graph.output]
    for name, reference in wanted.items():
        assert (found[name].dtype, found[name].shape) == (reference.dtype, reference.shape), name
        if exact or not DType.of(reference.dtype).is_float:
            np.testing.assert_array_equal(found[name], reference)
        else:
            bound = bound_of(graph.bind(dict.fromkeys(graph.symbols, 2)), reference)
            difference = np.abs(found[name].astype(np.float64) - reference.astype(np.float64))
            assert np.array_equal(np.isnan(found[name]), np.isnan(reference)), name
            same = (found[name] == reference) | np.isnan(reference)
            assert np.where(same, 0, difference).max(initial=0) <= bound, (name, difference.max(), bound)
    return graph


def one(
    op: str,
    *arrays: np.ndarray,
    constants: Sequence[np.ndarray | None] = (),
    opset: int = 17,
    outputs: int = 1,
    exact: bool = False,
    shapes: Sequence[Sequence[int | str]] | None = None,
    result: int = TensorProto.FLOAT,
    expected: Sequence[np.ndarray] | None = None,
    **attributes: Any,
) -> Graph:
    """Checks one operator on ``arrays`` (network inputs) and then ``constants`` (initialisers; None leaves one out)."""
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    known = {f"c{i}": array for i, array in enumerate(constants) if array is not None}
    names = [*feeds, *("" if array is None else f"c{i}" for i, array in enumerate(constants))]
    results = ["y", *(f"y{i}" for i in range(1, outputs))]
    node = helper.make_node(op, names, results, name="the_node", **attributes)
    types = dict.fromkeys(results, result)
    declared = dict(zip(feeds, shapes, strict=True)) if shapes else None
    model = model_of([node], feeds, known, results=results, opset=opset, types=types, shapes=declared)
    wanted = dict(zip(results, expected, strict=True)) if expected is not None else None
    return agree(model, feeds, exact=exact, expected=wanted)


def ops_of(graph: Graph) -> list[str]:
    """The operators of a graph in order, without inputs, constants and outputs."""
    return [node.op for node in graph.nodes() if node.op not in ("Input", "Constant", "Output")]


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)
