"""Operators that read images at other places than their own: resizing, grids, regions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convc import errors
from convc.ir.dims import Dim, DimLike
from convc.ir.ops.resize import ROUNDINGS, TRANSFORMATIONS

from . import symbolic
from .builder import Operand
from .call import Call
from .convolution import kernel_of
from .registry import UnsupportedForm, adapter
from .windows import window

_REPEATS = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
"""Transformations and roundings that repeat every element where sizes grow by whole factors."""


# -- Resize -----------------------------------------------------------------------------------------------------------
@adapter("Resize")
def resize(call: Call) -> Operand:
    """Scales, from opset 11 or sizes. In opset 10 an axis that shrinks takes the next element, others that before."""
    if call.opset < 11:
        scales = _numbers(call, 1, "scales")
        shrunk = _resized(call, call.x, [min(scale, 1.0) for scale in scales], "asymmetric", "ceil")
        return _resized(call, shrunk, [max(scale, 1.0) for scale in scales], "asymmetric", "floor")
    rank, policy = call.rank, call.choice("keep_aspect_ratio_policy", ("stretch", "not_larger", "not_smaller"))
    axes = call.axes(call.attr("axes") or range(rank), rank)
    scales = _numbers(call, 2, "scales")
    sizes = call.sizes(3, "sizes")
    if bool(scales) == bool(sizes):
        raise errors.operand_count("of scales and sizes", 2 if scales else 0, 1, 1)
    mode, rounding = call.attr("coordinate_transformation_mode"), call.attr("nearest_mode")
    if mode not in TRANSFORMATIONS or rounding not in ROUNDINGS:
        name = "nearest_mode" if mode in TRANSFORMATIONS else "coordinate_transformation_mode"
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name=name, value=call.attr(name)))
    crop: tuple[float, ...] = ()
    if mode == "tf_crop_and_resize":
        given = _numbers(call, 1, "roi")
        starts, ends = _spread(given[: len(axes)], axes, rank, 0.0), _spread(given[len(axes) :], axes, rank, 1.0)
        crop = (*starts, *ends)
    if scales:
        return _resized(call, call.x, _spread(scales, axes, rank, 1.0), mode, rounding, crop)
    assert sizes is not None
    return _to_sizes(call, axes, sizes, policy, mode, rounding, crop)


def _numbers(call: Call, position: int, what: str) -> tuple[float, ...]:
    array = call.known(position, what)
    return () if array is None else tuple(float(value) for value in array.reshape(-1))


def _spread(values: Sequence[float], axes: Sequence[int], rank: int, other: float) -> tuple[float, ...]:
    """One value for every axis: those given, and ``other``."""
    if len(values) != len(axes):
        raise errors.attribute_length("scales, sizes or roi", len(values), len(axes))
    given = dict(zip(axes, values, strict=True))
    return tuple(given.get(axis, other) for axis in range(rank))


def _to_sizes(
    call: Call,
    axes: Sequence[int],
    sizes: Sequence[DimLike],
    policy: str,
    mode: str,
    rounding: str,
    crop: tuple[float, ...],
) -> Operand:
    """Sizes as they are, or one scale for all axes that keeps the aspect ratio."""
    shape = call.shape(call.x)
    if len(sizes) != len(axes):
        raise errors.attribute_length("sizes", len(sizes), len(axes))
    wanted = dict(zip(axes, sizes, strict=True))
    if policy == "stretch":
        full = tuple(wanted.get(axis, dim) for axis, dim in enumerate(shape))
        return _emitted(call, call.x, full, (), mode, rounding, crop)
    ratios = []
    for axis, size in wanted.items():
        dim = shape[axis]
        if isinstance(dim, Dim) or isinstance(size, Dim):
            raise symbolic.undecided("scale", dim, size)
        ratios.append(size / dim)
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    scales = tuple(scale if axis in wanted else 1.0 for axis in range(len(shape)))
    full = tuple(int(scale * dim + 0.5) if axis in wanted else dim for axis, dim in enumerate(shape))  # type: ignore[arg-type, operator]
    return _emitted(call, call.x, full, scales, mode, rounding, crop)


def _resized(
    call: Call, x: Operand, scales: Sequence[float], mode: str, rounding: str, crop: tuple[float, ...] = ()
) -> Operand:
    shape = call.shape(x)
    if len(scales) != len(shape):
        raise errors.attribute_length("scales", len(scales), len(shape))
    if not all(0 < scale < np.inf for scale in scales):
        raise errors.wrong_attribute("Resize", "scales", "numbers above 0", tuple(scales))
    sizes = tuple(_scaled(dim, scale) for dim, scale in zip(shape, scales, strict=True))
    return _emitted(call, x, sizes, tuple(scales), mode, rounding, crop)


def _scaled(dim: DimLike, scale: float) -> DimLike:
    """floor(dim · scale); a symbolic size by whole numbers and by one over them.

    The product is one of fp32, as ONNX Runtime has it: 10 · 0.7 is 7, which no wider type makes of the fp32 number 0.7.
    """
    if isinstance(dim, int):
        return int(np.floor(np.float32(dim) * np.float32(scale)))
    if scale >= 1 and scale.is_integer():
        return dim * int(scale)
    if scale > 0 and (1 / scale).is_integer():
        return dim // int(1 / scale)
    raise symbolic.undecided("scaled size", dim)


def _emitted(
    call: Call,
    x: Operand,
    sizes: tuple[DimLike, ...],
    scales: tuple[float, ...],
    mode: str,
    rounding: str,
    crop: tuple[float, ...],
) -> Operand:
    shape = call.shape(x)
    kind = {"bilinear": "linear", "trilinear": "linear"}.get(call.attr("mode"), call.attr("mode"))
    factors = [_factor(dim, size) for dim, size in zip(shape, sizes, strict=True)]
    if not crop and sizes == shape and (not scales or set(scales) == {1.0}):
        return x
    repeated = kind == "nearest" and (mode, rounding) in _REPEATS
    if repeated and all(factors) and (not scales or list(scales) == factors):
        return _repeated(call, x, factors)
    return call.emit(
        "Resize",
        x,
        sizes=sizes,
        scales=scales,
        mode=kind,
        transformation=mode,
        rounding=rounding,
        cubic_coeff_a=call.attr("cubic_coeff_a", -0.75),
        antialias=call.flag("antialias"),
        exclude_outside=call.flag("exclude_outside"),
        extrapolation_value=call.attr("extrapolation_value", 0.0),
        crop=crop,
    )


def _factor(dim: DimLike, size: DimLike) -> int:
    """The whole number by which a size grows; 0 where there is none."""
    if dim == size:
        return 1
    if isinstance(dim, int) and isinstance(size, int):
        return size // dim if dim and size % dim == 0 else 0
    return next((factor for factor in range(2, 17) if dim * factor == size), 0)


def _repeated(call: Call, x: Operand, factors: Sequence[int]) -> Operand:
    """Every element ``factor`` times along its axis: an axis behind each, broadcast and merged into it."""
    for axis, factor in enumerate(factors):
        if factor != 1:
            shape = call.shape(x)
            before, dim, behind = shape[:axis], shape[axis], shape[axis + 1 :]
            raised = call.expand(call.reshape(x, (*before, dim, 1, *behind)), (*before, dim, factor, *behind))
            x = call.reshape(raised, (*before, dim * factor, *behind))
    return x


@adapter("Upsample")
def upsample(call: Call) -> Operand:
    """Scales are an attribute, from opset 9 an input; before opset 7 those of height and width are."""
    if call.opset < 7:
        scales: tuple[float, ...] = (1.0, 1.0, call.attr("height_scale"), call.attr("width_scale"))
    else:
        scales = _numbers(call, 1, "scales") if call.opset >= 9 else tuple(call.attr("scales"))
    return _resized(call, call.x, scales, "asymmetric", "floor")


# -- grids and regions ------------------------------------------------------------------------------------------------
@adapter("GridSample")
def grid_sample(call: Call) -> Operand:
    """The modes were called after two-dimensional images before opset 20."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(call.attr("mode"), call.attr("mode"))
    aligned = call.flag("align_corners")
    x, grid = call.operands
    return call.emit("GridSample", x, grid, mode=mode, padding_mode=call.attr("padding_mode"), align_corners=aligned)


