"""Pooling behind a convolution, in registers.

A tile's rows are ordered by the position in a block of 2 x 2 pixels first, so that a window of 2 x 2 lies in one
thread. Windows of 3 x 3 also take the first line and column of the blocks behind, which other threads hold: two gathers
of what is left once each block has given its own maximum. Maxima are taken of whole numbers that are ordered like the
values, with NaN above all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..ir.plan import Tile
from ..ir.pooled import BLOCK, PooledContraction, PoolWindow, blocks_of
from ..ir.problem import Axis
from .expressions import Body
from .indexing import dimensions, is_wide, joined_masks

_BLOCKS = ("TILE_LINES", "TILE_COLUMNS")
"""Names of the blocks of a tile along p and q."""


def is_ragged(problem: PooledContraction, tile: Tile) -> bool:
    """Whether linear rows stick out past the last pixel."""
    return not problem.overlaps and problem.pixels % (tile.rows // BLOCK) != 0


def constants(problem: PooledContraction, tile: Tile) -> dict[str, Any]:
    """What the lines below refer to."""
    found: dict[str, Any] = {"ROWS": problem.pixels} if is_ragged(problem, tile) else {}
    if problem.overlaps:
        found |= dict(zip(_BLOCKS, blocks_of(tile.rows), strict=True))
    return found | {"BLOCK_PIXELS": tile.rows // BLOCK}


def row_lines(problem: PooledContraction, row_tiles: int) -> list[str]:
    """The rows of the tile; ``row``: the window that they belong to, for windows that do not overlap."""
    lines = ["local = tl.arange(0, BLOCK_ROWS)"]
    if problem.overlaps:
        return [*lines, "row = local % BLOCK_PIXELS  # block of 2 x 2 pixels in the tile"]
    start = "tile_row * BLOCK_PIXELS + " if row_tiles > 1 else ""
    return [*lines, f"row = {start}local % BLOCK_PIXELS  # pixel of the pooled image"]


def index_lines(problem: PooledContraction, tile: Tile) -> list[str]:
    """From the rows to the convolution's pixels, kept inside its result where windows leave it."""
    lines = ["i = local // (2 * BLOCK_PIXELS)", "j = local // BLOCK_PIXELS % 2"]
    lines += _places(problem, tile, "row", "window_", "n")
    inside = []
    for window, position in zip(problem.windows, "ij", strict=True):
        before = f" - {window.before}" if window.before else ""
        lines.append(f"{window.dim} = window_{window.dim} * 2 + {position}{before}")
        if _is_clamped(problem, window):
            inside += [f"({window.dim} >= 0)"] if window.before else []
            inside += [f"({window.dim} < {window.limit})"]
    if inside:
        lines.append(f"exists = ({' & '.join(inside)})[:, None]  # pixels of the convolution's result")
    for window in problem.windows:
        if _is_clamped(problem, window):
            low = f"tl.maximum({window.dim}, 0)" if window.before else window.dim
            lines.append(f"{window.dim} = tl.minimum({low}, {window.limit - 1})")
    return lines


def _places(problem: PooledContraction, tile: Tile, linear: str, prefix: str, image: str) -> list[str]:
    """Windows of a linear index of the tile, as ``prefix`` p and q, and their image."""
    if not problem.overlaps:
        return dimensions(_stored(problem, prefix, image), Axis.ROW, linear)
    down, across = problem.grid(tile.rows)
    lines = []
    if _is_batched(problem) and problem.images == 1:
        lines.append(f"{image} = 0")  # of a part of a batch
    elif _is_batched(problem):
        number = f"tile_row // {down * across}"
        lines.append(f"{image} = ({number}).to(tl.int64)" if is_wide(problem) else f"{image} = {number}")
    along_p = "tile_row" if across == 1 else f"tile_row // {across}"
    starts = (
        f"{along_p} % {down}" if _is_batched(problem) else along_p,
        f"tile_row % {across}" if down > 1 or _is_batched(problem) else "tile_row",
    )
    locals = (f"{linear} // TILE_COLUMNS", f"{linear} % TILE_COLUMNS")
    for window, tiles, start, local, name in zip(problem.windows, (down, across), starts, locals, _BLOCKS, strict=True):
        first = f"{start} * ({name} - 1) + " if tiles > 1 else ""
        lines.append(f"{prefix}{window.dim} = {first}{local}")
    return lines


def _is_batched(problem: PooledContraction) -> bool:
    """Whether operands step along images, of which a part of a batch may have one."""
    return any(dim.name == "n" for dim in problem.dims)


