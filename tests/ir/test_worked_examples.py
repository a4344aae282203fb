"""Layer arithmetic worked out by hand in courses; every number is exact."""

from __future__ import annotations

import numpy as np
import pytest
from ir_oracle import evaluate

from convc.ir import DType, TensorType, operator


def conv_type(x: tuple[int, ...], filters: int, side: int, stride: int, pad: int) -> tuple[TensorType, int]:
    """Output type and multiply-adds of a square convolution."""
    definition = operator("Conv")
    attributes = definition.complete({"strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (1, 1)})
    types = [TensorType(DType.FP32, x), TensorType(DType.FP32, (filters, x[1], side, side))]
    outputs = definition.infer(attributes, types)
    macs = definition.macs(attributes, types, outputs)
    assert isinstance(macs, int)
    return outputs[0], macs


@pytest.mark.parametrize(
    ("x", "filters", "side", "stride", "pad", "shape"),
    [
        ((1, 3, 32, 32), 10, 5, 1, 2, (1, 10, 32, 32)),
        ((1, 3, 32, 32), 6, 5, 1, 0, (1, 6, 28, 28)),
        ((1, 1, 7, 7), 1, 3, 1, 0, (1, 1, 5, 5)),
        ((1, 1, 7, 7), 1, 3, 2, 0, (1, 1, 3, 3)),
        ((1, 1, 7, 7), 1, 3, 3, 0, (1, 1, 2, 2)),
        ((1, 1, 9, 9), 1, 3, 1, 1, (1, 1, 9, 9)),
        ((1, 1, 9, 9), 1, 5, 1, 2, (1, 1, 9, 9)),
        ((1, 1, 9, 9), 1, 7, 1, 3, (1, 1, 9, 9)),
        ((1, 64, 56, 56), 32, 1, 1, 0, (1, 32, 56, 56)),
        ((1, 3, 227, 227), 96, 11, 4, 0, (1, 96, 55, 55)),
    ],
)
def test_output_shapes(x: tuple, filters: int, side: int, stride: int, pad: int, shape: tuple) -> None:
    assert conv_type(x, filters, side, stride, pad)[0].shape == shape


def test_multiply_adds() -> None:
    assert conv_type((1, 3, 32, 32), 10, 5, 1, 2)[1] == 768_000
    assert conv_type((1, 3, 224, 224), 64, 7, 2, 3)[1] == 118_013_952


def conv(image: list, filter: list, stride: int = 1, pad: int = 0) -> np.ndarray:
    x, w = (np.array(rows, np.float32)[None, None] for rows in (image, filter))
    return evaluate("Conv", [x, w], strides=(stride,) * 2, pads=(pad,) * 4, dilations=(1, 1))[0, 0]


def max_pool(x: list | np.ndarray, ceil_mode: bool = False) -> np.ndarray:
    array = np.asarray(x, np.float32)[None, None]
    attributes = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
    return evaluate("MaxPool", [array], ceil_mode=ceil_mode, **attributes)[0, 0]


def test_max_pooling() -> None:
    assert max_pool([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]).tolist() == [[6, 8], [3, 4]]


def test_relu() -> None:
    assert evaluate("Relu", [np.array([1, -2, 3, -1], np.float32)]).tolist() == [1, 0, 3, 0]


def test_convolution_relu_pooling() -> None:
    image = [[1, 2, 3, 4, 5], [2, 2, 1, 1, 1], [3, 2, 1, 1, 1], [4, 1, 1, 1, 1], [5, 1, 1, 1, 1]]
    result = conv(image, [[0, -1, 0], [1, 1, 1], [0, -1, 0]], stride=2)
    assert result.tolist() == [[1, -2], [3, 1]]
    rectified = evaluate("Relu", [result])
    assert rectified.tolist() == [[1, 0], [3, 1]]
    assert max_pool(rectified).tolist() == [[3]]


def test_linear_filters() -> None:
    image = np.arange(25, dtype=np.float32).reshape(5, 5)
    assert (conv(image.tolist(), [[0, 0, 0], [0, 1, 0], [0, 0, 0]], pad=1) == image).all()
    shifted = conv(image.tolist(), [[0, 0, 0], [0, 0, 1], [0, 0, 0]], pad=1)
    assert (shifted[:, :-1] == image[:, 1:]).all()
    assert (shifted[:, -1] == 0).all()


def test_mean_filter() -> None:
    image = np.zeros((10, 10))
    image[2:7, 3:8] = 90
    image[5, 4], image[8, 2] = 0, 90
    sums = conv(image.tolist(), [[1, 1, 1]] * 3)
    assert (sums[0] / 9).tolist() == [0, 10, 20, 30, 30, 30, 20, 10]
    assert (sums[3] / 9).tolist() == [0, 30, 50, 80, 80, 90, 60, 30]


def test_pooling_keeps_the_edge_in_ceil_mode() -> None:
    rows = """0.77 -0.11 0.11 0.33 0.55 -0.11 0.33
              -0.11 1.00 -0.11 0.33 -0.11 0.11 -0.11
              0.11 -0.11 1.00 -0.33 0.11 -0.11 0.55
              0.33 0.33 -0.33 0.55 -0.33 0.33 0.33
              0.55 -0.11 0.11 -0.33 1.00 -0.11 0.11
              -0.11 0.11 -0.11 0.33 -0.11 1.00 -0.11
              0.33 -0.11 0.55 0.33 0.11 -0.11 0.77"""
    wanted = [[1.00, 0.33, 0.55, 0.33], [0.33, 1.00, 0.33, 0.55], [0.55, 0.33, 1.00, 0.11], [0.33, 0.55, 0.11, 0.77]]
    image = [[float(number) for number in row.split()] for row in rows.splitlines()]
    assert (max_pool(image, ceil_mode=True) == np.array(wanted, np.float32)).all()