@adapter("AffineGrid")
def affine_grid(call: Call) -> Operand:
    """theta[N, rank, rank + 1] applied to the places of a regular grid in -1..1, the last axis first."""
    theta = call.x
    sizes = call.integers(1, "size") or ()
    aligned = call.flag("align_corners")
    call.affordable(*sizes[2:], len(sizes) - 1)
    axes = [_centres(size, aligned) for size in sizes[2:]]
    places = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(sizes[2:])], axis=-1)
    rows = places.reshape(-1, len(axes) + 1).astype(call.type(theta).dtype.numpy)
    moved = call.emit("MatMul", rows, call.emit("Transpose", theta, perm=(0, 2, 1)))
    return call.reshape(moved, (call.shape(theta)[0], *sizes[2:], len(axes)))


def _centres(size: int, aligned: bool) -> np.ndarray:
    if aligned:
        return np.linspace(-1, 1, size) if size > 1 else np.array([-1.0])
    return (2 * np.arange(size) + 1) / size - 1


@adapter("RoiAlign")
def roi_align(call: Call) -> Operand:
    """Before opset 16 places were not moved by half an element."""
    moved = call.choice("coordinate_transformation_mode", ("output_half_pixel", "half_pixel")) == "half_pixel"
    return call.emit(
        "RoiAlign",
        *call.operands,
        output_height=call.attr("output_height"),
        output_width=call.attr("output_width"),
        sampling_ratio=call.attr("sampling_ratio", 0),
        spatial_scale=call.attr("spatial_scale"),
        mode=call.attr("mode"),
        half_pixel=moved,
    )


@adapter("DeformConv")
def deform_conv(call: Call) -> Operand:
    x, w, offset = (call.required(position) for position in range(3))
    if call.rank != 4:
        raise UnsupportedForm(errors.FORM_ATTRIBUTE.format(name="input rank", value=call.rank))
    kernel = kernel_of(call, x, w)
    bias, mask = call.input(3), call.input(4)
    if bias is None and mask is not None:
        bias = call.emit("Expand", call.scalar(0, x), shape=call.shape(w)[:1])
    more = [operand for operand in (bias, mask) if operand is not None]
    found = window(call, call.shape(x)[2:], kernel)
    groups, shared = call.attr("group", 1), call.attr("offset_group", 1)
    return call.emit("DeformConv", x, w, offset, *more, **found.attributes, groups=groups, offset_groups=shared)
