"""Layers of the DSL that are made of several operators: what they compute, and that their kernels compute it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_reference import evaluate, outputs, random_inputs, relative_error, rounding_bound

import convc
from convc import errors
from convc.analysis.verify import verify
from convc.frontends import dsl as nn
from convc.ir.types import DType

RANDOM = np.random.default_rng(5)


def applied(layer: Callable[[nn.Tensor], nn.Tensor], *shape: int) -> tuple[np.ndarray, np.ndarray, nn.Network]:
    """A random input [1, *shape], the layer's result, and the network of this one layer."""
    net = nn.Network()
    net.output(layer(net.input(*shape)))
    inputs = random_inputs(net.graph)
    return inputs["input"], outputs(net.graph, evaluate(net.graph, inputs))["output"], net


def close(found: np.ndarray, expected: np.ndarray, net: nn.Network) -> None:
    """Equal up to the rounding of both summation orders."""
    assert found.shape == expected.shape
    assert relative_error(found, expected) <= rounding_bound(net.graph, DType.FP32.epsilon)


# -- locally connected ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 0), (2, 2, 0), ((3, 2), (1, 2), (1, 0, 1, 1))])
def test_locally_connected_layers_by_the_definition(kernel: Any, stride: Any, padding: Any) -> None:
    weightless = nn.Network(weights="none")
    shape = weightless.input(2, 6, 5).locally_connected(3, kernel, stride, padding).shape[1:]
    size = (kernel,) * 2 if isinstance(kernel, int) else kernel
    step = (stride,) * 2 if isinstance(stride, int) else stride
    weight, bias = RANDOM.standard_normal((3, 2, *size, *shape[1:])), RANDOM.standard_normal(shape)
    x, y, net = applied(lambda x: x.locally_connected(3, kernel, stride, padding, weight=weight, bias=bias), 2, 6, 5)
    pads = (0,) * 4 if padding == 0 else padding
    padded = np.pad(x[0].astype(np.float64), ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    expected = bias.copy()
    for k, p, q in np.ndindex(*shape):
        patch = padded[:, p * step[0] : p * step[0] + size[0], q * step[1] : q * step[1] + size[1]]
        expected[k, p, q] += (patch * weight[k, :, :, :, p, q]).sum()
    close(y[0], expected, net)


def test_locally_connected_layers_with_the_same_filters_everywhere_are_convolutions() -> None:
    filters = RANDOM.standard_normal((4, 3, 3, 3))
    weight = np.broadcast_to(filters[..., None, None], (*filters.shape, 5, 5))
    x, y, net = applied(lambda x: x.locally_connected(4, 3, weight=weight, bias=False), 3, 7, 7)
    conv = nn.Network()
    conv.output(conv.input(3, 7, 7).conv(4, 3, weight=filters, bias=False))
    close(y, outputs(conv.graph, evaluate(conv.graph, {"input": x}))["output"], net)


def test_weights_of_the_lecture() -> None:
    """A 200x200 image: 40,000 units dense, with 10x10 filters of their own, and 100 shared 10x10 filters.

    The slide rounds the first, 1.6 billion, to "2B".
    """
    counts = []
    for layer in (
        lambda x: x.dense(40_000, bias=False),
        lambda x: x.locally_connected(1, 10, padding="same", bias=False),
        lambda x: x.conv(100, 10, bias=False),
    ):
        net = nn.Network(weights="none")
        net.output(layer(net.input(1, 200, 200)))
        counts.append(net.params)
    assert counts == [1_600_000_000, 4_000_000, 10_000]


def test_multiply_adds_of_locally_connected_layers_are_those_of_a_convolution() -> None:
    nets = [nn.Network(weights="none") for _ in range(2)]
    nets[0].input(3, 9, 9).locally_connected(5, 3, padding=1)
    nets[1].input(3, 9, 9).conv(5, 3, padding=1)
    assert nets[0].macs == nets[1].macs


def test_drawn_local_weights_are_as_large_as_those_of_a_convolution() -> None:
    net = nn.Network()
    net.output(net.input(16, 12, 12).relu().locally_connected(8, 3, bias=False))
    _, y, _ = applied(lambda x: x.relu().locally_connected(8, 3, bias=False), 16, 12, 12)
    assert np.std(y) == pytest.approx(1, abs=0.1)


# -- normalisations ---------------------------------------------------------------------------------------------------
def standardised(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    wide = x.astype(np.float64)
    return (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-5)


SCALE, SHIFT = RANDOM.standard_normal(8), RANDOM.standard_normal(8)
COLUMN = (8, 1, 1)
NORMS: dict[str, tuple[Callable[[nn.Tensor], nn.Tensor], Callable[[np.ndarray], np.ndarray]]] = {
    "instance": (lambda x: x.instance_norm(scale=SCALE, shift=SHIFT), lambda x: standardised(x, (2, 3))),
    "group": (
        lambda x: x.group_norm(2, scale=SCALE, shift=SHIFT),
        lambda x: standardised(x.reshape(1, 2, 4, 5, 5), (2, 3, 4)).reshape(x.shape),
    ),
    "layer": (lambda x: x.layer_norm(scale=SCALE, shift=SHIFT), lambda x: standardised(x, (1,))),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_by_their_definitions(name: str) -> None:
    layer, expected = NORMS[name]
    x, y, net = applied(layer, 8, 5, 5)
    close(y, expected(x) * SCALE.reshape(COLUMN) + SHIFT.reshape(COLUMN), net)


def test_layer_norm_over_whole_images() -> None:
    scale = RANDOM.standard_normal((8, 5, 5))
    x, y, net = applied(lambda x: x.layer_norm((1, 2, 3), scale=scale, shift=np.zeros((8, 5, 5))), 8, 5, 5)
    close(y, standardised(x, (1, 2, 3)) * scale, net)
    assert net.params == 2 * 8 * 5 * 5


# -- between channels and positions -----------------------------------------------------------------------------------
def test_depth_to_space_of_onnx() -> None:
    """The example of ONNX's specification of DepthToSpace, both modes."""
    image = np.arange(1 * 8 * 2 * 3, dtype=np.float32).reshape(1, 8, 2, 3)
    expected = {
        "DCR": [[0, 12, 1, 13, 2, 14], [24, 36, 25, 37, 26, 38], [3, 15, 4, 16, 5, 17], [27, 39, 28, 40, 29, 41]],
        "CRD": [[0, 6, 1, 7, 2, 8], [12, 18, 13, 19, 14, 20], [3, 9, 4, 10, 5, 11], [15, 21, 16, 22, 17, 23]],
    }
    for mode, rows in expected.items():
        net = nn.Network()
        net.output(net.input(8, 2, 3).depth_to_space(2, mode))
        found = outputs(net.graph, evaluate(net.graph, {"input": image}))["output"]
        assert found[0, 0].tolist() == rows


def test_space_to_depth_is_undone() -> None:
    x, y, _ = applied(lambda x: x.space_to_depth(2).depth_to_space(2), 3, 6, 4)
    assert (x == y).all()
    assert nn.Network().input(3, 6, 4).space_to_depth(2).shape == (1, 12, 3, 2)


def test_channel_shuffle_takes_from_each_group_in_turn() -> None:
    x, y, _ = applied(lambda x: x.channel_shuffle(2), 6, 2, 2)
    assert (y == x[:, [0, 3, 1, 4, 2, 5]]).all()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_upsampling_repeats(rank: int) -> None:
    x, y, _ = applied(lambda x: x.upsample(3), 2, *(2,) * rank)
    for axis in range(2, 2 + rank):
        x = x.repeat(3, axis)
    assert (x == y).all()


# -- transposed convolution and resampling ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({"kernel": 2, "stride": 2}, (12, 10)),
        ({"kernel": 3, "stride": 2, "padding": 1, "output_padding": 1}, (12, 10)),
        ({"kernel": 4, "stride": 2, "padding": "same", "groups": 2}, (12, 10)),
        ({"kernel": (1, 3), "stride": (3, 1), "padding": "same"}, (18, 5)),
        ({"kernel": 3, "dilation": 2, "padding": (1, 0, 2, 3)}, (7, 6)),
        ({"kernel": 3, "stride": 2, "padding": "valid"}, (13, 11)),
    ],
)
def test_transposed_convolution_is_the_adjoint_of_convolution(options: dict[str, Any], sides: tuple[int, ...]) -> None:
    """⟨conv_transpose(x, w), y⟩ = ⟨x, conv(y, w)⟩ for every y, where the convolution has the same window."""
    groups = options.get("groups", 1)
    kernel = options["kernel"] if isinstance(options["kernel"], tuple) else (options["kernel"],) * 2
    weight = RANDOM.standard_normal((4, 6 // groups, *kernel))
    x, z, net = applied(lambda x: x.conv_transpose(6, weight=weight, bias=False, **options), 4, 6, 5)
    assert z.shape == (1, 6, *sides)
    attributes = next(net.graph.of_kind("ConvTranspose")).attributes
    back = nn.Network()
    window = {"stride": attributes["strides"], "padding": attributes["pads"], "dilation": attributes["dilations"]}
    back.output(back.input(6, *sides).conv(4, kernel, groups=groups, weight=weight, bias=False, **window))
    y = RANDOM.standard_normal(z.shape).astype(np.float32)
    found = outputs(back.graph, evaluate(back.graph, {"input": y}))["output"][:, :, :6, :5]
    one, other = float((z.astype(np.float64) * y).sum()), float((x.astype(np.float64) * found).sum())
    assert one == pytest.approx(other, abs=float(DType.FP32.epsilon * 6 * 9 * np.linalg.norm(z) * np.linalg.norm(y)))


def test_drawn_transposed_filters_keep_the_variance() -> None:
    for kernel, stride in ((2, 2), (4, 2), (3, 1)):
        _, y, _ = applied(lambda x, k=kernel, s=stride: x.relu().conv_transpose(64, k, s, bias=False), 64, 12, 12)
        assert np.std(y) == pytest.approx(1, abs=0.15), (kernel, stride)


def test_resizing_by_half_pixels() -> None:
    """Twice as many places, a quarter of a pixel beside the old ones; the edge is repeated."""
    net = nn.Network()
    net.output(net.input(1, 3).resize(6))
    found = outputs(net.graph, evaluate(net.graph, {"input": np.array([[[0, 4, 8]]], np.float32)}))["output"]
    assert found[0, 0].tolist() == [0, 1, 3, 5, 7, 8]


# -- inputs and gates -------------------------------------------------------------------------------------------------
def test_channels_last_input() -> None:
    net, other = nn.Network(), nn.Network()
    x = net.input(6, 5, 3, channels_last=True)
    assert x.shape == (1, 3, 6, 5)
    net.output(x.conv(4, 3))
    other.output(other.input(3, 6, 5).conv(4, 3))
    image = RANDOM.standard_normal((1, 6, 5, 3)).astype(np.float32)
    found = outputs(net.graph, evaluate(net.graph, {"input": image}))["output"]
    turned = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    assert (found == outputs(other.graph, evaluate(other.graph, {"input": turned}))["output"]).all()


def test_channels_last_costs_no_kernel() -> None:
    net = nn.Network()
    net.output(net.input(8, 8, 3, channels_last=True).conv(4, 3).relu())
    plan = convc.plan(net, target="interpreter", dtype="fp32")
    assert sum(len(program.launches) for program in plan.programs) == 1


def test_squeeze_and_excitation() -> None:
    x, y, net = applied(lambda x: x.squeeze_excitation(2, "silu", "hard_sigmoid", name="se"), 8, 4, 4)
    weights = {node.label: node.array.astype(np.float64) for node in net.graph.of_kind("Constant")}
    z = weights["se.reduce.weight"][:, :, 0, 0] @ x[0].mean((1, 2)) + weights["se.reduce.bias"]
    z = weights["se.expand.weight"][:, :, 0, 0] @ (z / (1 + np.exp(-z))) + weights["se.expand.bias"]
    close(y[0], x[0] * np.clip(z / 6 + 0.5, 0, 1)[:, None, None], net)


def test_the_gradient_of_relu_in_the_lecture() -> None:
    """x = [1, -2, 3, -1] and an upstream gradient of [4, -1, 5, 9] give dL/dx = [4, 0, 5, 0]."""
    net = nn.Network()
    x, upstream = net.input(4, name="x"), net.input(4, name="upstream")
    net.output(x.relu().activation("Sign") * upstream)
    values = {"x": [[1, -2, 3, -1]], "upstream": [[4, -1, 5, 9]]}
    arrays = {name: np.array(rows, np.float32) for name, rows in values.items()}
    assert outputs(net.graph, evaluate(net.graph, arrays))["output"].tolist() == [[4, 0, 5, 0]]


# -- kernels and exports ----------------------------------------------------------------------------------------------
LAYERS: dict[str, tuple[Callable[[nn.Tensor], nn.Tensor], tuple[int, ...]]] = {
    "locally connected": (lambda x: x.locally_connected(5, 3, 2, 1).relu(), (4, 7, 7)),
    "locally connected 1-D": (lambda x: x.locally_connected(5, 3).relu(), (4, 9)),
    "separable": (lambda x: x.separable(6, 3, padding="same").relu(), (4, 6, 6)),
    "transposed": (lambda x: x.conv_transpose(6, 3, 2, 1, output_padding=1, groups=2).relu(), (4, 6, 6)),
    "resized": (lambda x: x.conv(6, 3).resize(9, 8).relu(), (4, 6, 6)),
    "instance norm": (lambda x: x.conv(6, 3).instance_norm().relu(), (4, 8, 8)),
    "group norm": (lambda x: x.conv(6, 3).group_norm(3).relu(), (4, 8, 8)),
    "layer norm": (lambda x: x.conv(6, 3).layer_norm().gelu(), (4, 8, 8)),
    "sub-pixel": (lambda x: x.conv(12, 3, padding=1).depth_to_space(2, "CRD"), (4, 6, 6)),
    "space to depth": (lambda x: x.space_to_depth(2).conv(4, 1), (4, 6, 6)),
    "shuffle": (lambda x: x.conv(8, 1, groups=2).channel_shuffle(2).depthwise(3), (4, 6, 6)),
    "upsample": (lambda x: nn.concat([x.max_pool(2).upsample(2), x]).conv(3, 3), (4, 6, 6)),
    "gate": (lambda x: x.conv(8, 3).squeeze_excitation(2).conv(4, 1), (4, 6, 6)),
    "1-D": (lambda x: x.conv(8, 5, 2, padding=2).relu().max_pool(3, 2).global_avg_pool().dense(3), (4, 33)),
    "3-D": (lambda x: x.conv(8, 3, padding=1).relu().max_pool(2).global_avg_pool().dense(3), (2, 6, 6, 6)),
}


def built(name: str) -> nn.Network:
    layer, shape = LAYERS[name]
    net = nn.Network(name, batch="N")
    return net.output(layer(net.input(*shape)))


@pytest.mark.parametrize("device", ["numpy", "interpreter"])
@pytest.mark.parametrize("name", LAYERS)
def test_exports_and_kernels_compute_the_same(name: str, device: str, interpreters: None) -> None:
    checked = verify(built(name), device, "fp32", batch=2)
    assert checked.ok, checked.outputs


# -- mistakes ---------------------------------------------------------------------------------------------------------
MISFITS: dict[str, tuple[Callable[[nn.Tensor], Any], str]] = {
    "window": (lambda x: x.locally_connected(4, 9, name="bad"), r"9.*8"),
    "local weight": (
        lambda x: x.locally_connected(2, 3, weight=np.ones((2, 4, 3, 3)), name="bad"),
        r"\[2, 4, 3, 3, 6, 6\], but \[2, 4, 3, 3\]",
    ),
    "group norm": (lambda x: x.group_norm(3, name="bad"), "3 groups do not divide 4"),
    "shuffle": (lambda x: x.channel_shuffle(3, name="bad"), "3 groups do not divide 4"),
    "norm scale": (lambda x: x.instance_norm(scale=np.ones(3), name="bad"), r"scale.*\[4\], but \[3\]"),
    "depth": (lambda x: x.depth_to_space(3, name="bad"), r"\[1, 4, 8, 8\].*3²"),
    "space": (lambda x: x.space_to_depth(3, name="bad"), r"\[1, 4, 8, 8\].*multiples of 3"),
    "vector": (lambda x: x.flatten().upsample(2, name="bad"), r"spatial.*\[1, 256\]"),
    "transposed groups": (lambda x: x.conv_transpose(6, 3, groups=4, name="bad"), "4 groups.*4 input.*6 filters"),
    "transposed weight": (
        lambda x: x.conv_transpose(6, 3, weight=np.ones((6, 4, 3, 3)), name="bad"),
        r"\[4, 6, 3, 3\], but \[6, 4, 3, 3\]",
    ),
    "sizes": (lambda x: x.resize(4, name="bad"), r"sizes \(4,\) should have 2"),
    "rank": (lambda x: x.flatten().depth_to_space(2, name="bad"), r"rank 4.*\[1, 256\]"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_name_the_layer_and_both_shapes(case: str) -> None:
    build, pattern = MISFITS[case]
    with pytest.raises(errors.ShapeError, match=pattern) as caught:
        build(nn.Network().input(4, 8, 8))
    assert caught.value.node == "bad"


def test_choices() -> None:
    x = nn.Network().input(4, 8, 8)
    with pytest.raises(errors.UsageError, match="DCR, CRD"):
        x.depth_to_space(2, "RCD")
    with pytest.raises(errors.UsageError, match=r"'swoosh'.*relu"):
        x.squeeze_excitation(2, "swoosh")
