"""Expansions: what a depthwise kernel does to make its own input from fewer channels, under each tap.

The weights of the block's channels stay in the kernel throughout. Under a tap, the pixels of x meet them in a short
product; what lies between follows; the padding becomes zero, and the result is rounded as a store would have done.
"""

from __future__ import annotations

from ..ir import DType
from ..ir.expansion import ExpandedWindow
from ..ir.plan import Tile
from ..ir.problem import Axis
from .expressions import TRITON_TYPES, Body
from .indexing import joined_masks, offsets, scaled
from .kernel import ragged


def x_offset(problem: ExpandedWindow, origin: int) -> str:
    """Pixels along the rows, channels of x along the columns."""
    place = offsets(problem, problem.x, origin).filled(rows="row").joined()
    return f"{place} + {_shaped('d', problem.x_depth, '[None, :]')}"


def lines_before(problem: ExpandedWindow, tile: Tile) -> list[str]:
    """Loads of what stays: the weights of the block's channels, and the vectors over them."""
    body = _body(problem, tile)
    columns = offsets(problem, problem.expand).filled(cols="col").joined()
    masks = ["(d < DEPTH)[:, None]"] if problem.depth % tile.depth else []
    masks += [body.col_mask] if body.col_mask else []
    mask = f", mask={joined_masks(masks)}, other=0.0" if masks else ""
    weights = f"tl.load(we + {_shaped('d', problem.w_depth, '[:, None]')} + {columns}{mask})"
    vectors = [f"{operand.name}_tile = {body.load(operand)}" for operand in problem.prologue_operands]
    return [f"expand = {weights}{_converted(problem, problem.expand.dtype)}", *vectors]


def value_lines(problem: ExpandedWindow, tile: Tile, address: str, inside: str) -> list[str]:
    """The expanded values under a tap whose pixels of x lie at ``address``; ``inside``: which are none of the padding,
    empty where all are."""
    masks = [inside] if inside else []
    masks += ["(d < DEPTH)[None, :]"] if problem.depth % tile.depth else []
    load = f"tl.load({address}, mask={joined_masks(masks)}, other=0.0)" if masks else f"tl.load({address})"
    precision = f', input_precision="{problem.precision}"' if problem.compute is DType.FP32 else ""
    body = _body(problem, tile)
    body.lines = [
        f"pixels = {load}{_converted(problem, problem.x.dtype)}",
        f"value = tl.dot(pixels, expand{precision})",
    ]
    result = body.apply(problem.prologue, problem.prologue_operands, "value")
    result = f"tl.where({inside}, {result}, 0.0)" if inside else result
    if problem.compute is not DType.FP32:
        result = f"{result}.to(tl.{TRITON_TYPES[problem.compute]}).to(tl.float32)"
    return body.lines if result == "value" else [*body.lines, f"value = {result}"]


def _body(problem: ExpandedWindow, tile: Tile) -> Body:
    return Body(problem, col_mask="col_ok" if ragged(problem, Axis.COL, tile.cols) else "", prefix="e")


def _shaped(name: str, stride: int, suffix: str) -> str:
    text = scaled(name, stride)
    return f"{text}{suffix}" if text == name else f"({text}){suffix}"


def _converted(problem: ExpandedWindow, dtype: DType) -> str:
    return "" if dtype is problem.compute else f".to(tl.{TRITON_TYPES[problem.compute]})"
