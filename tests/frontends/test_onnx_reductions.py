"""Reductions, normalisations and matrix products in every opset form, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_support import agree, floats, i64, model_of, one, onnxruntime_outputs, ops_of, whole

from convc import errors
from convc.frontends.onnx import import_onnx

REDUCTIONS = ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
              "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"]  # fmt: skip


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op: str) -> None:
    x = np.abs(floats(2, 3, 4, 5)) + 0.1
    one(op, x, opset=11, axes=[2, -1])
    one(op, x, opset=11, axes=[1], keepdims=0)
    one(op, x, opset=11)
    one(op, x, constants=[i64(-1, -2)], opset=18, keepdims=0)
    one(op, x, opset=18, keepdims=0)


def test_reduction_of_no_axes_may_be_nothing() -> None:
    assert ops_of(one("ReduceMean", floats(2, 3), constants=[i64()], opset=18, noop_with_empty_axes=1)) == []
    assert ops_of(one("ReduceSum", floats(2, 3), opset=13, noop_with_empty_axes=1)) == []
    assert ops_of(one("ReduceSum", floats(2, 3), constants=[i64()], opset=13)) == ["ReduceSum"]


def test_axes_must_be_distinct_and_inside() -> None:
    for axes in ([1, -2], [3]):
        with pytest.raises(errors.ShapeError, match=r"node 'the_node': ax[ei]s"):
            one("ReduceMean", floats(2, 3, 4), opset=13, axes=axes, expected=[floats(1)])


# -- normalisations ----------------------------------------------------------------------------------------------------
def statistics(channels: int, dtype: Any = np.float32) -> list[np.ndarray]:
    """Scale, bias, mean, variance."""
    scale, bias, mean = (floats(channels, dtype=dtype) for _ in range(3))
    return [scale, bias, mean, np.abs(floats(channels, dtype=dtype)) + dtype(0.5)]


@pytest.mark.parametrize("opset", [7, 8, 9, 14, 15])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 7), (2, 3, 4, 5), (1, 3, 2, 3, 4)], ids=str)
def test_batch_normalization(opset: int, shape: tuple[int, ...]) -> None:
    attributes = {"epsilon": 1e-3} if opset > 8 else {"spatial": 1}
    one("BatchNormalization", floats(*shape), constants=statistics(3), opset=opset, **attributes)


def test_batch_normalization_of_opset_6() -> None:
    x, (scale, bias, mean, variance) = floats(2, 3, 4, 4), statistics(3)
    shaped = [array.reshape(3, 1, 1).astype(np.float64) for array in (scale, bias, mean, variance)]
    wanted = (x - shaped[2]) / np.sqrt(shaped[3] + np.float64(np.float32(1e-5))) * shaped[0] + shaped[1]
    constants = [scale, bias, mean, variance]
    expected = [wanted.astype(np.float32)]
    one("BatchNormalization", x, constants=constants, opset=6, is_test=1, expected=expected)


def test_batch_normalization_per_element_is_refused() -> None:
    with pytest.raises(errors.UnsupportedModelError, match="spatial=0"):
        one("BatchNormalization", floats(2, 3, 4, 4), constants=statistics(3), opset=7, spatial=0)


def trained(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(normalised by its own statistics, mean, variance) in fp64; ONNX Runtime crashes where outputs are left out."""
    wide, axes = x.astype(np.float64), tuple(axis for axis in range(x.ndim) if axis != 1)
    mean, variance = wide.mean(axes), wide.var(axes)
    shaped = [array.reshape(-1, *(1,) * (x.ndim - 2)) for array in (mean, variance, scale, bias)]
    y = (wide - shaped[0]) / np.sqrt(shaped[1] + np.float64(np.float32(1e-5))) * shaped[2] + shaped[3]
    return y.astype(np.float32), mean, variance


def test_batch_normalization_in_training_mode_uses_its_own_statistics() -> None:
    names = [["x", "s", "b", "m", "v"], ["y", "mean", "variance"]]
    node = helper.make_node("BatchNormalization", *names, training_mode=1, momentum=0.75)
    feeds = {"x": floats(4, 3, 5)}
    constants = dict(zip("sbmv", statistics(3), strict=True))
    y, mean, variance = trained(feeds["x"], constants["s"], constants["b"])
    running = [0.75 * constants["m"] + 0.25 * mean, 0.75 * constants["v"] + 0.25 * variance]
    expected = dict(zip(names[1], [y, *(array.astype(np.float32) for array in running)], strict=True))
    agree(model_of([node], feeds, constants, results=names[1], opset=15), feeds, expected=expected)


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_five_outputs_train_before_there_was_an_attribute(opset: int) -> None:
    """As ONNX Runtime has it, also where nothing reads the other four."""
    names = [["x", "s", "b", "m", "v"], ["y", "o1", "o2", "o3", "o4"]]
    feeds, constants = {"x": floats(2, 3, 5)}, dict(zip("sbmv", statistics(3), strict=True))
    y, *_ = trained(feeds["x"], constants["s"], constants["b"])
    node = helper.make_node("BatchNormalization", *names)
    agree(model_of([node], feeds, constants, opset=opset), feeds, expected={"y": y})
    with pytest.raises(errors.UnsupportedModelError, match="training"):
        import_onnx(model_of([node], feeds, constants, results=["y", "o3"], opset=opset))


