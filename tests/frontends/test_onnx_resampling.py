"""Resizing, transposed convolutions and sampling in every form, against ONNX Runtime."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from onnx_support import floats, i64, one, ops_of

from convc import errors

IMAGE = floats(1, 2, 7, 5)
TRANSFORMATIONS = ("half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("scale", [(2, 2), (3, 1.5), (0.5, 0.6), (1.3, 0.37), (1, 4)], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_by_scales_and_sizes(mode: str, scale: tuple[float, float]) -> None:
    sizes = i64(1, 2, max(1, int(7 * scale[0])), max(1, int(5 * scale[1])))
    for transformation, rounding in product(TRANSFORMATIONS, ROUNDINGS if mode == "nearest" else ROUNDINGS[:1]):
        if transformation == "half_pixel_symmetric" and rounding in ("floor", "ceil"):
            continue  # the middle lies on an element exactly, and the last bit of fp32 decides between its neighbours
        form = {"mode": mode, "coordinate_transformation_mode": transformation, "nearest_mode": rounding}
        one("Resize", IMAGE, constants=[None, f32(1, 1, *scale)], opset=19, **form)
        one("Resize", IMAGE, constants=[None, None, sizes], opset=19, **form)


@pytest.mark.parametrize("opset", [10, 11, 13, 19])
def test_sizes_are_scaled_in_fp32(opset: int) -> None:
    unused = [f32()] * (opset == 11) or [None] * (opset > 11)
    graph = one("Resize", floats(1, 1, 10, 10), constants=[*unused, f32(1, 1, 0.7, 1.3)], opset=opset, mode="linear")
    assert graph.graph_outputs[0].outputs[0].shape == (1, 1, 7, 13)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_with_antialiasing_and_borders_left_out(mode: str) -> None:
    for scale in ((0.5, 0.6), (0.4, 2.0)):
        one("Resize", IMAGE, constants=[None, f32(1, 1, *scale)], opset=18, mode=mode, antialias=1)
    if mode == "cubic":
        one("Resize", IMAGE, constants=[None, f32(1, 1, 0.5, 2)], opset=18, mode=mode, exclude_outside=1)


def test_resize_of_some_axes_keeps_the_aspect_ratio() -> None:
    for policy in ("stretch", "not_larger", "not_smaller"):
        form: dict[str, Any] = {"axes": [3, 2], "keep_aspect_ratio_policy": policy, "mode": "linear"}
        one("Resize", IMAGE, constants=[None, None, i64(9, 9)], opset=19, **form)


def test_crops_fill_what_lies_outside() -> None:
    form = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 9.0}
    roi = f32(0, 0, 0.2, -0.3, 1, 1, 0.7, 1.2)
    one("Resize", IMAGE, constants=[roi, None, i64(1, 2, 6, 8)], opset=17, **form)


def test_old_forms() -> None:
    one("Resize", IMAGE, constants=[f32(1, 1, 2, 1.5)], opset=10, mode="linear")
    for scales in ((0.6, 0.7), (1.7, 2.3), (0.6, 2.3), (1, 1)):
        one("Resize", IMAGE, constants=[f32(1, 1, *scales)], opset=10)
    one("Upsample", IMAGE, constants=[f32(1, 1, 2, 3)], opset=9)
    one("Upsample", IMAGE, opset=7, scales=[1.0, 1.0, 2.0, 2.0], mode="linear")
    repeated = IMAGE.repeat(2, axis=2).repeat(3, axis=3)
    one("Upsample", IMAGE, opset=6, height_scale=2.0, width_scale=3.0, expected=[repeated])


def test_whole_factors_to_the_nearest_are_views() -> None:
    """Which kernels read through."""
    views = {"Reshape", "Expand"}
    form = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    assert set(ops_of(one("Resize", IMAGE, constants=[None, f32(1, 1, 2, 3)], exact=True, **form))) == views
    assert set(ops_of(one("Resize", IMAGE, constants=[None, None, i64(1, 2, 14, 5)], exact=True))) == views
    assert (
        set(ops_of(one("Upsample", IMAGE, constants=[f32(1, 1, 2, 2)], opset=9, shapes=[["N", 2, "H", "W"]]))) == views
    )
    assert ops_of(one("Resize", IMAGE, constants=[None, f32(1, 1, 1.5, 2)], exact=True, **form)) == ["Resize"]


WINDOWS: list[dict[str, Any]] = [
    {"strides": [2, 3], "pads": [1, 0, 0, 1], "dilations": [1, 2]},
    {"strides": [3, 2], "output_padding": [2, 1], "group": 2},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
    {"strides": [4, 4], "auto_pad": "SAME_UPPER"},
    {"auto_pad": "VALID", "dilations": [2, 1]},
    {"strides": [2, 2], "output_shape": [11, 9]},
    {"strides": [3, 2], "output_shape": [12, 7], "auto_pad": "SAME_UPPER"},
    {"strides": [2, 2], "output_shape": [12, 7], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("form", WINDOWS, ids=str)
def test_transposed_convolution(form: dict[str, Any]) -> None:
    filters = 3 * form.get("group", 1)
    one("ConvTranspose", floats(2, 4, 5, 4), constants=[floats(4, 3, 3, 2), floats(filters)], opset=11, **form)


@pytest.mark.parametrize("rank", [1, 3])
def test_transposed_convolution_of_other_ranks(rank: int) -> None:
    one("ConvTranspose", floats(2, 4, *[4] * rank), constants=[floats(4, 2, *[3] * rank)], opset=11, strides=[2] * rank)


def test_transposed_convolution_of_a_symbolic_batch() -> None:
    graph = one("ConvTranspose", floats(3, 4, 5, 4), constants=[floats(4, 3, 2, 2)], shapes=[["N", 4, 5, 4]])
    assert str(graph.graph_outputs[0].outputs[0].shape[0]) == "N"


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grids(mode: str, padding: str) -> None:
    """Far outside too, where reflections turn several times."""
    image = floats(2, 3, 5, 6)
    grid = np.random.default_rng(5).uniform(-2.7, 2.7, (2, 4, 7, 2)).astype(np.float32)
    for aligned in (0, 1):
        one("GridSample", image, grid, opset=16, mode=mode, padding_mode=padding, align_corners=aligned)


@pytest.mark.parametrize("padding", ["border", "reflection"])
def test_halves_are_rounded_before_they_are_folded(padding: str) -> None:
    places = np.linspace(-2.5, 2.5, 41, dtype=np.float32)
    grid = np.stack(np.meshgrid(places, places), axis=-1)[None]
    for aligned in (0, 1):
        form = {"mode": "nearest", "padding_mode": padding, "align_corners": aligned}
        one("GridSample", floats(1, 1, 4, 5), grid, opset=16, exact=True, **form)


def test_regions() -> None:
    image = floats(2, 3, 9, 8)
    corners = np.random.default_rng(6).uniform(-3, 14, (5, 2, 2))
    regions = np.sort(corners, axis=1).reshape(5, 4).astype(np.float32)
    for ratio, shift in product((0, 1, 3), ("half_pixel", "output_half_pixel")):
        form = {"output_height": 3, "output_width": 2, "sampling_ratio": ratio, "spatial_scale": 0.5}
        images = i64(0, 1, 1, 0, 1)
        one("RoiAlign", image, regions, images, opset=16, coordinate_transformation_mode=shift, **form)
        one("RoiAlign", image, regions, images, opset=16, coordinate_transformation_mode=shift, mode="max", **form)


def test_deformed_windows() -> None:
    arrays = [floats(2, 4, 6, 5), floats(6, 2, 3, 2), floats(2, 2 * 2 * 6, 6, 5), floats(6), floats(2, 2 * 6, 6, 5)]
    form = {"pads": [1, 1, 1, 0], "group": 2, "offset_group": 2}
    one("DeformConv", *arrays, opset=19, **form)
    one("DeformConv", arrays[0], arrays[1], arrays[2], constants=[None, arrays[4]], opset=19, **form)


@pytest.mark.parametrize("sizes", [(2, 3, 4, 5), (1, 2, 3, 4, 2)], ids=len)
def test_affine_grids(sizes: tuple[int, ...]) -> None:
    rank = len(sizes) - 2
    for aligned in (0, 1):
        one("AffineGrid", floats(sizes[0], rank, rank + 1), constants=[i64(*sizes)], opset=20, align_corners=aligned)


def test_what_cannot_be_resized() -> None:
    with pytest.raises(errors.LoadError, match="scales and sizes"):
        one("Resize", IMAGE, constants=[None, f32(1, 1, 2, 2), i64(1, 2, 14, 10)], expected=[IMAGE])
    with pytest.raises(errors.ShapeError, match="expected 4"):
        one("Resize", IMAGE, constants=[None, f32(2, 2)], expected=[IMAGE])
    for scale in (0, -2, np.nan, np.inf):
        with pytest.raises(errors.ShapeError, match="scales to be numbers above 0"):
            one("Resize", IMAGE, constants=[None, f32(1, 1, scale, 2)], expected=[IMAGE])
    with pytest.raises(errors.ShapeError, match="sizes to be >= 1, found 0"):
        one("Resize", IMAGE, constants=[None, None, i64(1, 2, 0, 5)], expected=[IMAGE])
    with pytest.raises(errors.UnsupportedModelError, match="scaled size depends on the symbolic size H"):
        one("Resize", IMAGE, constants=[None, f32(1, 1, 1.5, 1)], shapes=[[1, 2, "H", 5]], expected=[IMAGE])


def test_integers_are_resized_to_integers() -> None:
    image = np.arange(35, dtype=np.uint8).reshape(1, 1, 7, 5)
    form = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    one("Resize", image, constants=[None, f32(1, 1, 2, 2)], exact=True, result=TensorProto.UINT8, opset=13, **form)


def test_a_batch_may_stay_open() -> None:
    """Imported once for every batch; compared at three images."""
    x, shape = floats(3, 4, 6, 5), [["N", 4, 6, 5]]
    scale, bias = f32(1, 2, 3, 4), f32(0.5, 0, -1, 2)
    one("Resize", x, constants=[None, f32(1, 1, 1.5, 2)], shapes=shape, mode="linear")
    one("Resize", x, constants=[None, None, i64(3, 4, 9, 9)], shapes=[[3, 4, "H", "W"]], mode="cubic")
    one("GridSample", x, floats(3, 2, 2, 2), shapes=[*shape, ["N", 2, 2, 2]], opset=16)
    one("InstanceNormalization", x, constants=[scale, bias], shapes=shape)
    one("DepthToSpace", x, shapes=shape, blocksize=2)
    one("LpNormalization", x, shapes=shape, axis=1)
    one("ArgMax", x, shapes=shape, axis=1, exact=True, result=TensorProto.INT64)
    one("Einsum", x, floats(4, 2), shapes=[*shape, [4, 2]], equation="nchw,ck->nkhw")
    one(
        "GatherElements",
        x,
        i64(*range(60)).reshape(3, 1, 4, 5) % 4,
        shapes=[*shape, ["N", 1, 4, 5]],
        axis=1,
        exact=True,
    )
