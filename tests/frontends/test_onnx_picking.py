"""Picking, placing, ordering and counting, against ONNX Runtime."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_support import agree, floats, i64, model_of, one, ops_of, whole

from convc import errors
from convc.frontends.onnx import import_onnx

INT64 = TensorProto.INT64


def test_gathering_by_computed_indices() -> None:
    data = floats(3, 4, 5)
    one("GatherElements", data, whole(3, 2, 5, dtype=np.int64, low=-4, high=4), exact=True, axis=-2)
    one("GatherND", data, whole(2, 3, 2, dtype=np.int64, low=-3, high=3), exact=True)
    one("GatherND", data, whole(3, 6, 1, dtype=np.int64, low=-4, high=4), exact=True, batch_dims=1)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scattering(reduction: str) -> None:
    data, rows = whole(4, 5, 3), i64(3, 0, 2).reshape(3, 1)
    one("ScatterND", data, rows, whole(3, 5, 3), exact=True, opset=18, reduction=reduction)
    places = np.stack([np.random.default_rng(k).permutation(5)[:3] for k in range(6)]).T.reshape(1, 3, 2, 3)[0]
    one("ScatterElements", data, places.transpose(1, 0, 2), whole(2, 3, 3), exact=True, opset=18, axis=1)
    if reduction != "none":
        twice = np.zeros((2, 3, 3), np.int64)
        one("ScatterElements", data, twice, whole(2, 3, 3), exact=True, opset=18, axis=1, reduction=reduction)


def test_indices_outside_are_errors_when_run() -> None:
    x = {"x": floats(3, 4), "i": np.array([[4, 0]], np.int64)}
    graph = import_onnx(model_of([helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)], x))
    node = next(graph.of_kind("GatherElements"))
    with pytest.raises(errors.ShapeError, match="GatherElements"):
        node.operator.evaluate(node.attributes, [x["x"], x["i"]])


def test_indices_are_no_wider_than_the_data() -> None:
    data, indices = floats(2, 2), np.zeros((3, 2), np.int64)
    with pytest.raises(errors.ShapeError, match="dimension 0 of its indices to be at most 2"):
        one("GatherElements", data, indices, axis=1)
    with pytest.raises(errors.ShapeError, match="dimension 0 of its indices to be at most 2"):
        one("ScatterElements", data, indices, floats(3, 2), axis=1, opset=18)


def test_positions_of_extremes_among_equals() -> None:
    x = whole(3, 5, 4)
    for op, axis, last, keep in product(("ArgMax", "ArgMin"), (0, -1), (0, 1), (0, 1)):
        one(op, x, exact=True, opset=13, result=INT64, axis=axis, select_last_index=last, keepdims=keep)


@pytest.mark.parametrize("largest", [0, 1])
def test_largest_of_equals(largest: int) -> None:
    x = {"x": whole(3, 6, 4)}
    k = {"k": i64(3)}
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=1, largest=largest)
    types = {"i": INT64}
    both = agree(model_of([node], x, k, results=["y", "i"], types=types, opset=11), x, exact=True)
    assert sorted(ops_of(both)) == ["TopK", "TopKIndices"]
    assert ops_of(agree(model_of([node], x, k, opset=11), x, exact=True)) == ["TopK"]


def test_largest_integers_do_not_overflow() -> None:
    x = np.array([[-(2**63), 2**63 - 1, 0]], np.int64)
    one("TopK", x, constants=[i64(2)], exact=True, outputs=2, result=INT64, opset=11)


def test_running_sums() -> None:
    x = whole(3, 4)
    for axis, exclusive, reverse in product((0, -1), (0, 1), (0, 1)):
        one("CumSum", x, constants=[np.array(axis, np.int32)], exact=True, exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("centered", [0, 1])
def test_suppression(centered: int) -> None:
    stream = np.random.default_rng(centered)
    boxes = stream.uniform(0, 10, (2, 30, 4)).astype(np.float32)
    scores = stream.standard_normal((2, 3, 30)).astype(np.float32)
    for most, overlap, least in ((5, 0.3, 0.1), (40, 0.0, -9.0), (3, 0.9, 0.0)):
        limits = [i64(most), np.array([overlap], np.float32), np.array([least], np.float32)]
        form = {"constants": limits, "exact": True, "opset": 11, "result": INT64}
        graph = one("NonMaxSuppression", boxes, scores, center_point_box=centered, **form)
        assert str(graph.graph_outputs[0].outputs[0].shape[0]).endswith("count")


def test_sizes_found_when_running_go_on_through_the_graph() -> None:
    x = {"x": whole(4, 5)}
    nodes = [
        helper.make_node("NonZero", ["x"], ["nz"], name="places"),
        helper.make_node("Transpose", ["nz"], ["rows"]),
        helper.make_node("GatherND", ["x", "rows"], ["found"]),
        helper.make_node("Shape", ["found"], ["size"]),
        helper.make_node("Concat", ["size", "one"], ["shape"], axis=0),
        helper.make_node("Reshape", ["found", "shape"], ["y"]),
    ]
    agree(model_of(nodes, x, {"one": i64(1)}), x, exact=True)


def test_hot_elements() -> None:
    one("Hardmax", whole(3, 4, 5), exact=True, opset=13, axis=1)
    one("Hardmax", whole(3, 4, 5), exact=True, opset=11, axis=1)
    indices = np.array([[1, -2], [7, 0]], np.int64)
    one("OneHot", indices, constants=[np.array(4), np.array([2.0, 5.0], np.float32)], exact=True, axis=1)


def test_unpooling_puts_back_what_pooling_took() -> None:
    x = {"x": floats(2, 3, 6, 8)}
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("MaxUnpool", ["p", "i"], ["y"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    agree(model_of(nodes, x, opset=12), x, exact=True)


def test_shuffles() -> None:
    one("DepthToSpace", floats(2, 12, 3, 4), exact=True, blocksize=2, mode="CRD")
    one("DepthToSpace", floats(2, 12, 3, 4), exact=True, blocksize=2, mode="DCR")
    one("SpaceToDepth", floats(2, 3, 4, 6), exact=True, blocksize=2)
    for upper, k in product((0, 1), (-1, 0, 2)):
        one("Trilu", floats(2, 4, 5), constants=[np.array(k)], exact=True, upper=upper)
    one("EyeLike", floats(3, 4), exact=True, k=1, opset=9)
    one("ReverseSequence", floats(4, 3, 2), constants=[i64(4, 1, 2)], exact=True, opset=10, time_axis=0, batch_axis=1)
    one("Compress", floats(3, 4), constants=[np.array([True, False, True])], exact=True, axis=1)


EQUATIONS = [
    ("bhqd,bhkd->bhqk", [(1, 2, 3, 4), (1, 2, 5, 4)], ["MatMul"]),
    ("bchw,kc->bkhw", [(1, 3, 4, 5), (2, 3)], ["MatMul"]),
    ("ij,ij->", [(3, 4), (3, 4)], ["MatMul"]),
    ("i,j->ij", [(3,), (4,)], ["MatMul"]),
    ("...ij,jk", [(2, 3, 4), (4, 5)], ["Einsum"]),
    ("ij->ji", [(3, 4)], ["Einsum"]),
    ("ii,ij->j", [(3, 3), (3, 4)], ["Einsum"]),
    ("ij,ij->j", [(3, 1), (1, 4)], ["Einsum"]),
    ("bij,bjk,bkl->bil", [(1, 2, 3), (1, 3, 4), (1, 4, 2)], ["Einsum"]),
]


@pytest.mark.parametrize(("equation", "shapes", "products"), EQUATIONS, ids=lambda value: str(value)[:20])
def test_einstein_sums(equation: str, shapes: list[tuple[int, ...]], products: list[str]) -> None:
    """Whole numbers: every sum is exact."""
    graph = one("Einsum", *(whole(*shape) for shape in shapes), exact=True, opset=12, equation=equation)
    assert [op for op in ops_of(graph) if op in ("MatMul", "Einsum")] == products
