"""Convolution and pooling over random attributes, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ir_oracle import accumulated, evaluate, onnx_runtime

from convc.ir import DType

pytest.importorskip("onnxruntime", reason="ONNX Runtime is the judge here")
LIMITS = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
EPSILON = DType.FP32.epsilon


@st.composite
def windows(draw: st.DrawFn, pooling: bool = False) -> dict:
    """Random spatial sizes and attributes in which every window fits."""
    rank = draw(st.integers(1, 3))
    size = st.integers(1, {1: 23, 2: 11, 3: 6}[rank])

    def each(values: st.SearchStrategy[int], count: int = rank) -> tuple[int, ...]:
        return tuple(draw(values) for _ in range(count))

    spatial, kernel = each(size), each(st.integers(1, 4))
    strides, dilations = each(st.integers(1, 4)), each(st.integers(1, 3))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    # ONNX Runtime pools only where pads are smaller than the undilated kernel
    pads = tuple(draw(st.integers(0, min(3, kernel[i % rank] - 1) if pooling else 3)) for i in range(2 * rank))
    assume(all(n + pads[i] + pads[rank + i] >= spans[i] for i, n in enumerate(spatial)))
    return {"spatial": spatial, "kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def data(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@LIMITS
@given(windows(), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 2**32))
def test_conv(window: dict, groups: int, depth: int, filters: int, bias: bool, seed: int) -> None:
    x = data((2, groups * depth, *window["spatial"]), seed)
    w = data((groups * filters, depth, *window["kernel"]), seed + 1)
    arrays = [x, w, data((groups * filters,), seed + 2)][: 3 if bias else 2]
    attributes = {name: window[name] for name in ("strides", "dilations", "pads")}
    found = evaluate("Conv", arrays, groups=groups, **attributes)
    wanted = onnx_runtime("Conv", arrays, group=groups, kernel_shape=window["kernel"], **attributes)
    assert found.shape == wanted.shape
    magnitude = evaluate("Conv", [np.abs(a).astype(np.float64) for a in arrays], groups=groups, **attributes)
    bound = 2 * accumulated(w[0].size + 1, EPSILON) * magnitude
    assert (np.abs(found - wanted) <= bound).all()


@LIMITS
@given(windows(pooling=True), st.booleans(), st.integers(0, 2**32))
def test_max_pool(window: dict, ceil_mode: bool, seed: int) -> None:
    x = data((2, 3, *window["spatial"]), seed)
    attributes = {name: window[name] for name in ("strides", "dilations", "pads")}
    found = evaluate("MaxPool", [x], kernel_shape=window["kernel"], ceil_mode=ceil_mode, **attributes)
    # a dilated window may see nothing but padding, for which ONNX prescribes nothing
    assume(np.isfinite(found).all())
    wanted = onnx_runtime("MaxPool", [x], kernel_shape=window["kernel"], ceil_mode=int(ceil_mode), **attributes)
    np.testing.assert_array_equal(found, wanted)


@LIMITS
@given(windows(pooling=True), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_average_pool(window: dict, ceil_mode: bool, include: bool, seed: int) -> None:
    x = data((2, 3, *window["spatial"]), seed)
    attributes = {name: window[name] for name in ("strides", "dilations", "pads")} | {"kernel_shape": window["kernel"]}
    found = evaluate("AveragePool", [x], ceil_mode=ceil_mode, count_include_pad=include, **attributes)
    assume(np.isfinite(found).all())
    wanted = onnx_runtime("AveragePool", [x], ceil_mode=int(ceil_mode), count_include_pad=int(include), **attributes)
    magnitude = evaluate(
        "AveragePool", [np.abs(x).astype(np.float64)], ceil_mode=ceil_mode, count_include_pad=include, **attributes
    )
    bound = 2 * accumulated(int(np.prod(window["kernel"])) + 1, EPSILON) * magnitude
    assert found.shape == wanted.shape
    assert (np.abs(found - wanted) <= bound).all()


@pytest.mark.parametrize("dtype", [DType.FP16, DType.BF16], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_halves_accumulate_in_fp32(dtype: DType, groups: int) -> None:
    """One rounding to the half type, on top of fp32 accumulation of exact products."""
    x, w = data((1, 4, 9, 9), 1).astype(dtype.numpy), data((8, 4 // groups, 3, 3), 2).astype(dtype.numpy)
    attributes = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "groups": groups}
    found = evaluate("Conv", [x, w], **attributes)
    exact = evaluate("Conv", [x.astype(np.float64), w.astype(np.float64)], **attributes)
    magnitude = evaluate("Conv", [np.abs(x).astype(np.float64), np.abs(w).astype(np.float64)], **attributes)
    assert found.dtype == dtype.numpy
    bound = dtype.epsilon * np.abs(exact) + (1 + dtype.epsilon) * accumulated(w[0].size, EPSILON) * magnitude
    assert (np.abs(found.astype(np.float64) - exact) <= bound).all()


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("dtype", [DType.FP32, DType.FP16, DType.BF16], ids=str)
def test_pooling_propagates_nan(op: str, dtype: DType) -> None:
    """Every window that holds the NaN is NaN, and no other."""
    x = np.zeros((1, 1, 5, 5), dtype.numpy)
    x[0, 0, 2, 2] = np.nan
    attributes = {"kernel_shape": (3, 3), "strides": (2, 2), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
    found = np.isnan(evaluate(op, [x], **attributes).astype(np.float32))[0, 0]
    assert found.tolist() == [[False, False, False], [False, True, False], [False, False, False]]


def test_max_pool_of_integers_ignores_padding() -> None:
    x = np.full((1, 1, 3, 3), -5, np.int8)
    attributes = {"kernel_shape": (3, 3), "strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
    assert (evaluate("MaxPool", [x], **attributes) == -5).all()


def test_convolution_in_blocks_equals_convolution_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from convc.ir.ops import convolution

    x, w = data((1, 3, 17, 13), 3), data((4, 3, 3, 3), 4)
    attributes = {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 2, 0, 1)}
    whole = evaluate("Conv", [x, w], **attributes)
    monkeypatch.setattr(convolution, "PATCH_BYTES", 1)
    np.testing.assert_allclose(evaluate("Conv", [x, w], **attributes), whole, rtol=0, atol=2 * 27 * EPSILON * 27)
