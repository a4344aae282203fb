"""Every misfit is a ShapeError that names the operator and what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from convc.errors import ShapeError
from convc.ir import Dim, DType, TensorType, operator

X = (1, 4, 8, 8)
CONV = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "groups": 1}
POOL = {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
W = (6, 4, 3, 3)
CONV_ALONE = {name: value for name, value in CONV.items() if name != "groups"}
TRANSPOSED = {**CONV_ALONE, "output_padding": (0, 0)}
DEFORMED = [TensorType(DType.FP32, shape) for shape in (X, W, (1, 18, 6, 6))]
NAN = float("nan")
REGION = {"output_height": 2, "output_width": 2}
KEPT = {"count": Dim.symbol("count"), "most": 3}


def t(*shape: int, dtype: DType = DType.FP32) -> TensorType:
    return TensorType(dtype, shape)


def integer(*shape: int) -> TensorType:
    return t(*shape, dtype=DType.INT64)


def boolean(*shape: int) -> TensorType:
    return t(*shape, dtype=DType.BOOL)


CASES: list[tuple[str, list[TensorType], dict[str, Any], str]] = [
    # convolution
    ("Conv", [t(*X)], CONV, r"2 to 3 input\(s\), found 1"),
    ("Conv", [t(*X), t(*W, dtype=DType.FP16)], CONV, "one element type, found fp32, fp16"),
    ("Conv", [integer(*X), integer(*W)], CONV, "found int64"),
    ("Conv", [t(1, 4), t(6, 4)], CONV, "rank 3 to 5"),
    ("Conv", [t(1, 4, 2, 2, 2, 2), t(6, 4, 1, 1, 1, 1)], CONV, "rank 3 to 5"),
    ("Conv", [t(*X), t(6, 4, 3)], CONV, "weights of rank 4"),
    ("Conv", [t(*X), t(6, 3, 3, 3)], CONV, "to be 4, found 3"),
    ("Conv", [t(*X), t(6, 4, 0, 3)], CONV, "at least 1"),
    ("Conv", [t(*X), t(*W), t(5)], CONV, "bias length .* to be 6, found 5"),
    ("Conv", [t(*X), t(*W), t(6, 1)], CONV, "a bias of rank 1"),
    ("Conv", [t(*X), t(*W), integer(6)], CONV, "a bias of type"),
    ("Conv", [t(*X), t(6, 1, 3, 3)], {**CONV, "groups": 3}, "groups=3 to divide the input channels, found 4"),
    ("Conv", [t(*X), t(6, 1, 3, 3)], {**CONV, "groups": 4}, "groups=4 to divide the filters, found 6"),
    ("Conv", [t(*X), t(*W)], {**CONV, "groups": 0}, "groups to be an integer >= 1, found 0"),
    ("Conv", [t(*X), t(*W)], {**CONV, "strides": (0, 1)}, "strides to be 2 integers >= 1"),
    ("Conv", [t(*X), t(*W)], {**CONV, "strides": (1,)}, "strides to be 2 integers"),
    ("Conv", [t(*X), t(*W)], {**CONV, "strides": (1.0, 1)}, "strides to be 2 integers"),
    ("Conv", [t(*X), t(*W)], {**CONV, "dilations": (1, -1)}, "dilations"),
    ("Conv", [t(*X), t(*W)], {**CONV, "pads": (0, 0, -1, 0)}, "pads to be 4 integers >= 0"),
    ("Conv", [t(*X), t(6, 4, 9, 3)], CONV, "window of 9 .* over 8 on spatial axis 0"),
    ("Conv", [t(*X), t(*W)], {**CONV, "dilations": (1, 4)}, "window of 9 .* on spatial axis 1"),
    # pooling
    ("MaxPool", [t(1, 4)], POOL, "rank 3 to 5"),
    ("MaxPool", [boolean(*X)], POOL, "found bool"),
    ("AveragePool", [integer(*X)], POOL, "found int64"),
    ("MaxPool", [t(*X), t(*X)], POOL, "1 input"),
    ("MaxPool", [t(*X)], {**POOL, "kernel_shape": (3, 0)}, "kernel_shape"),
    ("MaxPool", [t(*X)], {**POOL, "pads": (3, 0, 0, 0)}, "smaller than the window"),
    ("MaxPool", [t(*X)], {**POOL, "ceil_mode": 1}, "ceil_mode to be True or False"),
    ("AveragePool", [t(*X)], {**POOL, "count_include_pad": 1}, "count_include_pad"),
    ("AveragePool", [t(*X)], {**POOL, "kernel_shape": (9, 9)}, "window of 9"),
    # products
    ("ConvInteger", [t(*X), t(*W)], CONV, "int8, uint8 or int16, found fp32"),
    ("ConvInteger", [t(*X, dtype=DType.INT8), t(*W, dtype=DType.INT8), t(6)], CONV, "a bias .* int32, found fp32"),
    ("ConvInteger", [t(*X, dtype=DType.INT8), t(6, 3, 3, 3, dtype=DType.INT8)], CONV, "to be 4, found 3"),
    ("MatMulInteger", [t(2, 3, dtype=DType.INT8), integer(3, 4)], {}, "int8, uint8 or int16, found int64"),
    ("MatMulInteger", [t(2, 3, dtype=DType.INT8), t(4, 5, dtype=DType.UINT8)], {}, "to be 3, found 4"),
    ("MatMul", [t(2, 3), t(4, 5)], {}, "to be 3, found 4"),
    ("MatMul", [t(), t(4, 5)], {}, "rank 1 or more"),
    ("MatMul", [t(2, 4, 3), t(3, 3, 5)], {}, r"broadcast together, found \[2\] and \[3\]"),
    ("MatMul", [boolean(2, 2), boolean(2, 2)], {}, "a number"),
    ("Gemm", [t(2, 3), t(4, 5)], {}, "to be 3, found 4"),
    ("Gemm", [t(2, 3), t(4, 3), t(5)], {"trans_b": True}, "broadcast"),
    ("Gemm", [t(2, 3), t(3, 4), t(3, 2, 4)], {}, "broadcast"),
    ("Gemm", [t(1, 3), t(3, 4), t(2, 4)], {}, "broadcast"),
    ("Gemm", [t(1, 2, 3), t(3, 4)], {}, "first input of rank 2"),
    ("Gemm", [t(2, 3), t(3)], {}, "second input of rank 2"),
    ("Gemm", [t(2, 3), t(3, 4), integer(4)], {}, "one element type"),
    ("Gemm", [t(2, 3), t(3, 4)], {"alpha": "1"}, "alpha to be a number"),
    ("Gemm", [t(2, 3), t(3, 4)], {"trans_a": 1}, "trans_a to be True or False"),
    # normalisation
    ("BatchNormalization", [t(*X)] + [t(4)] * 3, {}, "5 input"),
    ("BatchNormalization", [t(*X)] + [t(4)] * 3 + [t(5)], {}, "variance .* to be 4, found 5"),
    ("BatchNormalization", [t(4)] * 5, {}, "rank 2 or more"),
    ("BatchNormalization", [t(*X), t(4, 1)] + [t(4)] * 3, {}, "scale of rank 1"),
    ("BatchNormalization", [integer(*X)] + [t(4)] * 4, {}, "found int64"),
    ("BatchNormalization", [t(*X)] + [t(4)] * 4, {"epsilon": None}, "epsilon to be a number"),
    ("LRN", [t(*X)], {"size": 0}, "size to be an integer >= 1"),
    ("LRN", [t(*X)], {"size": 3, "alpha": "a"}, "alpha"),
    ("LRN", [t(*X)], {"size": 3, "beta": NAN}, "beta to be a finite number above 0, found nan"),
    ("LRN", [t(*X)], {"size": 3, "alpha": 0.0}, "alpha to be a finite number above 0, found 0.0"),
    ("LRN", [t(4)], {"size": 3}, "rank 2 or more"),
    ("LRN", [integer(*X)], {"size": 3}, "found int64"),
    ("Softmax", [t(2, 3)], {"axis": 2}, r"axis to be in 0..1, found 2"),
    ("Softmax", [t(2, 3)], {"axis": -1}, "axis"),
    ("LogSoftmax", [integer(2, 3)], {"axis": 1}, "found int64"),
    # reductions
    ("ReduceSum", [t(2, 3)], {"axes": (2,)}, "distinct axes in 0..1"),
    ("ReduceSum", [t(2, 3)], {"axes": (1, 0)}, "in order"),
    ("ReduceSum", [t(2, 3)], {"axes": (0, 0)}, "distinct"),
    ("ReduceSum", [t(2, 3)], {"axes": [0]}, "axes"),
    ("ReduceSum", [boolean(2)], {"axes": (0,)}, "found bool"),
    ("ReduceMean", [t(2, 3)], {"axes": (0,), "keepdims": 1}, "keepdims"),
    ("ReduceMean", [t(2, 3), t(2)], {"axes": (0,)}, "1 input"),
    # elementwise
    ("Add", [t(2, 3), t(2, 4)], {}, r"found \[2, 3\] and \[2, 4\]"),
    ("Add", [t(2, 3)], {}, "2 input"),
    ("Add", [t(2), integer(2)], {}, "one element type, found fp32, int64"),
    ("Add", [boolean(2), boolean(2)], {}, "found bool"),
    ("Exp", [integer(2)], {}, "found int64"),
    ("And", [t(2), t(2)], {}, "of type bool, found fp32"),
    ("Gelu", [t(2)], {"approximate": "erf"}, "one of none, tanh, found 'erf'"),
    ("LeakyRelu", [t(2)], {"alpha": "0.1"}, "alpha to be a number"),
    ("Celu", [t(2)], {"alpha": 0.0}, "other than 0"),
    ("Pow", [t(2), boolean(2)], {}, "found bool"),
    ("Pow", [t(2), t(3)], {}, "broadcast"),
    ("Cast", [t(2)], {"dtype": "fp16"}, "dtype to be an element type, found 'fp16'"),
    ("Where", [t(2), t(2), t(2)], {}, "condition of type bool"),
    ("Where", [boolean(2), t(2), integer(2)], {}, "one element type"),
    ("Where", [boolean(2), t(3), t(3)], {}, "broadcast"),
    # views
    ("Reshape", [t(2, 3)], {"shape": (7,)}, r"found \[2, 3\] into \[7\]"),
    ("Reshape", [t(2, 3)], {"shape": (-1,)}, "dimensions >= 0"),
    ("Reshape", [t(2, 3)], {"shape": [6]}, "dimensions"),
    ("Transpose", [t(2, 3)], {"perm": (0, 0)}, "a permutation of 0..1"),
    ("Transpose", [t(2, 3)], {"perm": (0,)}, "a permutation"),
    ("Slice", [t(5)], {"starts": (0,), "sizes": (2,), "steps": (0,)}, "steps to be other than 0"),
    ("Slice", [t(5)], {"starts": (3,), "sizes": (3,), "steps": (1,)}, "start 3, size 3, step 1"),
    ("Slice", [t(5)], {"starts": (1,), "sizes": (3,), "steps": (-1,)}, "indices in 0..5-1 on axis 0"),
    ("Slice", [t(5)], {"starts": (5,), "sizes": (1,), "steps": (1,)}, "start 5"),
    ("Slice", [t(5)], {"starts": (-1,), "sizes": (1,), "steps": (1,)}, "starts to be 1 dimensions >= 0"),
    ("Slice", [t(5)], {"starts": (0,), "sizes": (1, 1), "steps": (1,)}, "sizes"),
    ("Expand", [t(2, 3)], {"shape": (2, 4)}, "broadcast"),
    ("Expand", [t(2, 3)], {"shape": (3,)}, "broadcast"),
    ("Expand", [t(2)], {"shape": (1,)}, "broadcast"),
    # movement
    ("Concat", [], {"axis": 0}, "1 or more input"),
    ("Concat", [t(2, 3), t(2, 3)], {"axis": 2}, "axis"),
    ("Concat", [t(2, 3), t(3, 3)], {"axis": 1}, "dimension 0 of every input to be 2, found 3"),
    ("Concat", [t(2, 3), t(2)], {"axis": 0}, "inputs of rank 2"),
    ("Concat", [t(2), integer(2)], {"axis": 0}, "one element type"),
    ("Pad", [t(2, 3)], {"pads": (1, 1)}, "pads to be 4 integers"),
    ("Pad", [t(2)], {"pads": (-1, 0)}, "pads"),
    ("Pad", [t(2)], {"pads": (1, 1), "mode": "mirror"}, "one of constant, reflect, edge, wrap"),
    ("Pad", [t(2)], {"pads": (2, 0), "mode": "reflect"}, ">= 3, found 2"),
    ("Pad", [t(0)], {"pads": (1, 0), "mode": "edge"}, ">= 1, found 0"),
    ("Pad", [t(2)], {"pads": (1, 1), "value": "0"}, "value to be a number"),
    ("Gather", [t(2, 3), t(2)], {"axis": 0}, "indices of type int32 or int64"),
    ("Gather", [t(2, 3), integer(2)], {"axis": 2}, "axis"),
    ("Gather", [t(2, 3)], {"axis": 0}, "2 input"),
    ("Output", [], {"name": "y"}, "1 input"),
    # transposed convolution
    ("ConvTranspose", [t(*X), t(4, 3, 2)], TRANSPOSED, "weights of rank 4"),
    ("ConvTranspose", [t(*X), t(3, 2, 2, 2)], TRANSPOSED, "to be 4, found 3"),
    ("ConvTranspose", [t(*X), t(4, 2, 2, 2)], {**TRANSPOSED, "groups": 3}, "groups=3 to divide the input channels"),
    ("ConvTranspose", [t(*X), t(4, 2, 2, 2), t(3)], {**TRANSPOSED, "groups": 2}, "bias length .* to be 4, found 3"),
    ("ConvTranspose", [t(*X), t(4, 2, 2, 2)], {**TRANSPOSED, "output_padding": (0, -1)}, "output_padding"),
    ("ConvTranspose", [t(*X), t(4, 2, 1, 1)], {**TRANSPOSED, "pads": (5, 0, 5, 0)}, "output axis 2 .*>= 0, found -2"),
    # resampling
    ("Resize", [boolean(2, 3)], {"sizes": (2, 4)}, "found bool"),
    ("Resize", [t(2, 3)], {"sizes": (2,)}, "sizes to be 2 dimensions"),
    ("Resize", [t(2, 3)], {"sizes": (2, 4), "scales": (2.0,)}, "scales to be 2 numbers"),
    ("Resize", [t(2, 3)], {"sizes": (2, 4), "mode": "area"}, "one of nearest, linear, cubic"),
    ("Resize", [t(2, 3)], {"sizes": (2, 4), "transformation": "tf"}, "one of half_pixel"),
    ("Resize", [t(2, 0)], {"sizes": (2, 4)}, ">= 1, found 0"),
    ("Resize", [t(2, 3)], {"sizes": (2, 0)}, "dimension 1 of sizes to be >= 1, found 0"),
    ("Resize", [t(2, 3)], {"sizes": (2, 0), "scales": (1.0, 0.0)}, "scales to be numbers above 0"),
    ("Resize", [t(2, 3)], {"sizes": (2, 3), "scales": (1.0, float("nan"))}, "scales to be numbers above 0"),
    ("Resize", [t(2)], {"sizes": (2,), "crop": (0.0, NAN)}, "crop to be finite numbers"),
    ("GridSample", [t(*X), t(1, 2, 2, 3)], {}, "last dimension of its grid to be 2, found 3"),
    ("GridSample", [t(*X), t(2, 2, 2, 2)], {}, "batch of its grid to be 1, found 2"),
    ("RoiAlign", [t(*X), t(3, 5), integer(3)], REGION, "to be 4, found 5"),
    ("RoiAlign", [t(*X), t(3, 4), t(3)], REGION, "batch indices of type"),
    ("DeformConv", [t(*X), t(6, 4, 3, 3), t(1, 17, 6, 6)], CONV_ALONE, "channels of its offsets to be 18, found 17"),
    ("GridSample", [t(1, 4, 8, 0), t(1, 2, 2, 2)], {}, "dimension 3 of its input to be >= 1, found 0"),
    ("RoiAlign", [t(*X), t(3, 4), integer(2)], REGION, "batch indices .one per region. to be 3, found 2"),
    ("RoiAlign", [t(*X), t(3, 4), integer(3)], {**REGION, "spatial_scale": NAN}, "a finite number, found nan"),
    (
        "RoiAlign",
        [t(*X), t(3, 4), integer(3)],
        {**REGION, "sampling_ratio": -1},
        "sampling_ratio to be .* >= 0",
    ),
    ("DeformConv", [*DEFORMED, t(6, 1)], CONV_ALONE, "a bias of rank 1"),
    ("DeformConv", [*DEFORMED, t(5)], CONV_ALONE, "bias length .* to be 6, found 5"),
    ("DeformConv", [*DEFORMED[:2], t(2, 18, 6, 6)], CONV_ALONE, "batch of its offsets to be 1, found 2"),
    ("DeformConv", [*DEFORMED[:2], t(1, 18, 5, 6)], CONV_ALONE, "height of its offsets to be 6, found 5"),
    ("DeformConv", [*DEFORMED, t(6), t(2, 9, 6, 6)], CONV_ALONE, "batch of its mask to be 1, found 2"),
    ("DeformConv", [*DEFORMED, t(6), t(1, 8, 6, 6)], CONV_ALONE, "channels of its mask to be 9, found 8"),
    ("DeformConv", [*DEFORMED, t(6), t(1, 9, 6, 7)], CONV_ALONE, "width of its mask to be 6, found 7"),
    ("DeformConv", DEFORMED, {**CONV_ALONE, "offset_groups": 3}, "offset_groups=3 to divide the input channels"),
    # picking
    ("GatherElements", [t(2, 3), integer(2)], {"axis": 0}, "indices of rank 2"),
    ("GatherElements", [t(2, 3), t(2, 3)], {"axis": 0}, "indices of type int32 or int64"),
    ("ScatterElements", [t(2, 3), integer(1, 3), t(1, 2)], {"axis": 0}, "dimension 1 of the updates to be 3, found 2"),
    ("ScatterElements", [t(2, 3), integer(1, 3), t(1, 3)], {"axis": 0, "reduction": "or"}, "one of none, add"),
    ("GatherND", [t(2, 3), integer(4, 3)], {}, r"in 1..2, found 3"),
    ("GatherND", [t(2, 3), integer(4, 1)], {"batch_dims": 1}, "dimension 0 of the indices to be 2, found 4"),
    ("ScatterND", [t(2, 3), integer(4, 1), t(4, 2)], {}, "dimension 1 of the updates to be 3, found 2"),
    ("ScatterND", [t(2, 3), integer(4, 1), integer(4, 3)], {}, "one element type"),
    # order
    ("ArgMax", [boolean(2)], {"axis": 0}, "found bool"),
    ("ArgMin", [t(2, 0)], {"axis": 1}, ">= 1, found 0"),
    ("TopK", [t(2, 3)], {"axis": 1, "k": 4}, "at most 3, the size of axis 1, found 4"),
    ("CumSum", [t(2, 3)], {"axis": 2}, "axis"),
    # detection and algebra
    ("NonMaxSuppression", [t(1, 5, 3), t(1, 2, 5)], KEPT, "last dimension of its boxes to be 4, found 3"),
    ("NonMaxSuppression", [t(1, 5, 4), t(1, 2, 6)], KEPT, "boxes of its scores to be 5, found 6"),
    ("NonMaxSuppression", [t(1, 5, 4), t(1, 2, 5)], {**KEPT, "overlap": 1.5}, r"overlap to be in 0..1, found 1.5"),
    ("NonMaxSuppression", [t(1, 5, 4), t(1, 2, 5)], {**KEPT, "least_score": NAN}, "least_score .* found nan"),
    ("Einsum", [t(2, 3)], {"equation": 1}, "equation to be text"),
    ("Einsum", [t(2, 3)], {"equation": "ij,jk->ik"}, "with 1 operands"),
    ("Einsum", [t(2, 3), t(4, 5)], {"equation": "ij,jk->ik"}, "axis j to be 3, found 4"),
    ("Einsum", [t(2, 3)], {"equation": "ij->ik"}, "labels of the operands"),
    ("Einsum", [t(2, 3)], {"equation": "...i->i"}, "operands' ellipsis in the result"),
    ("Einsum", [t(2, 3)], {"equation": "ijk->i"}, "2 axes for an operand of rank 2"),
    ("Det", [t(2, 3)], {}, "to be 2, found 3"),
    ("BitCast", [t(2)], {"dtype": DType.INT64}, "of 4 bytes, found int64"),
    ("BitShift", [integer(2), integer(2)], {"direction": "UP"}, "one of LEFT, RIGHT"),
    ("BitwiseAnd", [t(2), t(2)], {}, "an integer, found fp32"),
]


@pytest.mark.parametrize(("op", "types", "attributes", "message"), CASES)
def test_misfits(op: str, types: list[TensorType], attributes: dict[str, Any], message: str) -> None:
    definition = operator(op)
    with pytest.raises(ShapeError, match=message) as caught:
        definition.infer(definition.complete(attributes), types)
    assert str(caught.value).startswith(f"{op} expects ")


def test_gather_checks_its_indices() -> None:
    for index in (3, -4):
        with pytest.raises(ShapeError, match=rf"indices in -3..2 on axis 0, found {index}"):
            operator("Gather").evaluate({"axis": 0}, [np.arange(3), np.array([0, index])])


def test_zero_sized_tensors_are_types_too() -> None:
    conv = operator("Conv")
    assert conv.infer(CONV, [t(0, 4, 8, 8), t(*W)])[0].shape == (0, 6, 6, 6)
    empty = np.zeros((0, 4, 8, 8), np.float32)
    assert conv.evaluate(CONV, [empty, np.zeros(W, np.float32)])[0].shape == (0, 6, 6, 6)
    depthwise = np.zeros((8, 1, 3, 3), np.float32)
    assert conv.evaluate({**CONV, "groups": 4}, [empty, depthwise])[0].shape == (0, 8, 6, 6)
    nothing = [np.zeros((1, 0, 8, 8), np.float32), np.zeros((6, 0, 3, 3), np.float32), np.ones(6, np.float32)]
    assert (conv.evaluate(CONV, nothing)[0] == 1).all()
    assert conv.evaluate(CONV, [np.zeros(X, np.float32), np.zeros((0, 4, 3, 3), np.float32)])[0].shape == (1, 0, 6, 6)
