"""Reductions over whole dimensions, and softmax."""

from __future__ import annotations

import math
from typing import Any

from ..ir.plan import Tile
from ..ir.problem import Axis, AxisReduction
from . import softmax
from .expressions import Body, widened
from .indexing import dimensions, is_wide, offsets, unravelled
from .kernel import Parts, ceil_div, ragged, render

_STEPS = {
    "mean": "acc += value",
    "sum": "acc += value",
    "max": "acc = tl.maximum(acc, value)",
    "min": "acc = tl.minimum(acc, value)",
    "sum_of_magnitudes": "acc += tl.abs(value)",
    "sum_of_squares": "acc += value * value",
    "norm": "acc += value * value",
}
_INITIAL = {"max": 'float("-inf")', "min": 'float("inf")'}


def parts(problem: AxisReduction, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    return _softmax(problem, tile) if problem.family == "softmax" else _reduction(problem, tile)


def _reduction(problem: AxisReduction, tile: Tile) -> Parts:
    length = math.prod(extent for extent, _ in problem.reduced)
    fill = _INITIAL.get(problem.mode, "0.0")
    ordered = problem.mode in ("max", "min")
    rows_ragged = ragged(problem, Axis.ROW, tile.rows)
    body = Body(problem, row_mask="row_ok" if rows_ragged else "", row_suffix="")
    text = render(
        "reduction.py.j2",
        rows_ragged=rows_ragged,
        wide=is_wide(problem),
        index_lines=dimensions(problem, Axis.ROW, "row"),
        x_offset=offsets(problem, problem.x).joined() if _varies(problem) else "tl.zeros_like(row)[:, None]",
        initial=fill,
        nan_aware=ordered,
        combine=problem.mode,
        element_offset=unravelled("element", problem.reduced),
        load_mask=f", mask=(element < ELEMENTS)[None, :], other={fill}" if length % tile.cols else "",
        widen=widened(problem.x.dtype),
        step=_STEPS[problem.mode],
        final=f"tl.{problem.mode}(acc, axis=1)" if ordered else "tl.sum(acc, axis=1)",
        finish=_finish(problem, length),
        epilogue=body.emit("acc"),
    )
    constants: dict[str, Any] = {"ROWS": problem.extent(Axis.ROW)} if rows_ragged else {}
    constants |= {"ELEMENTS": length, "BLOCK_ROWS": tile.rows, "BLOCK_ELEMENTS": tile.cols}
    return Parts(f"reduce_{problem.mode}", constants, text, (ceil_div(problem.extent(Axis.ROW), tile.rows), 1, 1))


def _varies(problem: AxisReduction) -> bool:
    return any(problem.x.strides)


def _finish(problem: AxisReduction, length: int) -> list[str]:
    if problem.mode == "mean":
        return [f"acc = acc / {length}.0"]
    return ["acc = tl.sqrt(acc)"] if problem.mode == "norm" else []


def _softmax(problem: AxisReduction, tile: Tile) -> Parts:
    rows_ragged, cols_ragged = ragged(problem, Axis.ROW, tile.rows), ragged(problem, Axis.COL, tile.cols)
    body = Body(problem, row_mask="row_ok" if rows_ragged else "", col_mask="col_ok" if cols_ragged else "")
    text = render(
        "softmax.py.j2",
        rows_ragged=rows_ragged,
        cols_ragged=cols_ragged,
        wide=is_wide(problem),
        index_lines=dimensions(problem, Axis.ROW, "row") + dimensions(problem, Axis.COL, "col"),
        x_offset=_tile_offset(problem),
        load_mask=', mask=col_ok, other=float("-inf")' if cols_ragged else "",
        widen=widened(problem.x.dtype),
        lines=softmax.lines("x_tile", problem.mode),
        epilogue=body.emit("acc"),
    )
    constants: dict[str, Any] = {"ROWS": problem.extent(Axis.ROW)} if rows_ragged else {}
    constants |= {"COLS": problem.extent(Axis.COL)} if cols_ragged else {}
    constants |= {"BLOCK_ROWS": tile.rows, "BLOCK_COLS": tile.cols}
    return Parts(problem.mode, constants, text, (ceil_div(problem.extent(Axis.ROW), tile.rows), 1, 1))


def _tile_offset(problem: AxisReduction) -> str:
    place = offsets(problem, problem.x)
    rows = place.rows or "tl.zeros_like(row)"
    cols = place.cols or "tl.zeros_like(col)"
    return f"({rows})[:, None] + ({cols})[None, :]"
