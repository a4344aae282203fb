"""Emitted kernels of single operators in Triton's interpreter against ONNX Runtime: shapes, strides, masks, layouts.

Data are small whole numbers, whose products and sums every numeric mode represents exactly: results must be *equal*,
and no tolerance can hide a wrong index. Each example is one network of many operators, so that compiling costs little.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, integers, run, same
from hypothesis import given, settings
from hypothesis import strategies as st

import convc
from convc.analysis.verify import reference_outputs
from convc.errors import UnsupportedModelError
from convc.frontends.export import export_onnx
from convc.passes.canonical import constants

pytestmark = pytest.mark.usefixtures("interpreters")
MODES = ("fp32", "tf32", "fp16", "bf16")
FEW = settings(settings.get_profile("shared-process"), max_examples=4)
SMALL = st.integers(0, 2**32 - 1)


def pooled(b: Builder) -> dict[str, np.ndarray]:
    """ONNX Runtime's results; where a dilated window holds nothing but padding, the definition's: NaN or −∞, while
    ONNX Runtime gives 0 or the least number."""
    wanted, defined = expected(b), evaluate(b.graph, b.inputs, np.float32)
    return {name: np.where(np.isfinite(defined[name]), array, defined[name]) for name, array in wanted.items()}


def many(case: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(case, min_size=8, max_size=16)


def expected(b: Builder) -> dict[str, np.ndarray]:
    return reference_outputs(export_onnx(b.graph, opset=22), b.inputs)


@st.composite
def windows(draw: st.DrawFn, most_pad: int | None = None) -> dict[str, Any]:
    """A window that fits its input: spatial extents, kernel, strides, pads and dilations."""
    rank = draw(st.sampled_from([1, 2, 2, 2, 3]))

    def each(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(count))

    kernel, strides, dilations = each(1, 3), each(1, 3), each(1, 2)
    pads = each(0, 2, 2 * rank)
    if most_pad is not None:
        pads = tuple(min(pad, kernel[i % rank] - 1) for i, pad in enumerate(pads))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    spatial = tuple(max(1, r - pads[i] - pads[rank + i]) + draw(st.integers(0, 4)) for i, r in enumerate(reach))
    return {"spatial": spatial, "kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations}


convolutions = st.fixed_dictionaries(
    {
        "window": windows(),
        "batch": st.integers(1, 3),
        "groups": st.sampled_from([1, 1, 1, 2, 3, 4]),
        "depth": st.sampled_from([1, 3, 5, 17, 33]),
        "filters": st.sampled_from([1, 2, 5, 17]),
        "bias": st.booleans(),
        "computed": st.sampled_from([False, False, True]),
        "seed": SMALL,
    }
)


def add_convolution(b: Builder, case: dict[str, Any]) -> None:
    random, w = np.random.default_rng(case["seed"]), case["window"]
    groups, depth = case["groups"], case["depth"]
    weights = integers(random, (groups * case["filters"], depth, *w["kernel"]), 1)
    operands = [b.input(integers(random, (case["batch"], groups * depth, *w["spatial"])))]
    computed = case["computed"] and not (groups > 1 and depth == 1)
    operands.append(b.input(weights) if computed else b.constant(weights))
    if case["bias"]:
        operands.append(b.constant(integers(random, (groups * case["filters"],), 9)))
    attributes = {name: w[name] for name in ("strides", "pads", "dilations")}
    b.output(b.add("Conv", *operands, groups=groups, **attributes))


@pytest.mark.parametrize("dtype", MODES)
@FEW
@given(many(convolutions))
def test_convolution(dtype: str, cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        add_convolution(b, case)
    same(run(b.graph, b.inputs, dtype=dtype), expected(b))


def test_a_convolution_with_a_single_result() -> None:
    """Nothing is left to iterate over, and few channels make the filter's line part of a step."""
    b = Builder()
    for spatial in ((3,), (2, 3)):
        x = b.input(integers(np.random.default_rng(0), (1, 3, *spatial)))
        b.output(conv(b, x, integers(np.random.default_rng(1), (1, 3, *spatial))))
    same(run(b.graph, b.inputs), expected(b))


LONG = ((1, 80, 0, 16), (1, 80, 38, 4), (2, 200, 0, 4), (1, 300, 150, 10), (3, 90, 40, 2), (20, 70, 35, 3))
"""Channels, window, padding and step of convolutions over signals."""


