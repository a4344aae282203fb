"""The DSL: layer arithmetic, worked examples, and what every layer computes."""

from __future__ import annotations

import inspect
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_reference import compute, evaluate, outputs, random_inputs, relative_error
from hypothesis import given
from hypothesis import strategies as st

from convc import errors
from convc.frontends import dsl as nn
from convc.ir.dims import Dim
from convc.ir.operator import Kind, operators
from convc.ir.types import DType

EXAMPLES = Path(__file__).parents[2] / "examples"


def through(image: Any, layer: Callable[[nn.Tensor], nn.Tensor]) -> np.ndarray:
    """An image [H, W] sent through a layer; the result's only channel."""
    image = np.asarray(image, np.float32)
    net = nn.Network()
    net.output(layer(net.input(1, *image.shape)))
    return compute(net, image[None, None])[0, 0]


# -- layer arithmetic -------------------------------------------------------------------------------------------------
def test_ten_filters_of_the_lecture() -> None:
    net = nn.Network()
    x = net.input(3, 32, 32).conv(10, 5, stride=1, padding=2)
    assert x.shape == (1, 10, 32, 32)
    assert (net.params, net.macs) == (760, 768_000)


def test_six_filters_of_the_lecture() -> None:
    assert nn.Network().input(3, 32, 32).conv(6, 5).shape == (1, 6, 28, 28)


@pytest.mark.parametrize(("stride", "side"), [(1, 5), (2, 3), (3, 2)])
def test_strides_over_seven(stride: int, side: int) -> None:
    assert nn.Network().input(1, 7, 7).conv(1, 3, stride=stride).shape[2:] == (side, side)


@pytest.mark.parametrize("layer", ["conv", "max_pool", "avg_pool"])
def test_strict_networks_refuse_what_does_not_fit(layer: str) -> None:
    def add(stride: int) -> nn.Tensor:
        x = nn.Network(strict=True).input(1, 7, 7)
        return x.conv(1, 3, stride) if layer == "conv" else getattr(x, layer)(3, stride)

    assert (add(1).shape[2:], add(2).shape[2:]) == ((5, 5), (3, 3))
    with pytest.raises(errors.ShapeError, match=rf"{layer}1.*does not fit.*\[3, 3\] windows.*\[3, 3\].*\[7, 7\]"):
        add(3)


def test_strict_networks_accept_ceil_mode() -> None:
    assert nn.Network(strict=True).input(1, 7, 7).max_pool(2, ceil=True).shape[2:] == (4, 4)


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2), (7, 3)])
def test_paddings_that_keep_the_size(kernel: int, padding: int) -> None:
    assert nn.Network().input(1, 11, 11).conv(1, kernel, padding=padding).shape == (1, 1, 11, 11)
    assert nn.Network().input(1, 11, 11).conv(1, kernel, padding="same").shape == (1, 1, 11, 11)


def test_pointwise_convolution() -> None:
    net = nn.Network()
    assert net.input(64, 56, 56).conv(32, 1, bias=False).shape == (1, 32, 56, 56)
    assert net.params == 32 * 64


def test_fully_connected_on_a_large_image() -> None:
    net = nn.Network(weights="none")
    net.input(1, 200, 200).dense(40_000, bias=False)
    assert net.params == 1_600_000_000


@given(
    extent=st.integers(1, 40),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
)
def test_same_padding_gives_the_ceiling(extent: int, kernel: int, stride: int, dilation: int) -> None:
    x = nn.Network(weights="none").input(1, extent).conv(1, kernel, stride, "same", dilation=dilation)
    assert x.shape[2] == math.ceil(extent / stride)