def _stored(problem: PooledContraction, prefix: str, image: str) -> PooledContraction:
    """The problem over what it stores: pixels of the pooled images, rows renamed."""
    extents = problem.extents_of(problem.output)
    names = {window.dim: prefix + window.dim for window in problem.windows} | {"n": image}
    dims = tuple(
        replace(dim, name=names.get(dim.name, dim.name), extent=extent)
        for dim, extent in zip(problem.dims, extents, strict=True)
    )
    return replace(problem, dims=dims)


def epilogue(problem: PooledContraction, tile: Tile, cols_ragged: bool) -> list[str]:
    """What follows the accumulator, the pooling, and its store."""
    body = Body(problem, col_mask="col_ok" if cols_ragged else "")
    result = body.values("acc")
    lines = body.lines
    if any(_is_clamped(problem, window) for window in problem.windows):
        lines.append(f'value = tl.where(exists, {result}, float("-inf"))')
        result = "value"
    lines += _mean(result) if problem.pooling == "mean" else _maximum(problem, result)
    several = not problem.overlaps and problem.row_tiles(tile.rows) > 1
    pixel = f"{'tile_row * BLOCK_PIXELS + ' if several else ''}tl.arange(0, BLOCK_PIXELS)"
    lines.append(f"pixel = ({pixel}).to(tl.int64)" if is_wide(problem) else f"pixel = {pixel}")
    lines += _places(problem, tile, "pixel", "pooled_", "pooled_n")
    masks = [*_last_blocks(problem), *(["(pixel < ROWS)"] if is_ragged(problem, tile) else [])]
    if masks:
        lines.append(f"pixel_ok = ({joined_masks(masks)})[:, None]")
    stored = Body(_stored(problem, "pooled_", "pooled_n"), "pixel_ok" if masks else "", body.col_mask, row_name="pixel")
    return [*lines, stored.store("pooled")]


def _is_clamped(problem: PooledContraction, window: PoolWindow) -> bool:
    """Whether rows of a tile lie past the convolution's result along a window."""
    return problem.overlaps or window.leaves


def _mean(result: str) -> list[str]:
    return [f"pooled = tl.sum(tl.reshape({result}, (4, BLOCK_PIXELS, BLOCK_COLS)), axis=0) * 0.25"]


def _maximum(problem: PooledContraction, result: str) -> list[str]:
    lines = [
        f"bits = {result}.to(tl.int32, bitcast=True)",
        f"order = tl.where({result} == {result}, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)"
        "  # whole numbers in the same order, NaN above all",
    ]
    lines += _overlapping() if problem.overlaps else _separate()
    return [*lines, "pooled = (best ^ ((best >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)"]


def _separate() -> list[str]:
    return ["best = tl.max(tl.reshape(order, (4, BLOCK_PIXELS, BLOCK_COLS)), axis=0)"]


def _overlapping() -> list[str]:
    """Along a line each block's maximum with the first column of the next block, then the same along columns."""
    return [
        "order = tl.reshape(order, (2, 2, BLOCK_PIXELS, BLOCK_COLS))  # line and column in the block",
        "leading = tl.arange(0, 2) == 0",
        "left = tl.max(tl.where(leading[None, :, None, None], order, -0x80000000), axis=1)",
        "block = tl.arange(0, BLOCK_PIXELS)",
        "behind = tl.minimum(block + 1, BLOCK_PIXELS - 1)[None, :, None]",
        "right = tl.gather(left, tl.broadcast_to(behind, (2, BLOCK_PIXELS, BLOCK_COLS)), axis=1)",
        "across = tl.maximum(tl.max(order, axis=1), right)",
        "top = tl.max(tl.where(leading[:, None, None], across, -0x80000000), axis=0)",
        "below = tl.minimum(block + TILE_COLUMNS, BLOCK_PIXELS - 1)[:, None]",
        "bottom = tl.gather(top, tl.broadcast_to(below, (BLOCK_PIXELS, BLOCK_COLS)), axis=0)",
        "best = tl.maximum(tl.max(across, axis=0), bottom)",
    ]


def _last_blocks(problem: PooledContraction) -> list[str]:
    """Masks of windows that exist and that the tile holds whole."""
    if not problem.overlaps:
        return []
    masks = ["(pixel // TILE_COLUMNS < TILE_LINES - 1)", "(pixel % TILE_COLUMNS < TILE_COLUMNS - 1)"]
    return masks + [f"(pooled_{window.dim} < {window.places})" for window in problem.windows]
