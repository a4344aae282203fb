"""Convolutions and pools, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_support import agree, floats, model_of, one, ops_of, whole

from convc import errors
from convc.frontends.onnx import import_onnx

CONVOLUTIONS = {
    "plain": ((2, 3, 9, 8), (4, 3, 3, 3), {}),
    "1-D": ((2, 3, 16), (4, 3, 3), {"pads": [1, 2]}),
    "3-D": ((1, 2, 5, 6, 7), (3, 2, 3, 2, 3), {"pads": [1, 0, 1, 0, 1, 1], "strides": [1, 2, 1]}),
    "groups": ((1, 4, 7, 7), (6, 2, 3, 3), {"group": 2, "kernel_shape": [3, 3]}),
    "depthwise": ((2, 6, 9, 9), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "dilated": ((1, 3, 12, 13), (2, 3, 3, 3), {"dilations": [2, 3], "strides": [2, 1], "pads": [2, 3, 1, 0]}),
    "NOTSET": ((1, 3, 8, 8), (2, 3, 3, 3), {"auto_pad": "NOTSET", "pads": [0, 1, 2, 1]}),
    "VALID": ((1, 3, 8, 8), (2, 3, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    "SAME_UPPER": ((1, 3, 8, 9), (2, 3, 4, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "SAME_LOWER": ((1, 3, 8, 9), (2, 3, 4, 2), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    "SAME, stride past the kernel": ((1, 3, 8, 8), (2, 3, 1, 1), {"auto_pad": "SAME_UPPER", "strides": [3, 3]}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_conv(name: str) -> None:
    x, w, attributes = CONVOLUTIONS[name]
    one("Conv", whole(*x), constants=[whole(*w), whole(w[0])], exact=True, **attributes)


def test_weights_may_be_an_input_or_computed() -> None:
    one("Conv", whole(1, 2, 5, 5), whole(3, 2, 3, 3), exact=True)
    feeds, w = {"x": whole(1, 2, 5, 5)}, whole(3, 3, 2, 4)
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]),
        helper.make_node("Conv", ["x", "t"], ["y"]),
    ]
    graph = agree(model_of(nodes, feeds, {"w": w}), feeds, exact=True)
    assert ops_of(graph) == ["Conv"]


POOLS = [
    ("MaxPool", 12, {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", 12, {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", 12, {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("MaxPool", 8, {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2], "storage_order": 0}),
    ("MaxPool", 7, {"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("AveragePool", 7, {"kernel_shape": [3, 3], "pads": [1, 1, 0, 1]}),
    ("AveragePool", 7, {"kernel_shape": [3, 3], "pads": [1, 1, 0, 1], "count_include_pad": 1}),
    ("AveragePool", 10, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", 11, {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("AveragePool", 19, {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    (
        "AveragePool",
        19,
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1},
    ),
]


@pytest.mark.parametrize(("op", "opset", "attributes"), POOLS, ids=str)
def test_pool(op: str, opset: int, attributes: dict[str, object]) -> None:
    one(op, floats(2, 3, 10, 11), opset=opset, exact=op == "MaxPool", **attributes)


@pytest.mark.parametrize("spatial", [(11,), (5, 6, 7)], ids=["1-D", "3-D"])
def test_pool_ranks(spatial: tuple[int, ...]) -> None:
    kernel = [2] * len(spatial)
    one("MaxPool", floats(2, 3, *spatial), exact=True, kernel_shape=kernel, strides=kernel)
    one("AveragePool", floats(2, 3, *spatial), kernel_shape=kernel, pads=[1] * 2 * len(spatial))


@pytest.mark.parametrize("spatial", [(9,), (4, 5), (2, 3, 4)], ids=len)
def test_global_pools_are_reductions(spatial: tuple[int, ...]) -> None:
    assert ops_of(one("GlobalAveragePool", floats(2, 3, *spatial))) == ["ReduceMean"]
    assert ops_of(one("GlobalMaxPool", floats(2, 3, *spatial), exact=True)) == ["ReduceMax"]


@pytest.mark.parametrize("column_major", [0, 1])
def test_places_of_the_maxima(column_major: int) -> None:
    x = {"x": floats(2, 3, 6, 7)}
    window = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "storage_order": column_major}
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], **window)
    assert ops_of(agree(model_of([node], x), x, exact=True)) == ["MaxPool"]
    read = model_of([node], x, results=["y", "i"], types={"i": TensorProto.INT64})
    assert ops_of(agree(read, x, exact=True)) == ["MaxPool", "MaxPoolIndices"]


BROKEN = {
    "group does not divide": ((1, 3, 8, 8), (4, 3, 3, 3), {"group": 2}),
    "channels": ((1, 3, 8, 8), (4, 4, 3, 3), {}),
    "kernel_shape contradicts": ((1, 3, 8, 8), (4, 3, 3, 3), {"kernel_shape": [5, 5]}),
    "pads too short": ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [1, 1, 1]}),
    "negative pads": ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [-(1 << 63)] * 4}),
    "huge pads": ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [1 << 40] * 4}),
    "stride 0": ((1, 3, 8, 8), (4, 3, 3, 3), {"strides": [0, 0]}),
    "huge dilation": ((1, 3, 8, 8), (4, 3, 3, 3), {"dilations": [1 << 62] * 2}),
    "kernel past the input": ((1, 3, 8, 8), (4, 3, 11, 11), {}),
    "weight rank": ((1, 3, 8, 8), (4, 3, 3, 3, 3), {}),
    "auto_pad": ((1, 3, 8, 8), (4, 3, 3, 3), {"auto_pad": "SAME_ISH"}),
    "auto_pad and pads": ((1, 3, 8, 8), (4, 3, 3, 3), {"auto_pad": "SAME_UPPER", "pads": [3] * 4}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_convolution_is_refused_with_its_name(name: str) -> None:
    x, w, attributes = BROKEN[name]
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="stem", **attributes)
    with pytest.raises((errors.LoadError, errors.ShapeError, errors.LimitError), match="node 'stem': "):
        import_onnx(model_of([node], {"x": np.zeros(x, np.float32)}, {"w": np.zeros(w, np.float32)}))
