"""How operators without a kernel are spelt in ONNX; see `convc.frontends.spellings`."""

from __future__ import annotations

import math
from typing import Any

from .. import errors
from ..ir.dims import Dim
from ..ir.graph import Node
from .writer import ELEMENT_TYPES, Spelling, Writer, attributes_of


def renamed(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.finish(node.op, inputs, **attributes_of(node))


def younger(least: int) -> Spelling:
    """The same form, in opsets that have the operator."""

    def spelling(writer: Writer, node: Node, inputs: list[str]) -> None:
        writer.needs(node.op, least)
        writer.finish(node.op, inputs, **attributes_of(node))

    return spelling


def bit_cast(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.needs("BitCast", 26)
    writer.finish("BitCast", inputs, to=ELEMENT_TYPES[node.attributes["dtype"]])


def scattering(writer: Writer, node: Node, inputs: list[str]) -> None:
    """Reductions came in opset 16, extremes in 18."""
    reduction = node.attributes["reduction"]
    least = {"none": 13, "add": 16, "mul": 16}.get(reduction, 18)
    writer.needs(f"{node.op} with reduction {reduction}", least)
    writer.finish(node.op, inputs, **attributes_of(node, *(["reduction"] if writer.opset < 16 else [])))


def top_k(writer: Writer, node: Node, inputs: list[str]) -> None:
    k = writer.integers([node.attributes["k"]], "k")
    place = 1 if node.op == "TopKIndices" else 0
    writer.finish_one_of("TopK", [*inputs, k], place, 2, **attributes_of(node, "k"))


def running(writer: Writer, node: Node, inputs: list[str]) -> None:
    if node.op == "CumProd":
        writer.needs("CumProd", 26)
    axis = writer.integer(node.attributes["axis"], "axis")
    writer.finish(node.op, [*inputs, axis], **attributes_of(node, "axis"))


# -- images -----------------------------------------------------------------------------------------------------------
def conv_transpose(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.finish("ConvTranspose", inputs, kernel_shape=writer.kernel(), **attributes_of(node))


def deform_conv(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.needs("DeformConv", 19)
    writer.finish("DeformConv", inputs, kernel_shape=writer.kernel(), **attributes_of(node))


def resize(writer: Writer, node: Node, inputs: list[str]) -> None:
    """By scales where they give the sizes, else by the sizes."""
    given, sizes = node.attributes, node.attributes["sizes"]
    if given["antialias"]:
        writer.needs("antialiasing", 18)
    if given["transformation"] == "half_pixel_symmetric":
        writer.needs("half_pixel_symmetric", 19)
    scales = given["scales"]
    fits = scales and all(
        isinstance(dim, Dim) or math.floor(dim * scale) == size
        for dim, scale, size in zip(writer.shape(), scales, sizes, strict=True)
    )
    if scales and not fits:
        raise errors.no_onnx_form(node.label, "sizes that do not follow from the scales")
    crop = writer.floats(given["crop"], "roi") if given["crop"] else ""
    wanted = ["", writer.integers(sizes, "sizes")] if not scales else [writer.floats(scales, "scales")]
    attributes: dict[str, Any] = {
        "mode": given["mode"],
        "coordinate_transformation_mode": given["transformation"],
        "nearest_mode": given["rounding"],
        "cubic_coeff_a": given["cubic_coeff_a"],
        "exclude_outside": int(given["exclude_outside"]),
        "extrapolation_value": given["extrapolation_value"],
    }
    if given["antialias"]:
        attributes["antialias"] = 1
    writer.finish("Resize", [*inputs, crop, *wanted], **attributes)


def grid_sample(writer: Writer, node: Node, inputs: list[str]) -> None:
    """Before opset 20 the modes are called after images of two axes, which alone are sampled."""
    writer.needs("GridSample", 16)
    attributes = attributes_of(node)
    if writer.opset < 20:
        if len(writer.shape()) != 4:
            writer.needs("GridSample of another rank than 4", 20)
        attributes["mode"] = {"linear": "bilinear", "cubic": "bicubic"}.get(attributes["mode"], attributes["mode"])
    writer.finish("GridSample", inputs, **attributes)


def roi_align(writer: Writer, node: Node, inputs: list[str]) -> None:
    attributes = attributes_of(node, "half_pixel")
    if node.attributes["half_pixel"]:
        writer.needs("half_pixel", 16)
    if writer.opset >= 16:
        half = node.attributes["half_pixel"]
        attributes["coordinate_transformation_mode"] = "half_pixel" if half else "output_half_pixel"
    writer.finish("RoiAlign", inputs, **attributes)


# -- as many as there are ---------------------------------------------------------------------------------------------
def non_zero(writer: Writer, node: Node, inputs: list[str]) -> None:
    writer.finish("NonZero", inputs)


def suppression(writer: Writer, node: Node, inputs: list[str]) -> None:
    given = node.attributes
    limits = [
        writer.integers([given["most"]], "most"),
        writer.floats([given["overlap"]], "overlap"),
        writer.floats([given["least_score"]], "least_score"),
    ]
    writer.finish("NonMaxSuppression", [*inputs, *limits], center_point_box=int(given["centered"]))


HOST_SPELLINGS: dict[str, Spelling] = {
    "ArgMax": renamed,
    "ArgMin": renamed,
    "IsInf": renamed,
    "BitwiseAnd": younger(18),
    "BitwiseOr": younger(18),
    "BitwiseXor": younger(18),
    "BitwiseNot": younger(18),
    "BitCast": bit_cast,
    "ScatterElements": scattering,
    "ScatterND": scattering,
    "TopK": top_k,
    "TopKIndices": top_k,
    "CumSum": running,
    "CumProd": running,
    "ConvTranspose": conv_transpose,
    "DeformConv": deform_conv,
    "Resize": resize,
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
    "NonZero": non_zero,
    "NonMaxSuppression": suppression,
}
"""Operators whose ONNX form differs from the graph's in some opset."""
