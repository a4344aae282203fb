"""NaN, infinities, empty tensors, and elements that are not floats, through the emitted kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, integers, run, same

from convc.analysis.verify import reference_outputs
from convc.frontends.export import export_onnx

pytestmark = pytest.mark.usefixtures("interpreters")
NAN, INF = np.nan, np.inf
SPECIALS = np.array([NAN, INF, -INF, 1.0, -1.0, 0.0, 3.0, -2.0], np.float32)


def specials(shape: tuple[int, ...]) -> np.ndarray:
    """Mostly numbers, with NaN and infinities among them."""
    random = np.random.default_rng(0)
    chosen = random.choice(SPECIALS, shape, p=[0.03, 0.03, 0.03, 0.2, 0.2, 0.2, 0.2, 0.11])
    return chosen.astype(np.float32)


def special_network() -> Builder:
    """What passes special values on, and what compares them."""
    b = Builder()
    image, matrix = b.input(specials((2, 5, 8, 7))), b.input(specials((6, 37)))
    pairs = [b.input(np.repeat(SPECIALS, 8).reshape(8, 8)), b.input(np.tile(SPECIALS, 8).reshape(8, 8))]
    for op, attributes in (("Relu", {}), ("Clip", {"min": -1.0, "max": 2.0}), ("Clip", {"min": 0.0}), ("Abs", {})):
        b.output(b.add(op, matrix, **attributes))
    for op in ("Add", "Sub", "Mul", "Max", "Min"):
        b.output(b.add(op, *pairs))
    for op in ("ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2"):
        b.output(b.add(op, matrix, axes=(1,), keepdims=True))
        b.output(b.add(op, image, axes=(2, 3), keepdims=False))
        b.output(b.add(op, image, axes=(1,), keepdims=True))
    window = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 1, 1, 0), "dilations": (1, 2), "ceil_mode": True}
    b.output(b.add("MaxPool", image, **window))
    b.output(b.add("AveragePool", image, **{**window, "dilations": (1, 1)}, count_include_pad=False))
    return b


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_nan_and_infinities_pass_as_ieee_says(dtype: str) -> None:
    b = special_network()
    found, wanted = run(b.graph, b.inputs, dtype=dtype), evaluate(b.graph, b.inputs, np.float32)
    for name, array in found.items():
        finite = np.isfinite(wanted[name])
        np.testing.assert_array_equal(array[~finite], wanted[name][~finite], err_msg=name)
        # Means and norms divide and take a root, each rounded once; all sums here are exact.
        np.testing.assert_array_max_ulp(array[finite], wanted[name][finite], maxulp=2)


def test_softmax_of_special_rows() -> None:
    """A row with NaN or +inf is NaN throughout; -inf beside numbers is 0; all of -inf is NaN."""
    b = Builder()
    rows = [[0, 1, 2], [0, NAN, 1], [INF, 0, 1], [-INF, 0, 0], [-INF, -INF, -INF], [88, 88, 88]]
    b.output(b.add("Softmax", b.input(np.array(rows, np.float32)), axis=1))
    found = run(b.graph, b.inputs)["y0"]
    np.testing.assert_array_equal(np.isnan(found).all(axis=1), [False, True, True, False, True, False])
    np.testing.assert_array_equal(found[3], [0, 0.5, 0.5])


def test_a_nan_pixel_reaches_just_the_outputs_that_read_it() -> None:
    """Rows and columns past the edges, padded channels and padded weights never mix in."""
    b = Builder()
    x = integers(np.random.default_rng(0), (2, 5, 9, 9))
    x[0, 2, 4, 4] = NAN
    weights = np.ones((7, 5, 3, 3), np.float32)
    b.output(conv(b, b.input(x), weights, pads=(1,) * 4))
    for opt in ("none", "fuse"):
        found = run(b.graph, b.inputs, opt=opt)["y0"]
        touched = np.zeros((9, 9), bool)
        touched[3:6, 3:6] = True
        assert (np.isnan(found[0]) == touched).all() and not np.isnan(found[1]).any()


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_an_infinite_pixel_meets_no_weights_that_only_fill_a_block(dtype: str) -> None:
    """Of two products back to back: 24 channels between them are columns of a block of 32."""
    b = Builder()
    x = np.ones((1, 16, 4, 4), np.float32)
    x[0, 3, 1, 2] = INF
    y = conv(b, b.input(x), np.ones((24, 16, 1, 1), np.float32))
    b.output(conv(b, y, np.ones((16, 24, 1, 1), np.float32)))
    same(run(b.graph, b.inputs, dtype=dtype, policy="always"), evaluate(b.graph, b.inputs))


def test_folding_does_not_turn_infinities_into_nan() -> None:
    """0·inf: a scale that overflows stays behind the convolution, which may give 0."""
    b = Builder()
    y = conv(b, b.input(np.zeros((1, 2, 3, 3), np.float32)), np.ones((2, 2, 1, 1), np.float32))
    b.output(b.add("Mul", y, b.constant(np.array([INF, 1.0], np.float32).reshape(2, 1, 1))))
    b.output(b.add("Div", b.add("Neg", y), b.constant(np.zeros((1, 2, 1, 1), np.float32))))
    same(run(b.graph, b.inputs), reference_outputs(export_onnx(b.graph), b.inputs))


@pytest.mark.parametrize("opt", ["none", "fold", "fuse"])
def test_empty_tensors(opt: str) -> None:
    b = Builder()
    empty = b.input(np.zeros((0, 3, 5, 5), np.float32))
    y = conv(b, empty, np.ones((4, 3, 3, 3), np.float32))
    b.output(b.add("Relu", y))
    x = b.input(integers(np.random.default_rng(0), (2, 3)))
    nothing = b.add("Slice", x, starts=(0, 0), sizes=(0, 3), steps=(1, 1))
    b.output(nothing)
    b.output(b.add("Concat", nothing, b.add("Neg", x), nothing, axis=0))
    b.output(b.add("ReduceSum", b.input(np.zeros((0, 4), np.float32)), axes=(0,), keepdims=False))
    b.output(b.add("MatMul", b.input(np.zeros((2, 0), np.float32)), b.input(np.zeros((0, 3), np.float32))))
    b.output(b.add("Pad", nothing, pads=(1, 0, 1, 0), value=7.0))
    same(run(b.graph, b.inputs, opt=opt), evaluate(b.graph, b.inputs))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_, np.float64, np.float16])
def test_every_type_is_moved(dtype: Any) -> None:
    b = Builder()
    array = np.random.default_rng(0).integers(0, 2 if dtype is np.bool_ else 200, (2, 3, 4)).astype(dtype)
    x = b.input(array)
    b.output(x)
    b.output(b.add("Transpose", x, perm=(2, 0, 1)))
    b.output(b.add("Reshape", b.add("Transpose", x, perm=(0, 2, 1)), shape=(3, 8)))
    b.output(b.add("Concat", x, b.constant(array[:, :1]), x, axis=1))
    b.output(b.add("Slice", x, starts=(1, 2, 3), sizes=(2, 2, 2), steps=(-1, -2, -3)))
    b.output(b.add("Pad", x, pads=(0, 1, 0, 0, 0, 2), mode="edge"))
    b.output(b.constant(array))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_numbers_that_fp32_does_not_hold_are_moved_as_they_are() -> None:
    b = Builder()
    for dtype, number in [
        (np.float64, 0.1),
        (np.float64, 1e300),
        (np.int64, 2**40 + 1),
        (np.int64, -(2**63)),
        (np.int32, 2**24 + 1),
        (np.int32, 2**31 - 1),
        (np.uint32, 2**32 - 1),
    ]:
        x = b.input(np.array([1, 2], dtype))
        b.output(b.add("Pad", x, pads=(1, 2), value=number))
        b.output(b.constant(np.array([number, 3], dtype)))
        b.output(b.add("Concat", x, b.constant(np.array([number], dtype)), axis=0))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_a_row_that_no_block_holds_is_the_host_s() -> None:
    b = Builder()
    b.output(b.add("Softmax", b.input(np.zeros((1, 1 << 21), np.float32)), axis=1))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))
