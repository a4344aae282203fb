"""Elementwise chains and copies."""

from __future__ import annotations

from typing import Any

from ..ir.plan import Tile
from ..ir.problem import Axis, Problem
from .expressions import Body
from .indexing import dimensions, is_wide
from .kernel import Parts, ceil_div, ragged, render


def parts(problem: Problem, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    rows_ragged, cols_ragged = ragged(problem, Axis.ROW, tile.rows), ragged(problem, Axis.COL, tile.cols)
    col_tiles = ceil_div(problem.extent(Axis.COL), tile.cols)
    body = Body(problem, row_mask="row_ok" if rows_ragged else "", col_mask="col_ok" if cols_ragged else "")
    text = render(
        "pointwise.py.j2",
        row_base="pid" if col_tiles == 1 else f"pid // {col_tiles}",
        col_base="" if col_tiles == 1 else f"pid % {col_tiles} * BLOCK_COLS + ",
        rows_ragged=rows_ragged,
        cols_ragged=cols_ragged,
        wide=is_wide(problem),
        index_lines=dimensions(problem, Axis.ROW, "row") + dimensions(problem, Axis.COL, "col"),
        epilogue=body.emit(None),
    )
    constants: dict[str, Any] = {"ROWS": problem.extent(Axis.ROW)} if rows_ragged else {}
    constants |= {"COLS": problem.extent(Axis.COL)} if cols_ragged else {}
    constants |= {"BLOCK_ROWS": tile.rows, "BLOCK_COLS": tile.cols}
    row_tiles = ceil_div(problem.extent(Axis.ROW), tile.rows)
    return Parts(problem.mode, constants, text, (row_tiles * col_tiles, 1, 1))
