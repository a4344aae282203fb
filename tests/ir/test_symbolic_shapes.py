"""Type inference over symbolic dimensions, and references over arrays that hold them (shape arithmetic)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.ir import Dim, DType, Shape, TensorType, operator
from convc.ir.dims import substitute
from convc.ir.ops.windows import Axis

N, M, H = Dim.symbol("N"), Dim.symbol("M"), Dim.symbol("H")


def infer(op: str, shapes: list[Shape], dtype: DType = DType.FP32, **attributes: Any) -> Shape:
    definition = operator(op)
    types = definition.infer(definition.complete(attributes), [TensorType(dtype, shape) for shape in shapes])
    return types[0].shape


def evaluate(op: str, *arrays: Any, **attributes: Any) -> list:
    definition = operator(op)
    given = [array if isinstance(array, np.ndarray) else np.array(array, dtype=object) for array in arrays]
    return definition.evaluate(definition.complete(attributes), given)[0].tolist()


WINDOW = {"strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)}


def test_shapes_of_every_family() -> None:
    half = (H - 1) // 2 + 1
    assert infer("Conv", [(N, 4, H, 8), (6, 4, 3, 3)], **WINDOW) == (N, 6, half, 4)
    assert infer("MaxPool", [(N, 4, H, 8)], kernel_shape=(3, 3), **WINDOW) == (N, 4, half, 4)
    assert infer("Add", [(N, 1, 5), (4, 1)]) == (N, 4, 5)
    assert infer("Add", [(N, 5), (7, 5)]) == (7, 5)
    assert infer("MatMul", [(N, 4, 5), (5, 6)]) == (N, 4, 6)
    assert infer("MatMul", [(N, 5), (M, 7)]) == (N, 7)
    assert infer("Gemm", [(N, 5), (5, 6), (6,)]) == (N, 6)
    assert infer("Concat", [(N, 4), (N, 6), (M, 1)], axis=1) == (N, 11)
    assert infer("Concat", [(N, 4), (2 * N, 4)], axis=0) == (3 * N, 4)
    assert infer("Reshape", [(N, 4, 6)], shape=(N, 24)) == (N, 24)
    assert infer("Slice", [(N, 4)], starts=(0, 1), sizes=(N, 2), steps=(1, 1)) == (N, 2)
    assert infer("Expand", [(1, 4)], shape=(N, 4)) == (N, 4)
    assert infer("Pad", [(N, 4)], pads=(1, 0, 0, 2)) == (N + 1, 6)
    assert infer("ReduceMean", [(N, 4, H)], axes=(2,), keepdims=False) == (N, 4)


def test_multiply_adds_are_symbolic_too() -> None:
    conv = operator("Conv")
    types = [TensorType(DType.FP32, (N, 3, 8, 8)), TensorType(DType.FP32, (4, 3, 1, 1))]
    attributes = conv.complete({"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)})
    assert conv.macs(attributes, types, conv.infer(attributes, types)) == 768 * N
    gemm = operator("Gemm")
    transposed = gemm.complete({"trans_a": True})
    types = [TensorType(DType.FP32, (5, N)), TensorType(DType.FP32, (5, 7))]
    assert gemm.macs(transposed, types, gemm.infer(transposed, types)) == 35 * N


@given(
    *(st.integers(*limits) for limits in [(1, 40), (1, 5), (1, 5), (1, 3), (0, 4), (0, 4)]),
    st.booleans(),
)
def test_window_counts_as_defined(
    extent: int, kernel: int, stride: int, dilation: int, begin: int, end: int, ceil_mode: bool
) -> None:
    """By definition: windows that fit; in ceil mode also one that hangs over, if it starts before the end pad."""
    axis = Axis(extent, kernel, stride, dilation, begin, end, ceil_mode)
    if axis.padded < axis.span or max(begin, end) >= axis.span:
        return
    starts = range(0, axis.padded, stride)
    fitting = [start for start in starts if start + axis.span <= axis.padded]
    hanging = starts[len(fitting) : len(fitting) + 1] if (axis.padded - axis.span) % stride else []
    counted = len(fitting) + sum(start < extent + begin for start in hanging)
    symbolic = Axis(H, kernel, stride, dilation, begin, end, ceil_mode)
    assert axis.count == (counted if ceil_mode else len(fitting))
    assert substitute(symbolic.count, {"H": extent}) == axis.count


def test_references_compute_with_symbolic_dimensions() -> None:
    shape = [N, 3, H, 8]
    assert evaluate("Gather", shape, np.array([0, -1]), axis=0) == [N, 8]
    assert evaluate("Gather", shape, np.array(2), axis=0) == H
    assert evaluate("Gather", shape, [1, 0], axis=0) == [3, N]
    assert evaluate("Concat", [N], [-1], axis=0) == [N, -1]
    assert evaluate("Slice", shape, starts=(3,), sizes=(2,), steps=(-1,)) == [8, H]
    assert evaluate("Reshape", shape, shape=(2, 2)) == [[N, 3], [H, 8]]
    assert evaluate("Transpose", [[N, 1], [2, H]], perm=(1, 0)) == [[N, 2], [1, H]]
    assert evaluate("Expand", [N], shape=(2,)) == [N, N]
    assert evaluate("Add", shape, [1, 1, 1, 1]) == [N + 1, 4, H + 1, 9]
    assert evaluate("Sub", shape, np.array(1)) == [N - 1, 2, H - 1, 7]
    assert evaluate("Mul", shape, [2]) == [2 * N, 6, 2 * H, 16]
    assert evaluate("Neg", [N]) == [-N]
    assert evaluate("Pad", [N, 2], pads=(1, 0)) == [0, N, 2]
    assert evaluate("ReduceProd", [N, 3, H], axes=(0,), keepdims=False) == 3 * N * H
    assert evaluate("ReduceSum", [N, 3, H], axes=(0,)) == [N + 3 + H]
    assert evaluate("Equal", [N, 3, -1], np.array([-1])) == [False, False, True]
    assert evaluate("Where", np.array([True, False]), [N, 1], [2, H]) == [N, H]


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("Reshape", [(N, 4)], {"shape": (N, 5)}),
        ("Reshape", [(N, 4)], {"shape": (8 * N,)}),
        ("Expand", [(2 * N,)], {"shape": (N,)}),
        ("Concat", [(N, 4), (N + 1, 4)], {"axis": 1}),
        ("MatMul", [(2, N), (N + 3, 2)], {}),
    ],
)
def test_what_no_batch_can_satisfy_is_an_error(op: str, shapes: list, attributes: dict) -> None:
    from convc.errors import ShapeError

    with pytest.raises(ShapeError):
        infer(op, shapes, **attributes)
