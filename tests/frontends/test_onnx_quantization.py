"""Quantised operators: the very integers of ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_support import agree, floats, model_of, one

from convc import errors
from convc.frontends.onnx import import_onnx
from convc.ir import DType

TYPES = {np.uint8: TensorProto.UINT8, np.int8: TensorProto.INT8}
stream = np.random.default_rng(9)


def f32(*values: float) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def drawn(dtype: type, *shape: int) -> np.ndarray:
    """All values of the type."""
    bounds = np.iinfo(dtype)
    return stream.integers(bounds.min, bounds.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.__name__)
def test_to_integers_and_back(dtype: type) -> None:
    x, zero = 3 * floats(2, 3, 4), dtype(5)
    for scale, zeros in ((f32(0.02), np.array(zero)), (f32(0.1, 0.02, 0.05), np.array([1, 2, 3], dtype))):
        one("QuantizeLinear", x, constants=[scale, zeros], exact=True, opset=13, result=TYPES[dtype], axis=1)
        one("DequantizeLinear", drawn(dtype, 2, 3, 4), constants=[scale, zeros], exact=True, opset=13, axis=1)
    halves = np.arange(-8, 9, dtype=np.float32) / 2
    one("QuantizeLinear", halves, constants=[f32(1), np.array(zero)], exact=True, opset=13, result=TYPES[dtype])


def test_blocks_have_scales_of_their_own() -> None:
    scales, zeros = f32(*[0.1, 0.02, 0.3, 0.05]).reshape(2, 2), np.array([[1, 2], [3, 4]], np.uint8)
    form = {"opset": 21, "axis": 1, "block_size": 3, "exact": True}
    one("DequantizeLinear", drawn(np.uint8, 2, 5), constants=[scales, zeros], **form)


@pytest.mark.parametrize(("given", "used"), [({}, np.float32), ({"precision": TensorProto.FLOAT16}, np.float16)])
def test_the_scale_says_in_which_type_is_divided(given: dict[str, int], used: type) -> None:
    """ONNX Runtime wants x and its scale of one type."""
    x, scale = np.linspace(0, 2, 1000).astype(np.float16), f32(0.0123456)
    wanted = np.clip(np.rint(x.astype(used) / scale.astype(used)), 0, 255).astype(np.uint8)
    zero = np.array(0, np.uint8)
    one("QuantizeLinear", x, constants=[scale, zero], opset=23, result=TensorProto.UINT8, expected=[wanted], **given)


def test_scales_from_the_data() -> None:
    for x in (3 * floats(3, 4), np.abs(floats(5)), -np.abs(floats(2, 2))):
        feeds = {"x": x}
        node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"])
        types = {"y": TensorProto.UINT8, "scale": TensorProto.FLOAT, "zero": TensorProto.UINT8}
        agree(model_of([node], feeds, results=list(types), types=types, opset=11), feeds, exact=True)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.__name__)
def test_convolution(dtype: type, groups: int) -> None:
    weights = drawn(np.int8, 4, 4 // groups, 3, 3)
    bias = stream.integers(-500, 500, 4).astype(np.int32)
    for scale, zero in ((f32(0.01), np.array(3, np.int8)), (f32(0.01, 0.02, 0.005, 0.003), np.zeros(4, np.int8))):
        out = [f32(0.3), np.array(7, dtype)]
        constants = [f32(0.02), np.array(5, dtype), weights, scale, zero, *out, bias]
        x = drawn(dtype, 1, 4, 6, 6)
        form = {"group": groups, "pads": [1] * 4, "opset": 10, "exact": True}
        one("QLinearConv", x, constants=constants, result=TYPES[dtype], **form)


def test_sums_of_products_are_exact() -> None:
    """32,768 products of 255·255 pass 2^24, behind which fp32 has gaps."""
    a, b = np.full((1, 32768), 255, np.uint8), np.full((32768, 1), 255, np.uint8)
    b[::7] = 254
    exact = np.array([[int((a.astype(np.int64) @ b.astype(np.int64)).item())]], np.int32)
    one("MatMulInteger", a, b, exact=True, opset=10, result=TensorProto.INT32, expected=[exact])


def test_products_of_matrices() -> None:
    a, b = drawn(np.uint8, 3, 5), drawn(np.int8, 5, 4)
    zeros = [np.array(5, np.uint8), np.array(2, np.int8)]
    one("MatMulInteger", a, b, constants=zeros, exact=True, opset=10, result=TensorProto.INT32)
    out = [f32(0.2), np.array(7, np.uint8)]
    constants = [f32(0.02), zeros[0], b, f32(0.03), np.array(0, np.int8), *out]
    one("QLinearMatMul", a, constants=constants, exact=True, opset=10, result=TensorProto.UINT8)
    weights = drawn(np.uint8, 2, 3, 2, 2)
    zero = np.array(9, np.uint8)
    one(
        "ConvInteger",
        drawn(np.uint8, 1, 3, 5, 5),
        weights,
        constants=[np.array(5, np.uint8), zero],
        exact=True,
        opset=10,
        result=TensorProto.INT32,
    )


def test_rows_of_a_product_have_scales_of_their_own() -> None:
    """With as many rows as columns, a scale laid along the wrong axis still broadcasts.

    ONNX Runtime takes one number alone for the left side and the result, so the expectation is ONNX's definition:
    y = saturate(round(Σ (a - za)(b - zb) · sa · sb / sy) + zy), with sa, sy one a row and sb one a column. The scales
    are powers of 2: their products and quotients are exact, whatever the order.
    """
    a, b = drawn(np.uint8, 3, 3), drawn(np.int8, 3, 3)
    sa, sb, sy = f32(2**-6, 2**-4, 2**-7), f32(2**-5, 2**-6, 2**-3), f32(2**-3, 2**-5, 2**-4)
    za, zb, zy = np.array([5, 100, 17], np.uint8), np.array([1, -3, 20], np.int8), np.array([7, 99, 128], np.uint8)
    total = (a.astype(int) - za[:, None]) @ (b.astype(int) - zb)
    real = total * sa[:, None].astype(float) * sb / sy[:, None]
    wanted = np.clip(np.rint(real) + zy[:, None], 0, 255).astype(np.uint8)
    assert len(np.unique(wanted)) > 3, "not all saturated"
    form = {"exact": True, "opset": 21, "result": TensorProto.UINT8, "expected": [wanted]}
    one("QLinearMatMul", a, constants=[sa, za, b, sb, zb, sy, zy], **form)
    spelt_out = [sa[:, None], za[:, None], b, sb[None], zb[None], sy[:, None], zy[:, None]]
    one("QLinearMatMul", a, constants=spelt_out, **form)


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int32, ml_dtypes.float8_e4m3fn], ids=lambda d: d.__name__)
def test_products_of_anything_but_bytes_are_refused(dtype: type, zero: int) -> None:
    """From opset 21 on QLinearMatMul has floats of 8 bits; the others are not ONNX."""
    x, scale, point = np.ones((2, 2), dtype), f32(1), np.array(zero, dtype)
    for op, constants in (
        ("MatMulInteger", [x, point, point]),
        ("QLinearMatMul", [scale, point, x, scale, point, scale, point]),
    ):
        names = [f"c{i}" for i in range(len(constants))]
        model = model_of(
            [helper.make_node(op, ["x", *names], ["y"])], {"x": x}, dict(zip(names, constants, strict=True)), opset=21
        )
        with pytest.raises(errors.UnsupportedModelError, match=f"{op} .*: on element type {DType.of(x.dtype)}"):
            import_onnx(model)


def test_zero_points_of_another_type_are_refused() -> None:
    """The difference of a signed and an unsigned byte is none of two bytes."""
    node = helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])
    x, zero = drawn(np.uint8, 2, 2), np.array(-3, np.int8)
    with pytest.raises(errors.ShapeError, match="MatMulInteger expects a zero point of type uint8, found int8"):
        import_onnx(model_of([node], {"x": x}, {"w": x, "zero": zero}))
