"""Elementwise operators in every opset form, against ONNX Runtime."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_support import agree, floats, i64, model_of, one, ops_of, whole

from convc import errors
from convc.frontends.onnx import import_onnx

UNARY = [
    ("Relu", 17, {}), ("Relu", 7, {}), ("LeakyRelu", 17, {}), ("LeakyRelu", 7, {"alpha": 0.2}), ("Elu", 17, {}),
    ("Elu", 17, {"alpha": 1.5}), ("Selu", 17, {}), ("Selu", 17, {"alpha": 2.0, "gamma": 0.5}), ("Celu", 17, {}),
    ("Celu", 17, {"alpha": 0.7}), ("Sigmoid", 17, {}), ("HardSigmoid", 17, {}), ("HardSwish", 17, {}), ("Tanh", 17, {}),
    ("HardSigmoid", 17, {"alpha": 1 / 6, "beta": 0.4}), ("Softplus", 17, {}), ("Softsign", 17, {}), ("Mish", 18, {}),
    ("Gelu", 20, {}), ("Gelu", 20, {"approximate": "tanh"}), ("Erf", 17, {}), ("Exp", 17, {}), ("Abs", 17, {}),
    ("Neg", 17, {}), ("Reciprocal", 17, {}), ("Floor", 17, {}), ("Ceil", 17, {}), ("Sign", 17, {}), ("Log", 17, {}),
    ("Sqrt", 17, {}), ("ThresholdedRelu", 17, {"alpha": 0.5}), ("Identity", 17, {}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "opset", "attributes"), UNARY, ids=str)
def test_unary(op: str, opset: int, attributes: dict[str, object]) -> None:
    x = floats(2, 3, 5)
    one(op, np.abs(x) + 0.1 if op in ("Log", "Sqrt", "Reciprocal") else x, opset=opset, **attributes)


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "HardSwish", "Exp"])
def test_unary_in_halves(op: str) -> None:
    one(op, floats(3, 7, dtype=np.float16), result=TensorProto.FLOAT16)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 1, 4)), ((2, 3), ())])
def test_arithmetic_broadcasts(op: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = (np.asarray(np.abs(floats(*shape)) + 0.5) for shape in shapes)
    one(op, a, b)
    one(op, a, constants=[b], opset=7)


@pytest.mark.parametrize("op", ["Add", "Mul", "Sub"])
def test_before_opset_7_broadcasting_is_asked_for(op: str) -> None:
    function = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract}[op]
    x, c = whole(2, 3, 4, 5), whole(3)
    one(op, x, constants=[c], opset=6, expected=[function(x, c.reshape(3, 1, 1))], broadcast=1, axis=1, exact=True)
    row = whole(5)
    one(op, x, constants=[row], opset=6, expected=[function(x, row)], broadcast=1, exact=True)
    plane = whole(3, 4)
    one(op, x, constants=[plane], opset=6, expected=[function(x, plane[..., None])], broadcast=1, axis=-3, exact=True)
    with pytest.raises(errors.ShapeError, match="no broadcast=1"):
        one(op, x, constants=[row], opset=6, expected=[x])


def test_integers_divide_towards_zero() -> None:
    a, b = np.array([7, -7, 7, -7], np.int64), np.array([2, 2, -2, -2], np.int64)
    one("Div", a, b, result=TensorProto.INT64, expected=[np.array([3, -3, -3, 3])])


def test_pow_of_another_type() -> None:
    one("Pow", np.abs(floats(3, 4)), constants=[np.array([2, 3, 0, 1], np.int64)])


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparisons(op: str) -> None:
    one(op, whole(3, 4), whole(4), result=TensorProto.BOOL)


def test_logic_and_where() -> None:
    a, b = whole(3, 4) > 0, whole(3, 1) > 0
    one("And", a, b, result=TensorProto.BOOL)
    one("Or", a, b, result=TensorProto.BOOL)
    one("Not", a, result=TensorProto.BOOL)
    one("Where", a, whole(3, 4), whole(4), exact=True)


@pytest.mark.parametrize("op", ["Sum", "Max", "Min", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_any_number_of_operands(op: str, count: int) -> None:
    arrays = [whole(2, 3) if i % 2 else whole(3) for i in range(count)]
    one(op, *arrays, opset=13, exact=op != "Mean")


@pytest.mark.parametrize("slope", [(3, 1, 1), (1, 3, 1, 1), (1,), ()], ids=str)
def test_prelu(slope: tuple[int, ...]) -> None:
    one("PRelu", floats(2, 3, 4, 4), constants=[np.asarray(floats(*slope))], opset=16, exact=True)


def test_prelu_before_opset_7_has_a_slope_per_channel() -> None:
    x, slope = floats(2, 3, 4, 4), floats(3)
    wanted = np.where(x < 0, x * slope.reshape(3, 1, 1), x)
    one("PRelu", x, constants=[slope], opset=6, expected=[wanted], exact=True)


LOW, HIGH = np.float32(-0.5), np.float32(0.75)


def test_clip() -> None:
    x = floats(4, 5)
    one("Clip", x, opset=6, min=-0.5, max=0.75, expected=[np.clip(x, LOW, HIGH)], exact=True)
    one("Clip", x, opset=8, min=-0.5, exact=True)
    one("Clip", x, constants=[np.asarray(LOW), np.asarray(HIGH)], exact=True)
    one("Clip", x, constants=[None, np.asarray(HIGH)], exact=True)
    one("Clip", x, constants=[np.asarray(LOW)], exact=True)
    one("Clip", x, exact=True)
    one("Clip", x, constants=[np.asarray(HIGH), np.asarray(LOW)], exact=True, expected=[np.full_like(x, LOW)])
    assert ops_of(one("Clip", x, np.asarray(LOW), np.asarray(HIGH), exact=True)) == ["Max", "Min"]
    one("Clip", whole(9, dtype=np.int64), constants=[i64(-2).reshape(()), i64(3).reshape(())], result=TensorProto.INT64)


def test_bounds_of_a_clip_share_its_type() -> None:
    with pytest.raises(errors.ShapeError, match="node 'the_node'"):
        one("Clip", floats(3), constants=[np.asarray(0.0, np.float64)], expected=[floats(3)])


def test_swish() -> None:
    x = floats(3, 4)
    sigmoid = lambda v: 1 / (1 + np.exp(-v.astype(np.float64)))  # noqa: E731
    assert ops_of(one("Swish", x, opset=24, expected=[(x * sigmoid(x)).astype(np.float32)])) == ["Silu"]
    one("Swish", x, opset=24, alpha=1.5, expected=[(x * sigmoid(1.5 * x)).astype(np.float32)])


@pytest.mark.parametrize("opset", [6, 9, 13])
def test_cast(opset: int) -> None:
    x = whole(3, 4, low=-9, high=9) / 4
    one("Cast", x, opset=opset, to=TensorProto.INT64, result=TensorProto.INT64, expected=[x.astype(np.int64)])
    one("Cast", x, opset=opset, to=TensorProto.BOOL, result=TensorProto.BOOL, expected=[x != 0])
    one("Cast", x, opset=opset, to=TensorProto.FLOAT16, result=TensorProto.FLOAT16, expected=[x.astype(np.float16)])
    halves = x.astype(ml_dtypes.bfloat16)
    one("Cast", x, opset=13, to=TensorProto.BFLOAT16, result=TensorProto.BFLOAT16, expected=[halves])


def test_cast_like() -> None:
    one("CastLike", floats(3), whole(2, dtype=np.float16), result=TensorProto.FLOAT16)


def test_cast_to_a_type_that_convc_lacks() -> None:
    with pytest.raises(errors.UnsupportedModelError, match=r"Cast .*STRING"):
        one("Cast", floats(3), to=TensorProto.STRING)


@pytest.mark.parametrize(("opset", "attributes"), [(7, {"ratio": 0.3}), (10, {}), (13, {"seed": 1})])
def test_dropout_is_nothing(opset: int, attributes: dict[str, object]) -> None:
    assert ops_of(one("Dropout", floats(2, 3), opset=opset, exact=True, **attributes)) == []


def test_dropout_mask_and_training() -> None:
    x = {"x": floats(2, 3)}
    node = helper.make_node("Dropout", ["x", "r", "t"], ["y", "mask"])
    rest = {"results": ["y", "mask"], "types": {"mask": TensorProto.BOOL}}
    quiet = {"r": np.asarray(0.5, np.float32), "t": np.asarray(False)}
    agree(model_of([node], x, quiet, **rest), x, exact=True)
    with pytest.raises(errors.UnsupportedModelError, match="training"):
        import_onnx(model_of([node], x, quiet | {"t": np.asarray(True)}, **rest))