def test_same_padding_puts_the_larger_half_at_the_end() -> None:
    net = nn.Network()
    net.input(1, 224, 224).conv(8, 3, 2, "same")
    assert next(net.graph.of_kind("Conv")).attributes["pads"] == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [(1, (1, 1, 1, 1)), ((1, 2), (1, 2, 1, 2)), ((0, 1, 2, 3), (0, 1, 2, 3)), ("valid", (0, 0, 0, 0))],
)
def test_padding_forms(padding: Any, expected: tuple[int, ...]) -> None:
    net = nn.Network()
    net.input(1, 9, 9).max_pool(4, 1, padding)
    assert next(net.graph.of_kind("MaxPool")).attributes["pads"] == expected


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_layers_of_every_rank(rank: int) -> None:
    net = nn.Network()
    x = net.input(4, *(8,) * rank).conv(6, 3, padding=1, groups=2).batch_norm().relu().max_pool(2).avg_pool(2)
    assert x.shape == (1, 6, *(2,) * rank)
    assert x.global_avg_pool().shape == x.global_max_pool().shape == (1, 6, *(1,) * rank)
    assert net.params == 6 * 2 * 3**rank + 6 + 2 * 6


def test_depthwise_and_separable() -> None:
    net = nn.Network()
    x = net.input(8, 6, 6).depthwise(3, padding=1, multiplier=2, bias=False)
    assert (x.shape, net.params) == ((1, 16, 6, 6), 16 * 9)
    assert x.separable(5, 3).shape == (1, 5, 4, 4)
    assert net.params == 16 * 9 + 16 * 9 + 16 * 5 + 5


# -- worked examples --------------------------------------------------------------------------------------------------
def test_max_pooling_example() -> None:
    image = [[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]]
    assert through(image, lambda x: x.max_pool(2)).tolist() == [[6, 8], [3, 4]]


def test_relu_example() -> None:
    net = nn.Network()
    net.output(net.input(4).relu())
    assert compute(net, [[1, -2, 3, -1]]).tolist() == [[1, 0, 3, 0]]


def test_home_task() -> None:
    image = [[1, 2, 3, 4, 5], [2, 2, 1, 1, 1], [3, 2, 1, 1, 1], [4, 1, 1, 1, 1], [5, 1, 1, 1, 1]]
    weight = np.array([[[[0, -1, 0], [1, 1, 1], [0, -1, 0]]]])

    def conv(x: nn.Tensor) -> nn.Tensor:
        return x.conv(1, 3, stride=2, bias=False, weight=weight)

    assert through(image, conv).tolist() == [[1, -2], [3, 1]]
    assert through(image, lambda x: conv(x).relu()).tolist() == [[1, 0], [3, 1]]
    assert through(image, lambda x: conv(x).relu().max_pool(2)).tolist() == [[3]]


def filtered(image: Any, weight: Any, padding: int = 0) -> np.ndarray:
    weight = np.asarray(weight, np.float32)[None, None]
    return through(image, lambda x: x.conv(1, 3, padding=padding, bias=False, weight=weight))


def test_identity_and_shift_filters() -> None:
    image = np.arange(30.0).reshape(5, 6)
    assert (filtered(image, [[0, 0, 0], [0, 1, 0], [0, 0, 0]], padding=1) == image).all()
    shifted = filtered(image, [[0, 0, 0], [0, 0, 1], [0, 0, 0]], padding=1)
    assert (shifted[:, :-1] == image[:, 1:]).all() and (shifted[:, -1] == 0).all()


def test_mean_filter() -> None:
    image = np.zeros((10, 10))
    image[2:7, 3:8] = 90
    image[5, 4], image[8, 2] = 0, 90
    mean = filtered(image, np.full((3, 3), 1 / 9))
    bound = 9 * DType.FP32.epsilon * 90
    assert np.abs(mean[0] - [0, 10, 20, 30, 30, 30, 20, 10]).max() <= bound
    assert np.abs(mean[3] - [0, 30, 50, 80, 80, 90, 60, 30]).max() <= bound


