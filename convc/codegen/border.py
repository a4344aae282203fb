"""The zeros around the images of a result, which its kernel writes each time: every program a share of their pixels.

The zeros of an image are its margin, which is also what lies right of the last line and below the last line of the
image before, and what lies right of its lines but the last. The margin of an image behind the last closes the block.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.plan import Border
from ..ir.problem import Problem
from .indexing import Offsets, is_wide, joined_masks, offsets, scaled
from .kernel import ceil_div
from .typed import TRITON_TYPES

MOST_ROWS = 64
"""Pixels of zeros that a program writes at a time. A guess, not measured."""


@dataclass(frozen=True)
class Share:
    """The part of the zeros that a program writes: of ``count`` parts the one of number ``index``, over the columns
    ``col`` of its tile, ``cols`` being the name of how many, with their mask."""

    index: str
    count: int
    col: str = "col"
    cols: str = "BLOCK_COLS"
    mask: str = ""


def lines(problem: Problem, share: Share) -> list[str]:
    """Stores the zeros around a problem's output; nothing where there are none."""
    border = problem.output.border
    if border is None:
        return []
    each = ceil_div(border.zeros, share.count)
    block = min(1 << (each - 1).bit_length(), MOST_ROWS)
    start = scaled(share.index, each) if share.count > 1 else ""
    if each <= block:
        first = f"{start} + " if start else ""
        return ["# Zeros around the images: this program's share.", *_block(problem, border, share, first, block)]
    first = " + ".join([*([start] if start else []), f"step * {block} + "])
    return [
        "# Zeros around the images: this program's share.",
        f"for step in range({ceil_div(each, block)}):",
        *(f"    {line}" for line in _block(problem, border, share, first, block)),
    ]


def _block(problem: Problem, border: Border, share: Share, first: str, block: int) -> list[str]:
    output = problem.output
    around = f"{first}tl.arange(0, {block})"
    found = [f"around = ({around}).to(tl.int64)" if is_wide(problem) else f"around = {around}"]
    found += _places(border)
    place = offsets(problem, output, -border.margin * border.channels)
    address = Offsets(scaled("place", border.channels), place.cols, place.scalar).filled(cols=share.col).joined()
    masks = [f"(around < {border.zeros})[:, None]", *([share.mask] if share.mask else [])]
    zeros = f"tl.zeros(({block}, {share.cols}), tl.{TRITON_TYPES[output.dtype]})"
    return [*found, f"tl.store({output.name} + {address}, {zeros}, mask={joined_masks(masks)})"]


def _places(border: Border) -> list[str]:
    """The pixel of the block where each pixel of zeros lies."""
    if border.images == 0:
        return ["place = around"]
    ahead = border.around - border.margin
    if ahead == 0:
        return [f"place = around // {border.around} * {border.image} + around % {border.around}"]
    width = border.columns
    line = "beside" if width == 1 else f"beside // {width}"
    column = "" if width == 1 else f" + beside % {width}"
    return [
        f"beside = around % {border.around} - {border.margin}  # those right of lines, behind those of the margin",
        f"right = {border.margin + border.width} + {line} * {border.line}{column}",
        f"place = around // {border.around} * {border.image} + tl.where(beside < 0, beside + {border.margin}, right)",
    ]