def test_long_windows() -> None:
    """More positions than a word has bits, and lines of the filter longer than a block has registers for."""
    b, random = Builder(), np.random.default_rng(0)
    for channels, size, pad, step in LONG:
        x = b.input(integers(random, (1, channels, 700), 1))
        b.output(conv(b, x, integers(random, (24, channels, size), 1), pads=(pad, pad), strides=(step,)))
    depthwise = integers(random, (6, 1, 90), 1)
    b.output(conv(b, b.input(integers(random, (1, 6, 300), 1)), depthwise, pads=(45, 45), groups=6))
    same(run(b.graph, b.inputs), expected(b))
    convc.plan(b.graph, "sm_90")


pools = st.fixed_dictionaries(
    {
        "window": windows(most_pad=1),
        "batch": st.integers(1, 2),
        "channels": st.sampled_from([1, 3, 5, 17]),
        "ceil_mode": st.booleans(),
        "count_include_pad": st.booleans(),
        "seed": SMALL,
    }
)


def pool_input(b: Builder, case: dict[str, Any]) -> Any:
    shape = (case["batch"], case["channels"], *case["window"]["spatial"])
    return b.input(integers(np.random.default_rng(case["seed"]), shape, 100))


@FEW
@given(many(pools))
def test_max_pool(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        w = case["window"]
        attributes = {name: w[name] for name in ("strides", "pads", "dilations")}
        b.output(
            b.add("MaxPool", pool_input(b, case), kernel_shape=w["kernel"], ceil_mode=case["ceil_mode"], **attributes)
        )
    same(run(b.graph, b.inputs, dtype="fp16"), pooled(b))


@FEW
@given(many(pools))
def test_average_pool(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        w = case["window"]
        attributes = {name: w[name] for name in ("strides", "pads", "dilations")} | {"kernel_shape": w["kernel"]}
        attributes |= {name: case[name] for name in ("ceil_mode", "count_include_pad")}
        b.output(b.add("AveragePool", pool_input(b, case), **attributes))
    found = run(b.graph, b.inputs)
    for name, array in pooled(b).items():
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(array))
        # The sum is exact; ONNX Runtime rounds the division once and so do we, or multiplies by a rounded reciprocal.
        np.testing.assert_array_max_ulp(np.nan_to_num(found[name]), np.nan_to_num(array), maxulp=2)


@st.composite
def products(draw: st.DrawFn) -> dict[str, Any]:
    batch = draw(st.lists(st.integers(1, 3), max_size=2))

    def operand() -> list[int]:
        shape = [draw(st.sampled_from([extent, 1])) for extent in batch]
        return shape[draw(st.integers(0, len(shape))) :]

    m, k, n = (draw(st.sampled_from([1, 2, 5, 17, 33])) for _ in range(3))
    left, right = [*operand(), m, k], [*operand(), k, n]
    shape = draw(st.sampled_from(["matrices", "matrices", "left vector", "right vector"]))
    left = [k] if shape == "left vector" else left
    right = [k] if shape == "right vector" else right
    return {"left": left, "right": right, "constant": draw(st.booleans()), "seed": draw(SMALL)}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@FEW
@given(many(products()))
def test_matrix_product(dtype: str, cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        random = np.random.default_rng(case["seed"])
        left, right = integers(random, case["left"]), integers(random, case["right"], 1)
        b.output(b.add("MatMul", b.input(left), b.constant(right) if case["constant"] else b.input(right)))
    same(run(b.graph, b.inputs, dtype=dtype), expected(b))


gemms = st.fixed_dictionaries(
    {
        "sizes": st.tuples(*[st.sampled_from([1, 3, 5, 17, 33])] * 3),
        "trans_a": st.booleans(),
        "trans_b": st.booleans(),
        "alpha": st.sampled_from([1.0, 0.5, -2.0]),
        "beta": st.sampled_from([1.0, 0.25, 2.0]),
        "addend": st.sampled_from(["none", "scalar", "row", "column", "matrix"]),
        "constants": st.booleans(),
        "seed": SMALL,
    }
)


@FEW
@given(many(gemms))
def test_gemm(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        random, (m, k, n) = np.random.default_rng(case["seed"]), case["sizes"]
        given_by = b.constant if case["constants"] else b.input
        operands = [b.input(integers(random, (k, m) if case["trans_a"] else (m, k)))]
        operands.append(given_by(integers(random, (n, k) if case["trans_b"] else (k, n), 1)))
        shape = {"scalar": (), "row": (n,), "column": (m, 1), "matrix": (m, n)}.get(case["addend"])
        if shape is not None:
            operands.append(given_by(integers(random, shape, 9)))
        b.output(b.add("Gemm", *operands, **{a: case[a] for a in ("trans_a", "trans_b", "alpha", "beta")}))
    same(run(b.graph, b.inputs, dtype="bf16"), expected(b))


REDUCTIONS = ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceL1", "ReduceMean", "ReduceL2")


@st.composite
def reductions(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 7, 17]), min_size=1, max_size=4))
    axes = draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    op, keep = draw(st.sampled_from(REDUCTIONS)), draw(st.booleans())
    return {"shape": shape, "axes": tuple(sorted(axes)), "op": op, "keepdims": keep, "seed": draw(SMALL)}


