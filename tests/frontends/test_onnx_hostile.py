"""Attribute values that ONNX does not have are refused with their name, as ONNX Runtime refuses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx_support import model_of, one, onnxruntime_outputs

from convc.errors import ConvcError, LimitError
from convc.frontends.onnx import import_onnx

IMAGE, SMALL = (1, 4, 4, 4), (1, 4, 2, 2)
FILTERS = (4, 4, 2, 2)
STRIDED = {"strides": [2, 2]}

CASES: list[tuple[str, list[tuple[int, ...]], dict[str, Any], str]] = [
    ("ConvTranspose", [SMALL, FILTERS], {"auto_pad": "nonsense"}, "'auto_pad' is 'nonsense'"),
    ("ConvTranspose", [SMALL, FILTERS], {"strides": [0, 1]}, "strides is 0"),
    ("ConvTranspose", [SMALL, FILTERS], {"output_shape": [4]}, "output_shape has 1 entries"),
    ("ConvTranspose", [SMALL, FILTERS], {"output_shape": [0, 4]}, "output_shape is 0"),
    ("ConvTranspose", [SMALL, FILTERS], {**STRIDED, "output_shape": [90, 4]}, "output_padding to be smaller than"),
    ("ConvTranspose", [SMALL, FILTERS], {**STRIDED, "output_padding": [2, 0]}, "output_padding to be smaller than"),
    ("ConvTranspose", [SMALL, FILTERS], {"output_padding": [-1, 0], "output_shape": [3, 3]}, "output_padding is -1"),
    ("DeformConv", [IMAGE, FILTERS, (1, 8, 3, 3)], {"kernel_shape": [3, 3]}, "'kernel_shape' is .3, 3., but"),
    ("DeformConv", [IMAGE, FILTERS, (1, 8, 4, 3)], {}, "height of its offsets to be 3, found 4"),
    ("DepthToSpace", [IMAGE], {"blocksize": 2, "mode": "nonsense"}, "mode to be one of DCR, CRD, found 'nonsense'"),
    ("LRN", [IMAGE], {"size": 3, "alpha": float("nan")}, "alpha to be a finite number"),
    ("RoiAlign", [IMAGE, (1, 4)], {"sampling_ratio": -1}, "sampling_ratio to be an integer >= 0"),
    ("NonMaxSuppression", [(1, 3, 4), (1, 1, 3)], {"center_point_box": 2}, "center_point_box to be 0 or 1, found 2"),
    ("MaxPool", [IMAGE], {"kernel_shape": [2]}, "kernel_shape has 1 entries"),
]
READ_DIFFERENTLY = [
    ("ArgMax", {"keepdims": 2}),
    ("ReduceSum", {"keepdims": -1}),
    ("ReduceMax", {"noop_with_empty_axes": 2}),
    ("CumSum", {"reverse": 2}),
    ("GridSample", {"align_corners": 3}),
]
"""Numbers for a truth value of which implementations make one thing or the other."""


def one_node(op: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]) -> tuple[Any, dict[str, np.ndarray]]:
    feeds = {f"x{i}": np.ones(shape, np.float32) for i, shape in enumerate(shapes)}
    constants = {"images": np.zeros(1, np.int64)} if op == "RoiAlign" else {}
    constants |= {"axis": np.array(1)} if op == "CumSum" else {}
    node = helper.make_node(op, [*feeds, *constants], ["y"], name="the_node", **attributes)
    return model_of([node], feeds, constants, opset=20), feeds


@pytest.mark.parametrize(("op", "shapes", "attributes", "message"), CASES)
def test_refused_by_name(op: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any], message: str) -> None:
    model, feeds = one_node(op, shapes, attributes)
    with pytest.raises(ConvcError, match=message) as caught:
        import_onnx(model)
    assert caught.value.node == "the_node"
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        onnxruntime_outputs(model, feeds)


@pytest.mark.parametrize(("op", "attributes"), READ_DIFFERENTLY)
def test_truth_values_are_0_or_1(op: str, attributes: dict[str, Any]) -> None:
    shapes = [IMAGE, (1, 2, 2, 2)] if op == "GridSample" else [IMAGE]
    [(name, value)] = attributes.items()
    with pytest.raises(ConvcError, match=f"attribute {name} to be 0 or 1, found {value}"):
        import_onnx(one_node(op, shapes, attributes)[0])


WIDE = (60_000, 60_000)
HUGE: list[tuple[str, tuple[int, ...], list[np.ndarray], dict[str, Any]]] = [
    ("EyeLike", WIDE, [], {}),
    ("Trilu", WIDE, [], {}),
    ("ReverseSequence", WIDE, [np.ones(WIDE[1], np.int64)], {}),
    ("OneHot", (2,), [np.array(1 << 40), np.array([0, 1])], {}),
    ("AffineGrid", (1, 2, 3), [np.array([1, 1, *WIDE])], {}),
    ("Col2Im", (1, 9_000_000, 1), [np.array([3000, 3000]), np.array([3000, 3000])], {}),
    ("LpPool", (1, 4, 9, 9), [], {"kernel_shape": WIDE}),
    ("SplitToSequence", (1 << 24,), [], {}),
]


@pytest.mark.parametrize(("op", "shape", "constants", "attributes"), HUGE, ids=lambda value: str(value)[:20])
def test_what_importing_would_make_has_limits(
    op: str, shape: tuple[int, ...], constants: list[np.ndarray], attributes: dict[str, Any]
) -> None:
    """Shapes are declared in a few bytes; masks, grids and lists that follow from them are arrays."""
    dtype = np.uint8 if shape == WIDE else np.int64 if op == "OneHot" else np.float32
    known = {f"c{i}": array for i, array in enumerate(constants)}
    node = helper.make_node(op, ["x", *known], ["y"], name="the_node", **attributes)
    model = model_of([node], {"x": np.empty(0, dtype)}, known, opset=20, shapes={"x": shape})
    with pytest.raises(LimitError) as caught:
        import_onnx(model)
    assert caught.value.node == "the_node"


def test_functions_of_one_number() -> None:
    """A tensor of rank 0 is a tensor."""
    x = np.array(0.5, np.float32)
    for op in ("Erf", "Gelu"):
        one(op, x, opset=20)
