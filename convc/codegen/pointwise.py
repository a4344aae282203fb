"""Elementwise chains and copies."""

from __future__ import annotations

from typing import Any

from ..ir.plan import Tile
from ..ir.problem import Axis, Problem
from . import border
from .expressions import Body
from .global_pool import ending, tiles
from .indexing import block_starts, dimensions, group_lines, is_wide
from .kernel import Parts, ragged, render


def parts(problem: Problem, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    rows_ragged, cols_ragged = ragged(problem, Axis.ROW, tile.rows), ragged(problem, Axis.COL, tile.cols)
    row_tiles, col_tiles = tiles(problem, tile)
    lines, row_base, col_base = block_starts(problem, row_tiles, col_tiles)
    body = Body(problem, row_mask="row_ok" if rows_ragged else "", col_mask="col_ok" if cols_ragged else "")
    text = render(
        "pointwise.py.j2",
        tile_lines=lines,
        row_base=row_base,
        col_base=col_base,
        rows_ragged=rows_ragged,
        cols_ragged=cols_ragged,
        wide=is_wide(problem),
        index_lines=[
            *group_lines(problem),
            *dimensions(problem, Axis.ROW, "row"),
            *dimensions(problem, Axis.COL, "col"),
        ],
        epilogue=[*ending(body, tile), *border.lines(problem, border.Share(row_base, row_tiles, mask=body.col_mask))],
    )
    constants: dict[str, Any] = {"ROWS": problem.extent(Axis.ROW)} if rows_ragged else {}
    constants |= {"COLS": problem.extent(Axis.COL)} if cols_ragged else {}
    constants |= {"BLOCK_ROWS": tile.rows, "BLOCK_COLS": tile.cols}
    programs = problem.extent(Axis.GROUP) * row_tiles * col_tiles
    return Parts(problem.mode, constants, text, (programs, 1, 1))