def test_ceil_mode_example() -> None:
    image = [
        [0.77, -0.11, 0.11, 0.33, 0.55, -0.11, 0.33],
        [-0.11, 1.00, -0.11, 0.33, -0.11, 0.11, -0.11],
        [0.11, -0.11, 1.00, -0.33, 0.11, -0.11, 0.55],
        [0.33, 0.33, -0.33, 0.55, -0.33, 0.33, 0.33],
        [0.55, -0.11, 0.11, -0.33, 1.00, -0.11, 0.11],
        [-0.11, 0.11, -0.11, 0.33, -0.11, 1.00, -0.11],
        [0.33, -0.11, 0.55, 0.33, 0.11, -0.11, 0.77],
    ]
    expected = [[1.00, 0.33, 0.55, 0.33], [0.33, 1.00, 0.33, 0.55], [0.55, 0.33, 1.00, 0.11], [0.33, 0.55, 0.11, 0.77]]
    pooled = through(image, lambda x: x.max_pool(2, ceil=True))
    assert (pooled == np.array(expected, np.float32)).all()


def test_local_response_normalisation_formula() -> None:
    """Krizhevsky et al. 2012, section 3.3, with alpha divided by the size."""
    net = nn.Network()
    net.output(net.input(7, 1, 1).lrn(3, alpha=0.9, beta=0.5, k=1.5))
    x = np.arange(1.0, 8.0)
    squares = np.convolve(x**2, np.ones(3), "same")
    found = compute(net, x[None, :, None, None])[0, :, 0, 0]
    assert relative_error(found, x / np.sqrt(1.5 + 0.3 * squares)) <= 8 * DType.FP32.epsilon


def test_alexnet_of_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES / "dsl_alexnet.py"
    assert len(path.read_text().splitlines()) <= 30
    module = runpy.run_path(str(path))
    assert len(inspect.getsource(module["alexnet"]).splitlines()) <= 20
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert "conv1            [1, 96, 55, 55]" in printed
    assert printed[-1] == "62,378,344 parameters, 1,135,256,096 multiply-accumulates"


