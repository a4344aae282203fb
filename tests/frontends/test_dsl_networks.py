"""Networks written in the DSL: weights, names and errors."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from graph_reference import compute

from convc import errors
from convc.frontends import dsl as nn
from convc.ir.dims import Dim
from convc.ir.types import DType


# -- weights ----------------------------------------------------------------------------------------------------------
def constants(net: nn.Network) -> dict[str, np.ndarray]:
    return {node.label: node.array for node in net.graph.of_kind("Constant")}


def stack(extra: bool, seed: int = 0) -> dict[str, np.ndarray]:
    net = nn.Network(seed=seed)
    x = net.input(4, 8, 8).conv(8, 3, name="a").batch_norm(name="a.bn").relu()
    if extra:
        x = x.conv(8, 3, padding=1).batch_norm().relu().max_pool(1)
    x.conv(8, 3, name="b").prelu(name="b.act").dense(3, name="c")
    return constants(net)


def test_inserting_a_layer_leaves_the_other_weights() -> None:
    with_extra, without = stack(extra=True), stack(extra=False)
    assert without.keys() < with_extra.keys()
    same = [name for name in without if name != "c.weight" and not name.startswith("c.flatten")]
    assert len(same) >= 8
    assert all((without[name] == with_extra[name]).all() for name in same)


def test_seeds_differ_and_repeat() -> None:
    first, again, other = stack(False), stack(False), stack(False, seed=1)
    assert all((first[name] == again[name]).all() for name in first)
    assert all((first[name] != other[name]).any() for name in first)


def test_filters_have_zero_mean_and_the_variance_of_a_rectified_input() -> None:
    net = nn.Network()
    net.input(64, 8, 8).conv(256, 3, gain=2.0)
    weight = constants(net)["conv1.weight"].astype(np.float64)
    fan_in = 64 * 9
    assert np.abs(weight.mean(axis=(1, 2, 3))).max() <= fan_in * DType.FP32.epsilon
    expected = 4 / (fan_in * (1 - 1 / np.pi) / 2)
    # The variance of n normal samples has a standard deviation of √(2/n) of itself.
    assert abs(weight.var() / expected - 1) < 5 * np.sqrt(2 / weight.size)


def test_batch_norm_ranges() -> None:
    net = nn.Network()
    net.input(500, 2, 2).batch_norm()
    drawn = constants(net)
    for part in ("scale", "var"):
        assert drawn[f"batch_norm1.{part}"].min() >= 0.5 and drawn[f"batch_norm1.{part}"].max() <= 1.5
    for part in ("shift", "mean"):
        assert np.abs(drawn[f"batch_norm1.{part}"]).max() < 0.5


def test_given_weights_are_used() -> None:
    net = nn.Network()
    weight, bias = np.ones((2, 3, 1, 1)), np.array([1.0, 2.0])
    x = net.input(3, 2, 2).conv(2, 1, weight=weight, bias=bias)
    ones = np.ones(2)
    net.output(x.batch_norm(scale=ones, shift=ones, mean=ones, var=ones, epsilon=0.0))
    assert compute(net, np.ones((1, 3, 2, 2)))[0, :, 0, 0].tolist() == [4, 5]


def test_no_weights_occupy_no_memory() -> None:
    net = nn.Network(weights="none")
    net.input(100, 10).dense(1000)
    assert constants(net)["dense1.weight"].strides == (0, 0)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp64"])
def test_element_type_of_everything(dtype: str) -> None:
    net = nn.Network(dtype=dtype)
    net.output(net.input(3, 5, 5).conv(4, 3).batch_norm().relu() * 2.0)
    assert {type.dtype for node in net.graph.nodes() for type in node.outputs} == {DType(dtype)}


# -- names ------------------------------------------------------------------------------------------------------------
def test_default_names_count_by_kind() -> None:
    net = nn.Network()
    net.input(3, 8, 8).conv(4, 3).relu().conv(4, 3, name="special").relu().conv(4, 3).max_pool(2).dense(2)
    assert [layer.name for layer in net.layers] == [
        *("conv1", "relu1", "special", "relu2", "conv2", "max_pool1"),
        *("dense1.flatten", "dense1"),
    ]
    assert [node.label for node in net.graph.of_kind("Conv")] == ["conv1", "special", "conv2"]
    assert {"conv1.weight", "conv1.bias", "special.weight", "dense1.bias"} <= constants(net).keys()


def test_default_names_step_around_taken_ones() -> None:
    x = nn.Network().input(3).relu(name="relu1").relu()
    assert x.name == "relu2"


def test_a_name_can_be_used_once() -> None:
    x = nn.Network("twice").input(3).relu(name="act")
    with pytest.raises(errors.UsageError, match=r"'act'.*'twice' already has"):
        x.relu(name="act")


# -- errors -----------------------------------------------------------------------------------------------------------
MISFITS: dict[str, tuple[Callable[[nn.Tensor], Any], str]] = {
    "sum of other shapes": (lambda x: x.add(x.conv(8, 3), name="bad"), r"\[1, 4, 8, 8\].*\[1, 8, 6, 6\]"),
    "concat of other sides": (lambda x: nn.concat([x, x.max_pool(2)], name="bad"), r"\[1, 4, 8, 8\].*\[1, 4, 4, 4\]"),
    "window larger than the input": (lambda x: x.conv(8, 9, name="bad"), "9.*8"),
    "groups": (lambda x: x.conv(6, 3, groups=4, name="bad"), "4 groups.*4 input channels.*6 filters"),
    "given weight": (
        lambda x: x.conv(2, 3, weight=np.ones((2, 3, 3, 3)), name="bad"),
        r"weight should have shape \[2, 4, 3, 3\], but \[2, 3, 3, 3\]",
    ),
    "given bias": (lambda x: x.dense(5, bias=np.ones(4), name="bad"), r"bias.*\[5\].*\[4\]"),
    "kernel of another rank": (
        lambda x: x.max_pool((2, 2, 2), name="bad"),
        r"kernel \(2, 2, 2\) should have 2 numbers",
    ),
    "padding of another rank": (lambda x: x.conv(2, 3, padding=(1, 1, 1), name="bad"), "padding.*2 or 4 numbers"),
    "reshape": (lambda x: x.reshape(1, 5, 50, name="bad"), r"\[1, 4, 8, 8\].*\[1, 5, 50\]"),
    "split": (lambda x: x.split([1, 2], name="bad"), r"\(1, 2\).*axis 1 of \[1, 4, 8, 8\]"),
    "no filters": (lambda x: x.conv(0, 3, name="bad"), "filters should be 1 or more, found 0"),
    "no groups": (lambda x: x.conv(4, 3, groups=0, name="bad"), "groups should be 1 or more, found 0"),
    "no units": (lambda x: x.dense(0, name="bad"), "units should be 1 or more, found 0"),
    "no window": (lambda x: x.conv(4, (3, 0), name="bad"), "kernel should be 1 or more, found 0"),
    "no stride": (lambda x: x.conv(4, 3, 0, "same", name="bad"), "stride should be 1 or more, found 0"),
    "windows spread apart": (lambda x: x.conv_transpose(4, 3, -1, name="bad"), "stride should be 1 or more, found -1"),
    "no dilation": (lambda x: x.max_pool(2, dilation=0, name="bad"), "dilation should be 1 or more, found 0"),
    "less than no padding": (lambda x: x.pad(-1, name="bad"), "padding should be 0 or more, found -1"),
    "no parts": (lambda x: x.split(0, name="bad"), "parts should be 1 or more, found 0"),
    "no such axis": (lambda x: x.softmax(7, name="bad"), r"axis 7 .*\[1, 4, 8, 8\]"),
    "no such axes": (lambda x: x.transpose(0, 1, 2, -5, name="bad"), r"axis -5 .*\[1, 4, 8, 8\]"),
    "too few axes": (lambda x: x.transpose(0, 1, name="bad"), r"\(0, 1\).*\[1, 4, 8, 8\]"),
    "reshape to nothing": (lambda x: x.reshape(0, -1, name="bad"), r"\[1, 4, 8, 8\].*\[0, 0\]"),
    "pooling of a vector": (lambda x: x.flatten().max_pool(2, name="bad"), r"\[N, C, spatial ...\].*\[1, 256\]"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits_name_the_layer_and_both_shapes(case: str) -> None:
    build, pattern = MISFITS[case]
    with pytest.raises(errors.ShapeError, match=pattern) as caught:
        build(nn.Network().input(4, 8, 8))
    assert caught.value.node == "bad"


def test_errors_are_raised_at_the_line_that_wrote_the_layer() -> None:
    def write() -> None:
        x = nn.Network().input(4, 8, 8)
        y = x.conv(8, 3)
        x.relu().add(y)  # does not fit
        y.relu()

    with pytest.raises(errors.ShapeError) as caught:
        write()
    frames = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if frame.filename == __file__]
    assert frames[-1].line is not None and frames[-1].line.endswith("# does not fit")


def test_activations_that_do_not_exist() -> None:
    x = nn.Network().input(4)
    with pytest.raises(errors.UsageError, match=r"activation 'Bogus'.*Relu"):
        x.activation("Bogus")
    with pytest.raises(errors.UsageError, match=r"'beta'.*choose from alpha"):
        x.activation("Elu", beta=1.0)
    with pytest.raises(errors.ShapeError, match="Cast expects attribute dtype to be given"):
        x.activation("Cast")


@pytest.mark.parametrize("dim", [-1, 2.5, "", None, True], ids=repr)
def test_inputs_have_sizes(dim: Any) -> None:
    for dims, batch in (((dim, 8), 1), ((4, 8), dim)):
        with pytest.raises(errors.UsageError, match="dimension of input 'input' must be an integer"):
            nn.Network(batch=batch).input(*dims)


def test_inputs_have_sizes_that_symbols_make() -> None:
    width = 2 * Dim.symbol("H")
    assert nn.Network().input(3, "H", width).shape == (1, 3, Dim.symbol("H"), width)


def test_concat_of_nothing() -> None:
    with pytest.raises(errors.UsageError, match="one tensor"):
        nn.concat([])


def test_channels_must_be_a_number() -> None:
    with pytest.raises(errors.ShapeError, match=r"conv1.*dimension C.*\[1, C, 8, 8\]"):
        nn.Network().input("C", 8, 8).conv(4, 3)


def test_same_padding_with_a_stride_needs_a_number() -> None:
    with pytest.raises(errors.ShapeError, match=r"conv1.*same.*H"):
        nn.Network().input(3, "H", 8).conv(4, 3, 2, "same")


def test_tensors_stay_in_their_network() -> None:
    a, b = nn.Network("left").input(3), nn.Network("right").input(3)
    with pytest.raises(errors.UsageError, match=r"'right'.*'left'"):
        a + b


def test_slices_are_ranges() -> None:
    x = nn.Network().input(4, 8, 8)
    with pytest.raises(errors.ShapeError, match="one range for each axis"):
        x[0]  # type: ignore[index]
    with pytest.raises(errors.ShapeError, match="steps to be other than 0"):
        x[:, ::0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"weights": "lots"}, "random, none"), ({"dtype": "fp8"}, "fp64, fp32"), ({"padding": "half"}, "same, valid")],
)
def test_options_outside_their_choices(options: dict[str, str], message: str) -> None:
    with pytest.raises(errors.UsageError, match=message):
        nn.Network().input(3, 8, 8).conv(2, 3, **options) if "padding" in options else nn.Network(**options)  # type: ignore[arg-type]