def test_standardised_weights_are_evaluated() -> None:
    """Exporters standardise a weight by a batch normalisation in training mode over [1, filters, rest]."""
    feeds, (scale, bias, mean, variance) = {"x": floats(1, 2, 6, 6)}, statistics(4)
    nodes = [
        helper.make_node("Reshape", ["w", "flat"], ["f"]),
        helper.make_node("BatchNormalization", ["f", "s", "b", "m", "v"], ["n", "", ""], training_mode=1),
        helper.make_node("Reshape", ["n", "full"], ["k"]),
        helper.make_node("Conv", ["x", "k"], ["y"]),
    ]
    constants = {"w": floats(4, 2, 3, 3), "flat": i64(1, 4, -1), "full": i64(4, 2, 3, 3)}
    statistics_given = {"s": scale, "b": bias, "m": mean, "v": variance}
    model = model_of(nodes, feeds, constants | statistics_given, opset=15)
    weights = trained(constants["w"].reshape(1, 4, -1), scale, bias)[0].reshape(4, 2, 3, 3)
    plain = model_of([helper.make_node("Conv", ["x", "k"], ["y"])], feeds, {"k": weights})
    assert ops_of(agree(model, feeds, expected=onnxruntime_outputs(plain, feeds))) == ["Conv"]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_lrn(size: int) -> None:
    one("LRN", floats(2, 7, 3, 3), size=size, alpha=2e-3, beta=0.6, bias=1.5)
    one("LRN", floats(2, 7, 3, 3), size=size)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, None])
def test_softmax_in_both_meanings(op: str, axis: int | None) -> None:
    attributes = {} if axis is None else {"axis": axis}
    flattened = one(op, floats(2, 3, 4), opset=11, **attributes)
    assert ops_of(flattened) == ([op] if axis in (2, -1) else ["Reshape", op, "Reshape"])
    assert ops_of(one(op, floats(2, 3, 4), opset=13, **attributes)) == [op]


def test_softmax_over_an_image_of_one_pixel_is_plain() -> None:
    assert ops_of(one("Softmax", floats(2, 10, 1, 1), opset=11, axis=1)) == ["Softmax"]


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalization(axis: int) -> None:
    x = floats(2, 3, 8)
    shape = x.shape[axis:]
    one("LayerNormalization", x, constants=[floats(*shape), floats(*shape)], axis=axis, epsilon=1e-3)
    one("LayerNormalization", x, constants=[floats(*shape)], axis=axis, outputs=3)


def test_statistics_of_doubles_are_given_in_fp32() -> None:
    feeds, constants = {"x": floats(2, 8, dtype=np.float64)}, {"scale": floats(8, dtype=np.float64)}
    types = {"y": TensorProto.DOUBLE, "mean": TensorProto.FLOAT, "inverse": TensorProto.FLOAT}
    node = helper.make_node("LayerNormalization", ["x", "scale"], list(types))
    agree(model_of([node], feeds, constants, results=list(types), types=types), feeds)


@pytest.mark.parametrize("spatial", [(5,), (3, 4), (2, 3, 2)], ids=len)
def test_norms_of_instances_and_groups(spatial: tuple[int, ...]) -> None:
    """Scale and bias of groups are one for a group at opset 18, one for a channel from opset 21 on."""
    x = floats(2, 4, *spatial)
    one("InstanceNormalization", x, constants=[floats(4), floats(4)], epsilon=1e-3)
    one("GroupNormalization", x, constants=[floats(2), floats(2)], opset=18, num_groups=2)
    one("GroupNormalization", x, constants=[floats(4), floats(4)], opset=21, num_groups=2, epsilon=1e-2)


@pytest.mark.parametrize("groups", [0, 2])
def test_groups_divide_the_channels(groups: int) -> None:
    """3 channels of 4 pixels would fall into two parts, in the middle of a channel."""
    with pytest.raises(errors.ShapeError, match="num_groups"):
        one("GroupNormalization", floats(1, 3, 2, 2), constants=[floats(3)] * 2, opset=21, num_groups=groups)


def test_other_norms() -> None:
    x = floats(2, 4, 3, 5)
    x[0, :, 1] = 0  # a norm of 0 leaves 0
    for axis in (1, -1):
        one("LpNormalization", x, opset=1, axis=axis, p=1)
        one("LpNormalization", x, opset=1, axis=axis, p=2)
    for axes in ([0, 2, 3], [2, 3]):
        one("MeanVarianceNormalization", floats(2, 4, 3, 5), opset=13, axes=axes)
    one("RMSNormalization", x, constants=[floats(3, 5)], opset=23, axis=2)


# -- matrix products ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 1, 2, 3), (5, 3, 4)), ((3,), (3, 4))])
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = shapes
    one("MatMul", whole(*a), constants=[whole(*b)], exact=True)
    one("MatMul", whole(*a), whole(*b), exact=True)


GEMMS: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...] | None, dict[str, Any]]] = [
    ((2, 3), (3, 4), (4,), {}), ((2, 3), (4, 3), (2, 1), {"transB": 1}), ((3, 2), (3, 4), (1, 4), {"transA": 1}),
    ((2, 3), (3, 4), None, {"alpha": 0.5}), ((2, 3), (3, 4), (), {"alpha": 2.0, "beta": -1.5}),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "c", "attributes"), GEMMS, ids=str)
def test_gemm(a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...] | None, attributes: dict[str, Any]) -> None:
    constants = [whole(*b)] if c is None else [whole(*b), np.asarray(whole(*c))]
    one("Gemm", whole(*a), constants=constants, exact=True, opset=13 if c is None else 7, **attributes)


def test_gemm_of_opset_6_broadcasts() -> None:
    x, w, c = whole(2, 3), whole(4, 3), whole(4)
    one("Gemm", x, constants=[w, c], opset=6, transB=1, broadcast=1, expected=[x @ w.T + c], exact=True)


def test_matrix_products_in_halves() -> None:
    a, b = whole(3, 8, dtype=np.float16), whole(8, 5, dtype=np.float16)
    one("MatMul", a, constants=[b], result=TensorProto.FLOAT16, exact=True)