def resnet(depth: int, net: nn.Network) -> nn.Network:
    def conv_bn(x: nn.Tensor, filters: int, kernel: int, stride: int = 1, gain: float = 1.0) -> nn.Tensor:
        return x.conv(filters, kernel, stride, kernel // 2, bias=False).batch_norm(gain=gain)

    def block(x: nn.Tensor, filters: int, stride: int) -> nn.Tensor:
        if depth >= 50:
            y = conv_bn(conv_bn(x, filters, 1).relu(), filters, 3, stride).relu()
            y = conv_bn(y, 4 * filters, 1, gain=0.25)
        else:
            y = conv_bn(conv_bn(x, filters, 3, stride).relu(), filters, 3, gain=0.25)
        if x.shape != y.shape:
            x = conv_bn(x, y.channels, 1, stride)
        return (x + y).relu()

    stages = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    x = conv_bn(net.input(3, 224, 224), 64, 7, stride=2).relu().max_pool(3, stride=2, padding=1)
    for stage, blocks in enumerate(stages[depth]):
        for index in range(blocks):
            x = block(x, 64 << stage, 2 if stage and not index else 1)
    return net.output(x.global_avg_pool().dense(1000).softmax())


@pytest.mark.parametrize(("depth", "params"), [(18, 11_689_512), (50, 25_557_032), (152, 60_192_808)])
def test_resnet_of_any_depth_in_forty_lines(depth: int, params: int) -> None:
    assert len(inspect.getsource(resnet).splitlines()) <= 40
    assert resnet(depth, nn.Network(weights="none")).params == params


def test_squeeze_and_excitation_gate() -> None:
    net = nn.Network()
    x = net.input(8, 5, 5)
    gate = x.global_avg_pool().conv(2, 1).relu().conv(8, 1).sigmoid()
    net.output(x * gate)
    values = evaluate(net.graph, random_inputs(net.graph))
    assert (outputs(net.graph, values)["output"] == values[x.value] * values[gate.value]).all()


# -- every layer computes what it is called after ---------------------------------------------------------------------
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "relu6": lambda x: np.clip(x, 0, 6),
    "clip": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: np.array([[v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in row] for row in x]),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True),
    "log_softmax": lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True)),
    "prelu": lambda x: np.where(x > 0, x, 0.3 * x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    net = nn.Network(dtype="fp64")
    x = net.input(9)
    net.output(x.prelu(0.3) if name == "prelu" else getattr(x, name)())
    array = np.linspace(-4, 8, 9)[None]
    assert relative_error(compute(net, array), ACTIVATIONS[name](array)) <= 64 * DType.FP64.epsilon


@pytest.mark.parametrize("op", [name for name, op in operators().items() if op.kind is Kind.ELEMENTWISE])
def test_activation_reaches_every_elementwise_row_of_one_operand(op: str) -> None:
    """Rows of more operands say so."""
    x = nn.Network().input(3)
    try:
        given = {"Cast": {"dtype": DType.FP32}, "BitCast": {"dtype": DType.INT32}, "BitShift": {"direction": "LEFT"}}
        assert x.activation(op, **given.get(op, {})).shape == (1, 3)
    except errors.ShapeError as error:
        assert error.node == f"{op.lower()}1"


def test_arithmetic_with_tensors_numbers_and_arrays() -> None:
    net = nn.Network()
    x = net.input(3)
    row = np.array([1, 2, 4], np.float32)
    net.output((1 - x) * 2 + row / (x + 3) - row * x)
    array = np.array([[0.5, 1, 2]], np.float32)
    assert relative_error(compute(net, array), (1 - array) * 2 + row / (array + 3) - row * array) <= 1e-6


def test_prelu_slopes_for_each_channel() -> None:
    net = nn.Network()
    net.output(net.input(2, 1, 2).prelu(np.array([0.5, 0.25])))
    assert compute(net, [[[[-2, 2]], [[-4, 4]]]]).tolist() == [[[[-1, 2]], [[-1, 4]]]]


def test_concat_split_slice_pad_transpose_reshape() -> None:
    net = nn.Network()
    x = net.input(6, 4, 4)
    first, second, third = x.split([1, 2, 3])
    assert [part.shape[1] for part in (first, second, third)] == [1, 2, 3]
    y = nn.concat([third, first])[:, :, ::2, 1:].pad((1, 0, 0, 2)).transpose(0, 2, 3, 1).reshape(1, -1, 4)
    net.output(y)
    array = random_inputs(net.graph)["input"]
    expected = np.concatenate([array[:, 3:], array[:, :1]], axis=1)[:, :, ::2, 1:]
    expected = np.pad(expected, ((0, 0), (0, 0), (1, 0), (0, 2))).transpose(0, 2, 3, 1).reshape(1, -1, 4)
    assert (compute(net, array) == expected).all()


def test_equal_parts_and_reversed_ranges() -> None:
    net = nn.Network()
    left, right = net.input(4, 3).split(2)
    net.output(nn.concat([right, left])[:, ::-1])
    array = random_inputs(net.graph)["input"]
    assert (compute(net, array) == array[:, [1, 0, 3, 2]]).all()


def test_bias_of_its_own_at_each_position() -> None:
    net = nn.Network()
    value = np.arange(8.0).reshape(2, 2, 2)
    net.output(net.input(2, 2, 2).bias(value))
    assert (compute(net, np.ones((1, 2, 2, 2))) == value + 1).all()


def test_dropout_is_nothing_at_inference() -> None:
    net = nn.Network()
    x = net.input(3)
    assert x.dropout(0.5) is x
    assert net.layers == []


def test_several_inputs_and_outputs() -> None:
    net = nn.Network(batch="N")
    a, b = net.input(3, name="a"), net.input(3, name="b", batch=1)
    net.output(a + b, "sum").output(a * b, "product")
    assert net.input_shape == (Dim.symbol("N"), 3)
    assert [node.attributes["name"] for node in net.graph.graph_outputs] == ["sum", "product"]


def test_symbolic_batch_and_sides() -> None:
    net = nn.Network(batch="N")
    x = net.input(3, "H", "W").conv(8, 3, 2, padding=1).relu()
    n, h, w = (Dim.symbol(name) for name in "NHW")
    assert x.shape == (n, 8, (h - 1) // 2 + 1, (w - 1) // 2 + 1)
    assert net.macs == n * 8 * ((h - 1) // 2 + 1) * ((w - 1) // 2 + 1) * 27
    assert x[:, 2:4].global_avg_pool().flatten().dense(5).shape == (n, 5)
