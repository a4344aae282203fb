"""`convc summary`: rows by hand, receptive fields against what gradients see, totals against the zoo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc import errors
from convc.analysis.reach import reaches
from convc.analysis.summary import Layer, Summary, summarise, summarise_model
from convc.frontends import dsl as nn
from convc.frontends import zoo
from convc.frontends.export import export_onnx
from convc.ir import DType, Graph, Value


def row(found: Summary, name: str) -> Layer:
    return next(layer for layer in found.layers if layer.name == name)


def last(net: nn.Network, x: nn.Tensor) -> Layer:
    return summarise(net.output(x).graph).layers[-1]


def image(*shape: int, **options: object) -> tuple[nn.Network, nn.Tensor]:
    net = nn.Network(weights="none", **options)  # type: ignore[arg-type]
    return net, net.input(*shape)


# -- rows -------------------------------------------------------------------------------------------------------------
def test_the_convolution_of_the_lecture() -> None:
    net, x = image(3, 32, 32)
    found = last(net, x.conv(10, 5, padding=2))
    assert (found.op, found.output_shape) == ("Conv", (1, 10, 32, 32))
    assert (found.params, found.macs, found.activation_bytes) == (760, 768_000, 4 * 10 * 32 * 32)
    assert (found.receptive_field, found.jumps, found.fits) == (5, (1, 1), True)


def test_a_pointwise_filter_is_a_dot_product_over_the_channels() -> None:
    net, x = image(64, 56, 56)
    found = last(net, x.conv(32, 1))
    assert found.output_shape == (1, 32, 56, 56)
    assert found.macs == 64 * 32 * 56 * 56 and found.receptive_field == 1


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2), (7, 3)])
def test_paddings_that_keep_the_size(kernel: int, padding: int) -> None:
    net, x = image(1, 32, 32)
    found = last(net, x.conv(1, kernel, padding=padding))
    assert (found.output_shape[2:], found.fits) == ((32, 32), True)


@pytest.mark.parametrize(("stride", "fits", "unread"), [(1, True, (0, 0)), (2, True, (0, 0)), (3, False, (1, 1))])
def test_windows_over_seven(stride: int, fits: bool, unread: tuple[int, int]) -> None:
    """(7 - 3) / 3 + 1 = 2.33: one row and one column stay unread."""
    for layer in ("conv", "max_pool"):
        net, x = image(1, 7, 7)
        found = last(net, x.conv(1, 3, stride) if layer == "conv" else x.max_pool(3, stride))
        assert (found.fits, found.unread) == (fits, unread)


def test_padding_that_is_unread_takes_nothing_from_the_input() -> None:
    net, x = image(3, 224, 224)
    found = last(net, x.conv(64, 7, 2, padding=3))
    assert (found.fits, found.unread) == (False, (0, 0))


def test_ceil_mode_reads_everything() -> None:
    net, x = image(1, 7, 7)
    assert last(net, x.max_pool(2, ceil=True)).fits


def test_dilation_counts_in_whether_a_window_fits() -> None:
    for side, fits in ((9, True), (8, False)):  # 9 - 2·(3 - 1) - 1 = 4 steps of 1: two strides of 2; 8 leaves one
        net, x = image(1, side, side)
        assert last(net, x.conv(1, 3, 2, dilation=2)).fits is fits


def test_a_pointwise_stride_leaves_the_last_row() -> None:
    net, x = image(8, 56, 56)
    found = last(net, x.conv(8, 1, 2))
    assert (found.fits, found.unread) == (False, (1, 1))


def test_batch_normalisation_and_activations_work_in_place() -> None:
    net, x = image(3, 8, 8)
    found = summarise(net.output(x.conv(4, 3).batch_norm().relu().max_pool(2)).graph)
    assert [(layer.op, layer.in_place_of) for layer in found.layers] == [
        ("Input", None),
        ("Conv", None),
        ("BatchNormalization", "conv1"),
        ("Relu", "batch_norm1"),
        ("MaxPool", None),
    ]
    assert row(found, "batch_norm1").params == 2 * 4
    assert found.activation_bytes == 4 * (3 * 8 * 8 + 4 * 6 * 6 + 4 * 3 * 3)


def test_a_value_with_two_readers_is_not_overwritten() -> None:
    net, x = image(3, 8, 8)
    y = x.conv(3, 1)
    found = summarise(net.output(y + y.relu()).graph)
    assert row(found, "relu1").in_place_of is None
    assert row(found, "relu1").activation_bytes == row(found, "add1").activation_bytes == 4 * 3 * 8 * 8


def test_a_weight_counts_once() -> None:
    net, x = image(3, 8, 8)
    kernel = net.graph.add_constant(np.zeros((3, 3, 1, 1), np.float32))
    attributes = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    one = net.add("Conv", [x.value, kernel], attributes, name="one")
    net.output(net.add("Conv", [one.value, kernel], attributes, name="two"))
    found = summarise(net.graph)
    assert [layer.params for layer in found.layers] == [0, 9, 0]
    assert found.params == net.params


def test_weights_behind_operators_on_constants_belong_to_their_reader() -> None:
    net, x = image(3, 8, 8)
    weight = net.graph.add_constant(np.zeros((4, 3), np.float32))
    kernel = net.graph.add("Reshape", [weight], {"shape": (4, 3, 1, 1)})
    attributes = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    net.output(net.add("Conv", [x.value, kernel], attributes, name="conv"))
    assert [(layer.name, layer.params) for layer in summarise(net.graph).layers] == [("input", 0), ("conv", 12)]


def test_what_counts_as_a_weight() -> None:
    """Floats and quantised filters; not statistics, indices, or the one number of an epsilon."""
    net, x = image(3, 8, 8)
    add = net.graph.add_constant
    quantised = net.graph.add("Cast", [add(np.zeros((3, 8), np.int8))], {"dtype": DType.FP32})
    indices = add(np.array([[0, 1, 2, 3]]))
    y = (x.batch_norm() + 1e-5).reshape(1, 3, 64)
    product = net.add("MatMul", [y.transpose(0, 2, 1).value, quantised], name="product")
    net.output(net.add("Gather", [product.value, indices], {"axis": 2}, name="picked"))
    assert {layer.name: layer.params for layer in summarise(net.graph).layers if layer.params} == {
        "batch_norm1": 2 * 3,
        "product": 3 * 8,
    }
    assert net.params == 2 * 3 + 3 * 8


# -- receptive fields -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_stacked_convolutions(kernel: int, depth: int) -> None:
    net, x = image(1, 40, 40)
    for _ in range(depth):
        x = x.conv(1, kernel)
    assert last(net, x).receptive_field == 1 + depth * (kernel - 1)


def test_published_fields() -> None:
    """AlexNet 195 before its dense layers and VGG-16 212: Araujo et al., Distill 2019.

    Their ResNet-50 has 483, with strides at the end of stages; at the start of them, as here, it is 11 (stem) + 3·8 +
    (8 + 3·16) + (16 + 5·32) + (32 + 2·64) = 427.
    """
    for name, layer, field, jump in (
        ("alexnet", "max_pool3", 195, 32),
        ("vgg16", "pool5", 212, 32),
        ("resnet50", "stage4.block3.add", 427, 32),
    ):
        found = row(summarise(zoo.build(name, weights="none").graph), layer)
        assert (found.receptive_field, found.jumps) == (field, (jump, jump)), name


def dependence(graph: Graph, shape: tuple[int, ...]) -> list[int]:
    """How many elements of an input [1, C, H, W] the middle output depends on, along H and W, by changing each."""
    from convc.runtime.numpy_executor import GraphRunner

    runner, (name,) = GraphRunner(graph), (node.label for node in graph.graph_inputs)
    base = np.zeros(shape, np.float32)
    before = runner.run({name: base})[0]
    middle = (0, 0, *(side // 2 for side in before.shape[2:]))
    seen = np.zeros(shape[2:], bool)
    for place in np.ndindex(*shape[2:]):
        changed = base.copy()
        changed[(0, 0, *place)] = 1
        seen[place] = runner.run({name: changed})[0][middle] != before[middle]
    return [int(np.ptp(found)) + 1 for found in np.nonzero(seen)]


LAYERS = {
    "conv3": lambda x: x.conv(1, 3, padding=1, weight=np.ones((1, 1, 3, 3))),
    "conv3/2": lambda x: x.conv(1, 3, 2, padding=1, weight=np.ones((1, 1, 3, 3))),
    "dilated": lambda x: x.conv(1, 3, padding=2, dilation=2, weight=np.ones((1, 1, 3, 3))),
    "line": lambda x: x.conv(1, (1, 3), padding=(0, 1), weight=np.ones((1, 1, 1, 3))),
    "pool2": lambda x: x.avg_pool(2),
    "every second": lambda x: x[:, :, ::2, ::2],
    "turned": lambda x: x.transpose(0, 1, 3, 2),
    "branches": lambda x: x + x.conv(1, 3, padding=1, weight=np.ones((1, 1, 3, 3))),
    "concat": lambda x: nn.concat([x, x.avg_pool(3, 1, 1)], 1).conv(1, 1, weight=np.ones((1, 2, 1, 1))),
    "shuffle": lambda x: x.reshape(1, 1, 1, *x.shape[2:]).transpose(0, 2, 1, 3, 4).reshape(*x.shape),
    "bias": lambda x: x.bias(np.zeros(x.shape[1:])).relu(),
}


@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=3))
@settings(max_examples=25, deadline=None)
def test_fields_are_what_an_output_depends_on(names: list[str]) -> None:
    """Kernels of ones make every tap count; the image is large enough that no edge cuts a field."""
    net = nn.Network()
    x = net.input(1, 32, 32)
    for name in names:
        x = LAYERS[name](x)
    net.output(x.conv(1, 1, weight=np.ones((1, 1, 1, 1)), bias=False))
    found = summarise(net.graph).layers[-1]
    measured = dependence(net.graph, (1, 1, 32, 32))
    assert list(found.receptive_fields) == measured, names


def test_dense_layers_global_pooling_and_gates_see_everything() -> None:
    net, x = image(3, 8, 8)
    y = x.conv(4, 3, padding=1)
    pooled = y.global_avg_pool()
    net.output(y * pooled, "gated")
    net.output(pooled.dense(2), "pooled")
    net.output(y.dense(2), "dense")
    found = summarise(net.graph)
    for name in ("global_avg_pool1", "mul1", "dense1", "dense2"):
        assert row(found, name).receptive_field == 3 + 7, name


@pytest.mark.parametrize(("kernel", "stride", "field"), [(2, 2, 1), (4, 2, 2), (3, 2, 2), (3, 1, 3), (16, 8, 2)])
def test_transposed_convolutions(kernel: int, stride: int, field: int) -> None:
    """At most ceil(kernel / stride) inputs reach an output, and neighbours come closer."""
    net, x = image(2, 8, 8)
    found = last(net, x.conv_transpose(3, kernel, stride, bias=False))
    assert (found.receptive_field, found.jumps) == (field, (1 / stride, 1 / stride))
    assert (found.params, found.macs) == (2 * 3 * kernel**2, 8 * 8 * 2 * 3 * kernel**2)


@pytest.mark.parametrize(("mode", "field"), [("nearest", 1), ("linear", 2), ("cubic", 4)])
def test_resampling(mode: str, field: int) -> None:
    net, x = image(2, 8, 8)
    found = last(net, x.resize(12, 8, mode=mode))
    assert (found.receptive_fields, found.output_shape) == ((field, 1), (1, 2, 12, 8))
    assert found.jumps == (8 / 12, 1)


def test_attention_sees_everything() -> None:
    net, x = image(4, 6, 6)
    tokens = x.reshape(1, 4, 36).transpose(0, 2, 1)
    product = net.add("MatMul", [tokens.value, tokens.transpose(0, 2, 1).value], name="scores")
    assert last(net, product).receptive_field == 6


def test_an_operator_without_a_rule_counts_as_everything() -> None:
    net, x = image(1, 5, 7)
    index = net.graph.add_constant(np.array([0, 4]))
    assert last(net, net.add("Gather", [x.value, index], {"axis": 2}, name="rows")).receptive_fields == (1, 5, 7)


@pytest.mark.parametrize("name", [name for name in zoo.names() if not name.startswith(("resnet1", "vgg"))])
def test_totals_are_those_of_the_zoo(name: str) -> None:
    net = zoo.build(name, weights="none")
    found = summarise(net.graph)
    assert (found.params, found.macs) == (net.params, net.macs)
    assert reaches(net.graph)[Value(net.graph.inputs(net.graph.graph_outputs[0])[0].node)]


# -- models -----------------------------------------------------------------------------------------------------------
def test_onnx_zoo_and_dsl_give_the_same(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    export_onnx(zoo.build("squeezenet1_1", "N").graph, str(file))
    one, other = summarise_model(str(file)), summarise_model("zoo:squeezenet1_1")
    assert one.layers == other.layers
    four = summarise_model(str(file), 4)
    assert (four.macs, four.activation_bytes, four.params) == (4 * one.macs, 4 * one.activation_bytes, one.params)


def test_other_symbolic_dimensions_are_refused() -> None:
    net, x = image(3, "H", "W")  # type: ignore[arg-type]
    net.output(x.conv(4, 3))
    with pytest.raises(errors.ShapeError, match="'H', 'W'"):
        summarise(net.graph)
