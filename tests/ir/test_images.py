"""Which networks keep the images of a batch apart: the rules, each held against what its operator computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from convc.frontends import zoo
from convc.ir import Dim, DType, Graph, TensorType, Value
from convc.ir.images import RULES, Independent, Mixing, images_of, outermost
from convc.ir.operator import Kind, operators
from convc.runtime.numpy_executor import GraphRunner

N = Dim.symbol("N")
MOST, COUNT = 3, 2
ROUNDING = 2 * 144 * DType.FP32.epsilon
"""Two sums of 144 products, the longest here, may be added up in two orders."""
POOL = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
CONV = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
HALF = {"starts": (0, 0, 0, 0), "sizes": (N, 2, 6, 6), "steps": (1, 2, 1, 1)}


class Case:
    """A graph of one operator, on the input ``x`` of shape [N, 4, 6, 6] and on other operands."""

    def __init__(self) -> None:
        self.graph = Graph("case")
        self.x = self.input("x", (N, 4, 6, 6))

    def input(self, name: str, shape: Sequence[Any], dtype: DType = DType.FP32) -> Value:
        return self.graph.add_input(name, TensorType(dtype, tuple(shape)))

    def constant(self, *shape: int) -> Value:
        return self.graph.add_constant(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))

    def rounded(self, x: Value) -> Value:
        hundred = self.graph.add_constant(np.asarray(100, np.float32))
        return self.add("Cast", self.add("Mul", x, hundred), dtype=DType.INT8)

    def bytes(self, *shape: int) -> Value:
        return self.graph.add_constant(np.random.default_rng(0).integers(-9, 9, shape, np.int8))

    def integers(self, values: Any) -> Value:
        return self.graph.add_constant(np.asarray(values, np.int64))

    def add(self, op: str, *inputs: Value, **attributes: Any) -> Value:
        return self.graph.add(op, inputs, attributes, origins=[op])


def _view(op: str, **attributes: Any) -> Callable[[Case], Value]:
    return lambda c: c.add(op, c.x, **attributes)


def _flat(c: Case, *shape: Any) -> Value:
    return c.add("Reshape", c.x, shape=shape)


APART: dict[str, Callable[[Case], Value]] = {
    "elementwise": lambda c: c.add("Add", c.x, c.constant(4, 1, 6)),
    "elementwise with one for all": lambda c: c.add("Mul", c.x, c.constant(1, 4, 6, 6)),
    "batch normalisation": lambda c: c.add("BatchNormalization", c.x, *(c.add("Abs", c.constant(4)),) * 4),
    "convolution": lambda c: c.add("Conv", c.x, c.constant(5, 4, 3, 3), **CONV),
    "convolution of integers": lambda c: c.add("ConvInteger", c.rounded(c.x), c.bytes(5, 4, 3, 3), **CONV),
    "product of integers": lambda c: c.add("MatMulInteger", c.rounded(_flat(c, N, 144)), c.bytes(144, 5)),
    "transposed convolution": lambda c: c.add(
        "ConvTranspose", c.x, c.constant(4, 5, 3, 3), **CONV, output_padding=(0, 0)
    ),
    "deformable convolution": lambda c: c.add(
        "DeformConv", c.x, c.constant(5, 4, 3, 3), c.input("offset", (N, 18, 6, 6)), **CONV
    ),
    "max pool": _view("MaxPool", **POOL),
    "places of a max pool": _view("MaxPoolIndices", **POOL),
    "average pool": _view("AveragePool", **POOL),
    "LRN": _view("LRN", size=3),
    "softmax": _view("Softmax", axis=1),
    "log-softmax": _view("LogSoftmax", axis=3),
    "sum": _view("ReduceSum", axes=(2, 3), keepdims=False),
    "argmax": _view("ArgMax", axis=1),
    "argmin": _view("ArgMin", axis=1, keepdims=False),
    "running sum": _view("CumSum", axis=2),
    "running product": _view("CumProd", axis=2),
    "the largest": _view("TopK", axis=1, k=2),
    "where the largest are": _view("TopKIndices", axis=1, k=2),
    "flattened": _view("Reshape", shape=(N, 144)),
    "rows of all images": _view("Reshape", shape=(N * 24, 6)),
    "split and merged": lambda c: c.add("Reshape", _flat(c, N * 4, 36), shape=(N, 2, 72)),
    "batch inside": _view("Transpose", perm=(1, 0, 2, 3)),
    "batch inside, and reshaped": lambda c: c.add(
        "Reshape", c.add("Transpose", c.x, perm=(1, 0, 2, 3)), shape=(2, 2, N * 6, 6)
    ),
    "every second channel": _view("Slice", **HALF),
    "expanded": lambda c: c.add("Expand", c.x, shape=(N, 4, 6, 6)),
    "one for all, expanded": lambda c: c.add("Add", c.x, c.add("Expand", c.constant(4, 1, 6), shape=(N, 4, 6, 6))),
    "padded": _view("Pad", pads=(0, 1, 2, 0, 0, 0, 0, 1), mode="reflect"),
    "concatenation": lambda c: c.add("Concat", c.x, c.add("Neg", c.x), axis=1),
    "resized": lambda c: c.add("Resize", c.x, sizes=(N, 4, 9, 3), scales=(1.0, 1.0, 1.5, 0.5), mode="linear"),
    "sampled": lambda c: c.add("GridSample", c.x, c.input("grid", (N, 2, 2, 2))),
    "channels picked": lambda c: c.add("Gather", c.x, c.integers([[3, 1], [0, 0]]), axis=1),
    "rows of a table": lambda c: c.add("Gather", c.constant(2, 5), c.input("i", (N, 3), DType.INT64), axis=0),
    "elements picked": lambda c: c.add("GatherElements", c.x, c.input("i", (N, 2, 6, 6), DType.INT64), axis=1),
    "slices picked": lambda c: c.add("GatherND", c.x, c.input("i", (N, 2, 1), DType.INT64), batch_dims=1),
    "elements placed": lambda c: c.add(
        "ScatterElements", c.x, c.input("i", (N, 1, 6, 6), DType.INT64), c.input("u", (N, 1, 6, 6)), axis=1
    ),
    "gemm": lambda c: c.add("Gemm", _flat(c, N, 144), c.constant(5, 144), c.constant(5), trans_b=True),
    "gemm, transposed": lambda c: c.add(
        "Gemm", c.add("Transpose", _flat(c, N, 144), perm=(1, 0)), c.constant(144, 5), trans_a=True
    ),
    "gemm by columns": lambda c: c.add("Gemm", c.constant(5, 144), _flat(c, N, 144), trans_b=True),
    "product of rows": lambda c: c.add("MatMul", _flat(c, N, 144), c.constant(144, 5)),
    "product of columns": lambda c: c.add(
        "MatMul", c.constant(5, 144), c.add("Transpose", _flat(c, N, 144), perm=(1, 0))
    ),
    "products side by side": lambda c: c.add("MatMul", c.x, c.add("Neg", c.x)),
    "products with one for all": lambda c: c.add("MatMul", c.constant(4, 2, 6), c.x),
    "einsum": lambda c: c.add("Einsum", c.x, c.constant(4, 5), equation="nchw,cd->hndw"),
    "einsum with an ellipsis": lambda c: c.add("Einsum", c.x, c.x, equation="...hw,...hv->...wv"),
}

MIXED: dict[str, Callable[[Case], Value]] = {
    "batches behind each other": lambda c: c.add("Concat", c.x, c.x, axis=0),
    "softmax over the batch": _view("Softmax", axis=0),
    "mean of the batch": _view("ReduceMean", axes=(0,)),
    "the best image": _view("ArgMax", axis=0),
    "running sum over the batch": _view("CumSum", axis=0),
    "products of images": lambda c: c.add(
        "MatMul", _flat(c, N, 144), c.add("Transpose", _flat(c, N, 144), perm=(1, 0))
    ),
    "gemm of images": lambda c: c.add("Gemm", _flat(c, N, 144), _flat(c, N, 144), trans_a=True),
    "batch reversed": _view("Slice", starts=(N - 1, 0, 0, 0), sizes=(N, 4, 6, 6), steps=(-1, 1, 1, 1)),
    "batch reshaped away": _view("Reshape", shape=(4, N, 6, 6)),
    "padded by an image": _view("Pad", pads=(1, 0, 0, 0, 0, 0, 0, 0)),
    "picked images": lambda c: c.add("Gather", c.x, c.input("i", (N,), DType.INT64), axis=0),
    "images placed": lambda c: c.add("ScatterND", c.x, c.input("i", (N, 1), DType.INT64), c.add("Neg", c.x)),
    "another filter for each": lambda c: c.add("Conv", c.x, _flat(c, N, 4, 6, 6), **CONV),
    "batch as channels": lambda c: c.add("LRN", c.add("Transpose", c.x, perm=(1, 0, 2, 3)), size=3),
    "batch resized": lambda c: c.add(
        "Resize", c.x, sizes=(N, 4, 6, 6), scales=(1.5, 1.0, 1.0, 1.0), mode="linear", transformation="asymmetric"
    ),
    "sum over the batch": lambda c: c.add("Einsum", c.x, equation="nchw->chw"),
    "product over the batch": lambda c: c.add("Einsum", c.x, c.x, equation="nchw,mchw->nm"),
    "elements that are not 0": lambda c: c.add("NonZero", c.x, count=Dim.symbol("found")),
    "batch not first": lambda c: c.add("Neg", c.input("t", (4, N))),
    "a table beside every image": lambda c: c.add("Add", c.x, c.constant(3, 4, 6, 6)),
}


def built(make: Callable[[Case], Value]) -> Graph:
    case = Case()
    case.graph.add_output("y", make(case))
    return case.graph


def arrays(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {}
    for node in graph.graph_inputs:
        shape, dtype = tuple(map(int, node.outputs[0].shape)), node.outputs[0].dtype  # type: ignore[arg-type]
        drawn = random.uniform(-1, 1, shape) if dtype.is_float else random.integers(0, 2, shape)
        found[node.attributes["name"]] = drawn.astype(dtype.numpy)
    return found


def outputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return GraphRunner(graph).run(dict(inputs))[0]


@pytest.mark.parametrize("name", APART)
def test_what_is_proved_to_keep_images_apart_does(name: str) -> None:
    """Whatever stands behind the first images, and however many, their results are the same."""
    graph = built(APART[name])
    found = images_of(graph)
    if "columns" in name or "inside" in name or name == "einsum":
        assert isinstance(found, Mixing) and found.node.op == "Output" and "not the first dimension" in found.reason
        return
    assert isinstance(found, Independent), found
    whole, part = graph.bind({"N": MOST}), graph.bind({"N": COUNT})
    inputs, others = arrays(whole, 0), arrays(whole, 1)
    first = {
        name: array[: COUNT * rows] if rows else array
        for name, array in inputs.items()
        for rows in [found.inputs[name]]
    }
    mixed = {name: np.concatenate([first[name], others[name][len(first[name]) :]]) for name in inputs}
    rows = found.outputs["y"] * COUNT
    assert rows
    wanted = outputs(part, first)
    assert len(wanted) == rows
    for given in (inputs, mixed):
        np.testing.assert_allclose(outputs(whole, given)[:rows], wanted, ROUNDING, ROUNDING)


@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_images_is_found(name: str) -> None:
    found = images_of(built(MIXED[name]))
    assert isinstance(found, Mixing), found


def test_a_batch_along_another_dimension_inside_the_network() -> None:
    """Attention: three tensors of all images from one product, taken apart behind a transposition."""
    c = Case()
    q = c.add("Transpose", _flat(c, N, 48, 3), perm=(2, 0, 1))
    parts = [c.add("Gather", q, c.integers(i), axis=0) for i in range(3)]
    c.graph.add_output("y", c.add("Add", parts[0], c.add("Mul", parts[1], parts[2])))
    assert images_of(c.graph) == Independent({"x": 1}, {"y": 1})


def test_what_does_not_depend_on_the_batch_is_no_image() -> None:
    c = Case()
    scale = c.input("scale", (4, 1, 1))
    c.graph.add_output("y", c.add("Mul", c.x, scale))
    c.graph.add_output("s", c.add("ReduceSum", scale, axes=(0,)))
    assert images_of(c.graph) == Independent({"x": 1, "scale": 0}, {"y": 1, "s": 0})


def test_several_names_for_the_batch_are_one() -> None:
    c = Case()
    other = c.input("other", (Dim.symbol("M"), 4, 6, 6))
    c.graph.add_output("y", c.add("Concat", c.x, other, axis=1))
    assert images_of(c.graph) == Independent({"x": 1, "other": 1}, {"y": 1})


def test_values_whose_first_dimension_alone_goes_with_the_batch() -> None:
    c = Case()
    c.graph.add_output("y", c.add("Relu", _flat(c, N * 4, 36)))
    fixed = c.graph.add_output("z", c.constant(4))
    sizes = MOST, MOST + 1
    graphs = [c.graph.bind({"N": size}) for size in sizes]
    found = outermost(*graphs, sizes)
    assert found == {Value(node.id) for node in graphs[0].nodes() if node.op != "Constant"} - {fixed}
    inside = c.add("Transpose", c.x, perm=(1, 0, 2, 3))
    c.graph.add_output("t", inside)
    assert not outermost(*(c.graph.bind({"N": size}) for size in sizes), sizes)
    assert not outermost(graphs[0], built(APART["padded"]).bind({"N": MOST + 1}), sizes), "other graphs"


def test_every_rule_is_of_an_operator_and_every_operator_but_these_has_one() -> None:
    without = {name for name, found in operators().items() if name not in RULES and found.kind is not Kind.STRUCTURAL}
    assert without == {"Det", "NonMaxSuppression", "NonZero", "RoiAlign", "ScatterND"}
    assert set(RULES) <= set(operators())


@pytest.mark.parametrize("name", [entry["name"] for entry in zoo.describe()])
def test_networks_of_the_zoo_keep_images_apart(name: str) -> None:
    graph = zoo.build(name, batch="N", weights="none").graph
    found = images_of(graph)
    assert isinstance(found, Independent), found
    assert set(found.inputs.values()) == {1} and all(found.outputs.values())
