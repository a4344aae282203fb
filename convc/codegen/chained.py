"""Two products in one kernel: the first one's result is the left side of the second, without leaving the registers.

The main loop is that of any contraction. Its tile has all the middle channels as columns; what the loop gives is taken
through bias and elementwise operators in fp32, rounded to the type of the product, as storing it would, and multiplied
with one block of columns of the second weights after the other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir import DType
from ..ir.chained import ChainedContraction
from ..ir.plan import PackedWeight, Tile
from ..ir.problem import Axis
from . import border, contraction
from .expressions import Body
from .indexing import dimensions, is_wide, joined_masks, offsets, scaled, tile_lines
from .kernel import Parts, ceil_div, ragged
from .main_loop import Loop
from .typed import TRITON_TYPES


def parts(problem: ChainedContraction, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    first, inner = problem.first, replace(tile, cols=problem.middle_block)
    row_tiles = first.row_tiles(tile.rows)
    col_tiles = ceil_div(problem.extent(Axis.COL), tile.cols * tile.col_blocks)
    body = contraction.body(
        first,
        inner,
        program_lines=tile_lines(1, row_tiles, col_tiles),
        row_tiles=row_tiles,
        wide=is_wide(problem),
        index_lines=_row_indices(problem),
        epilogue=_second(problem, tile, inner, col_tiles),
    )
    return Parts(
        word=f"{contraction.word(first)}_conv1x1",
        constants=_constants(problem, tile, inner),
        body=body,
        grid=(row_tiles * col_tiles, 1, 1),
        extra=Loop(first, inner).parameters(),
    )


def _constants(problem: ChainedContraction, tile: Tile, inner: Tile) -> dict[str, Any]:
    found = contraction.constants(problem.first, inner)
    if ragged(problem, Axis.COL, tile.cols):
        found["FILTERS"] = problem.extent(Axis.COL)
    return found | {"BLOCK_FILTERS": tile.cols}


def _row_indices(problem: ChainedContraction) -> list[str]:
    """Rows as dimensions of both products; where they are merged alike the names are the same."""
    lines = dimensions(problem.first, Axis.ROW, "row") + dimensions(problem.first, Axis.COL, "col")
    return [*lines, *(line for line in dimensions(problem, Axis.ROW, "row") if line not in lines)]


def _second(problem: ChainedContraction, tile: Tile, inner: Tile, col_tiles: int) -> list[str]:
    """From the first product's sums to the store."""
    lines = _between(problem, inner)
    block = _block_lines(problem, tile, inner, col_tiles)
    if tile.col_blocks == 1:
        return [*lines, *block]
    return [*lines, f"for block in range({tile.col_blocks}):", *(f"    {line}" for line in block)]


def _between(problem: ChainedContraction, inner: Tile) -> list[str]:
    """What is done to the first product's sums. Channels past the last give zero again: they meet weights that are
    zero, but their own value may be none, of an infinity times zero or of what the operators make of zero."""
    first = problem.first
    is_ragged = ragged(first, Axis.COL, inner.cols)
    body = Body(first, col_mask="col_ok" if is_ragged else "", prefix="f")
    result = body.values("acc")
    lines = body.lines
    if is_ragged:
        lines.append(f"middle = tl.where(col_ok, {result}, 0.0)")
        result = "middle"
    if first.compute is not DType.FP32:
        lines.append(f"middle = {result}.to(tl.{TRITON_TYPES[first.compute]})")
    elif result != "middle":
        lines.append(f"middle = {result}")
    return lines


def _block_lines(problem: ChainedContraction, tile: Tile, inner: Tile, col_tiles: int) -> list[str]:
    """One block of columns: the second product and what follows it."""
    first = problem.first
    is_ragged = ragged(problem, Axis.COL, tile.cols)
    number = f"tile_col * {tile.col_blocks} + block" if col_tiles > 1 else "block"
    if tile.col_blocks == 1:
        number = "tile_col" if col_tiles > 1 else ""
    start = f"{f'({number})' if ' ' in number else number} * BLOCK_FILTERS + " if number else ""
    lines = [f"filter = {start}tl.arange(0, BLOCK_FILTERS)"]
    if is_ragged:
        lines.append("filter_ok = (filter < FILTERS)[None, :]")
    lines += dimensions(problem, Axis.COL, "filter")
    along = scaled("col", problem.w_depth)
    place = f"({along})[:, None] + {offsets(problem, problem.w).filled(cols='filter').joined()}"
    masks = ["(col < COLS)[:, None]"] if ragged(first, Axis.COL, inner.cols) else []
    masks += [_in_memory(problem)] if is_ragged else []
    mask = joined_masks(masks)
    load = f"tl.load(v + {place}, mask={mask}, other=0.0)" if mask else f"tl.load(v + {place})"
    precision = f', input_precision="{first.precision}"' if first.compute is DType.FP32 else ""
    lines.append(f"sums = tl.dot(middle, {load}{precision})")
    row_mask = "row_ok" if ragged(first, Axis.ROW, tile.rows) else ""
    col_mask = "filter_ok" if is_ragged else ""
    share = border.Share("tile_row", first.row_tiles(tile.rows), "filter", "BLOCK_FILTERS", col_mask)
    stored = Body(problem, row_mask, col_mask, col_name="filter").emit("sums")
    return [*lines, *stored, *border.lines(problem, share)]


def _in_memory(problem: ChainedContraction) -> str:
    """Mask over columns of the second weights: up to their padded pitch, which keeps wide accesses whole."""
    source = problem.w.source
    if isinstance(source, PackedWeight) and len(problem.positions(Axis.COL)) == 1:
        return f"(filter < {source.pitch})[None, :]"
    return "filter_ok"