@FEW
@given(many(reductions()))
def test_reduction(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        x = b.input(integers(np.random.default_rng(case["seed"]), case["shape"], 9))
        b.output(b.add(case["op"], x, axes=case["axes"], keepdims=case["keepdims"]))
    found, wanted = run(b.graph, b.inputs), expected(b)
    for case, (name, array) in zip(cases, found.items(), strict=True):
        # The sums are exact; the division of a mean and the root of a norm are rounded once on either side.
        np.testing.assert_array_max_ulp(array, wanted[name], maxulp=2 if case["op"] in REDUCTIONS[-2:] else 0)


@st.composite
def softmaxes(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 7, 33]), min_size=1, max_size=4))
    op = draw(st.sampled_from(["Softmax", "LogSoftmax"]))
    return {"shape": shape, "axis": draw(st.integers(0, len(shape) - 1)), "op": op, "seed": draw(SMALL)}


@FEW
@given(many(softmaxes()))
def test_softmax(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        x = b.input(np.random.default_rng(case["seed"]).uniform(-8, 8, case["shape"]).astype(np.float32))
        b.output(b.add(case["op"], x, axis=case["axis"]))
    found, wanted = run(b.graph, b.inputs), expected(b)
    for case, (name, array) in zip(cases, found.items(), strict=True):
        # x - max is below 16: its rounding is an error of 16 units in exp(x - max) or in its logarithm. Then n - 1
        # additions, two units of exp, log or division each; and ONNX Runtime has as many.
        units = 2 * (16 + case["shape"][case["axis"]] + 4) * 2.0**-24
        relative = 0 if case["op"] == "LogSoftmax" else units
        np.testing.assert_allclose(array, wanted[name], rtol=relative, atol=units * 4 if not relative else 0)


@st.composite
def paddings(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    most = [extent - 1 if mode == "reflect" else 3 for extent in shape]
    pads = tuple(draw(st.integers(0, min(3, m))) for m in (*most, *most))
    value = draw(st.sampled_from([0.0, 3.0, -7.0, math.inf])) if mode == "constant" else 0.0
    return {"shape": shape, "attributes": {"pads": pads, "mode": mode, "value": value}, "seed": draw(SMALL)}


@FEW
@given(many(paddings()))
def test_pad(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        x = b.input(integers(np.random.default_rng(case["seed"]), case["shape"], 9))
        b.output(b.add("Pad", x, **case["attributes"]))
    same(run(b.graph, b.inputs), expected(b))


@st.composite
def views(draw: st.DrawFn) -> dict[str, Any]:
    """A shape and a chain of slices (any steps), transposes and reshapes, each drawn by the numbers in ``choices``."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    chain = draw(st.lists(st.sampled_from(["Slice", "Transpose", "Reshape", "Expand", "Add"]), min_size=1, max_size=5))
    return {"shape": shape, "chain": chain, "seed": draw(SMALL)}


def step_of(random: np.random.Generator, op: str, shape: tuple[int, ...]) -> dict[str, Any]:
    if op == "Transpose":
        return {"perm": tuple(int(axis) for axis in random.permutation(len(shape)))}
    if op == "Expand":
        return {
            "shape": (2, *(3 if extent == 1 else extent for extent in shape))[-max(len(shape), 1) - (len(shape) < 4) :]
        }
    if op == "Reshape":
        return {"shape": regrouped(random, shape)}
    starts, sizes, steps = [], [], []
    for extent in shape:
        size = int(random.integers(1, extent + 1))
        step = int(random.integers(1, max(1, (extent - 1) // max(size - 1, 1)) + 1))
        low = int(random.integers(0, extent - (size - 1) * step))
        backwards = bool(random.integers(2))
        starts.append(low + (size - 1) * step if backwards else low)
        sizes.append(size)
        steps.append(-step if backwards else step)
    return {"starts": tuple(starts), "sizes": tuple(sizes), "steps": tuple(steps)}


def regrouped(random: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The prime factors of the element count, shuffled and multiplied together into a few extents."""
    left, factors = math.prod(shape), []
    for prime in (2, 3, 5):
        while left % prime == 0:
            factors.append(prime)
            left //= prime
    factors += [left] if left > 1 else []
    target = [1] * int(random.integers(1, 5))
    for factor in random.permutation(factors).tolist() if factors else []:
        target[int(random.integers(len(target)))] *= int(factor)
    return tuple(target)


@FEW
@given(many(views()))
def test_chains_of_views(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        random = np.random.default_rng(case["seed"])
        value = b.input(integers(random, case["shape"], 100))
        for op in case["chain"]:
            shape = tuple(int(dim) for dim in b.graph.type(value).shape)
            if op == "Add":
                value = b.add("Add", value, b.input(integers(random, shape, 100)))
            elif not (op == "Expand" and math.prod(shape) > 500):
                value = b.add(op, value, **step_of(random, op, shape))
        b.output(value)
    same(run(b.graph, b.inputs, dtype="fp16"), expected(b))


@st.composite
def concatenations(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    axis = draw(st.integers(0, len(shape) - 1))
    parts = draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    return {"shape": shape, "axis": axis, "parts": parts, "nested": draw(st.booleans()), "seed": draw(SMALL)}


@pytest.mark.parametrize("opt", ["none", "fuse"])
@FEW
@given(many(concatenations()))
def test_concatenation(opt: str, cases: list[dict[str, Any]]) -> None:
    """Operands are computed, inputs or constants; each may appear several times, and in two concatenations."""
    b = Builder()
    for case in cases:
        random = np.random.default_rng(case["seed"])
        computed = b.add("Neg", b.input(integers(random, case["shape"])))
        sources = [computed, b.input(integers(random, case["shape"])), b.constant(integers(random, case["shape"]))]
        operands = [sources[part] for part in case["parts"]]
        joined = b.add("Concat", *operands, axis=case["axis"])
        if case["nested"]:
            joined = b.add("Concat", *operands, joined, computed, joined, axis=case["axis"])
        b.output(joined)
    same(run(b.graph, b.inputs, opt=opt), expected(b))


@st.composite
def broadcasts(draw: st.DrawFn) -> dict[str, Any]:
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 5]), min_size=1, max_size=4))
    operands = []
    for _ in range(draw(st.integers(1, 4))):
        other = [draw(st.sampled_from([extent, 1])) for extent in shape]
        constant = draw(st.booleans())
        op = draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
        first = draw(st.booleans())
        operands.append((other[draw(st.integers(0, len(other))) :], constant, op, first))
    return {"shape": shape, "operands": operands, "seed": draw(SMALL)}


@FEW
@given(many(broadcasts()))
def test_broadcasting_chains(cases: list[dict[str, Any]]) -> None:
    b = Builder()
    for case in cases:
        random = np.random.default_rng(case["seed"])
        value = b.input(integers(random, case["shape"], 3))
        for shape, constant, op, first in case["operands"]:
            array = integers(random, shape, 3)
            other = b.constant(array) if constant else b.input(array)
            value = b.add(op, *((other, value) if first else (value, other)))
        b.output(value)
    same(run(b.graph, b.inputs), expected(b))


def test_expand_of_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which stay what they are where the result would be large."""
    monkeypatch.setattr(constants, "LIMIT_BYTES", 8)
    b, random = Builder(), np.random.default_rng(4)
    for shape, target in (((3, 1, 5), (2, 3, 4, 5)), ((1,), (7,)), ((2, 1), (2, 1)), ((4, 1, 1), (4, 5, 6))):
        b.output(b.add("Expand", b.constant(integers(random, shape)), shape=target))
    weights = b.add("Expand", b.constant(integers(random, (8, 1))), shape=(8, 3))
    b.output(b.add("MatMul", b.input(integers(random, (2, 8))), weights))
    same(run(b.graph, b.inputs), evaluate(b.graph, b.inputs))


def test_equal_columns_have_equal_sums() -> None:
    """As on a GPU, where no place in a matrix makes a sum of another order."""
    b, random = Builder(), np.random.default_rng(5)
    x = b.input((1e9 * random.standard_normal((1, 700))).astype(np.float32))
    b.output(b.add("MatMul", x, b.constant(np.repeat(random.standard_normal((700, 1)).astype(np.float32), 1000, 1))))
    (found,) = run(b.graph, b.inputs).values()
    assert np.unique(found).size == 1


def test_every_operator_without_a_kernel_is_named() -> None:
    b = Builder()
    x = b.input(np.ones((2, 3), np.float32))
    b.output(b.add("ReduceLogSumExp", x, axes=(1,), keepdims=True))
    b.output(b.add("CumSum", x, axis=0))
    with pytest.raises(UnsupportedModelError, match=r"(?s)ReduceLogSumExp.*CumSum|CumSum.*ReduceLogSumExp"):
        run(b.graph, b.inputs, disable="host-steps")
    same(run(b.graph, b.inputs), expected(b))
