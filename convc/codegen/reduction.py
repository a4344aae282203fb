"""Reductions over whole dimensions, and softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    "log_sum": "acc += value",
    "product": "acc *= value",
    "max": "acc = tl.maximum(acc, value)",
    "min": "acc = tl.minimum(acc, value)",
    "sum_of_magnitudes": "acc += tl.abs(value)",
    "sum_of_squares": "acc += value * value",
    "norm": "acc += value * value",
}
_LEAST, _LARGEST = 'float("-inf")', 'float("inf")'
_INITIAL = {"max": _LEAST, "min": _LARGEST, "product": "1.0"}
_FINISH = {"norm": ["acc = tl.sqrt(acc)"], "log_sum": ["acc = tl.log(acc)"]}


@dataclass(frozen=True)
class _Loop:
    """What a reduction does before its loop, with each value in it, and behind it. fill: what is read past the end."""

    fill: str
    before: list[str]
    step: list[str]
    finish: list[str]


def parts(problem: AxisReduction, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    return _softmax(problem, tile) if problem.family == "softmax" else _reduction(problem, tile)


def _reduction(problem: AxisReduction, tile: Tile) -> Parts:
    length = math.prod(extent for extent, _ in problem.reduced)
    masked = bool(length % tile.cols)
    loop = _places(problem.mode, masked) if "arg" in problem.mode else _values(problem.mode, length, tile)
    rows_ragged = ragged(problem, Axis.ROW, tile.rows)
    body = Body(problem, row_mask="row_ok" if rows_ragged else "", row_suffix="")
    text = render(
        "reduction.py.j2",
        rows_ragged=rows_ragged,
        wide=is_wide(problem),
        index_lines=dimensions(problem, Axis.ROW, "row"),
        x_offset=offsets(problem, problem.x).joined() if _varies(problem) else "tl.zeros_like(row)[:, None]",
        before=loop.before,
        element_offset=unravelled("element", problem.reduced),
        load_mask=f", mask=(element < ELEMENTS)[None, :], other={loop.fill}" if masked else "",
        widen=widened(problem.x.dtype),
        step=loop.step,
        finish=loop.finish,
        epilogue=body.emit("acc"),
    )
    constants: dict[str, Any] = {"ROWS": problem.extent(Axis.ROW)} if rows_ragged else {}
    constants |= {"ELEMENTS": length, "BLOCK_ROWS": tile.rows, "BLOCK_ELEMENTS": tile.cols}
    return Parts(f"reduce_{problem.mode}", constants, text, (ceil_div(problem.extent(Axis.ROW), tile.rows), 1, 1))


def _full(name: str, value: str, dtype: str = "float32") -> str:
    return f"{name} = tl.full((BLOCK_ROWS, BLOCK_ELEMENTS), {value}, tl.{dtype})"


def _values(mode: str, length: int, tile: Tile) -> _Loop:
    """One value that all of a row come to."""
    fill = _INITIAL.get(mode, "0.0")
    before, step = [_full("acc", fill)], [_STEPS[mode]]
    if mode in ("max", "min"):
        zeros = "unordered = tl.zeros((BLOCK_ROWS, BLOCK_ELEMENTS), tl.int32)"
        before.append(f"{zeros}  # NaN must reach the result, which tl.{mode} does not do")
        step.append("unordered |= (value != value).to(tl.int32)")
        nan = 'acc = tl.where(tl.max(unordered, axis=1) > 0, float("nan"), acc)'
        return _Loop(fill, before, step, [f"acc = tl.{mode}(acc, axis=1)", nan])
    if mode == "product":
        return _Loop(fill, before, step, _multiplied(tile))
    finish = [f"acc = acc / {length}.0"] if mode == "mean" else _FINISH.get(mode, [])
    return _Loop(fill, before, step, ["acc = tl.sum(acc, axis=1)", *finish])


def _multiplied(tile: Tile) -> list[str]:
    """The product along a block's rows, by halves."""
    lines, width = [], tile.cols
    while width > 1:
        width //= 2
        lines += [f"left, right = tl.split(tl.reshape(acc, (BLOCK_ROWS, {width}, 2)))", "acc = left * right"]
    return [*lines, "acc = tl.reshape(acc, (BLOCK_ROWS,))"]


def _places(mode: str, masked: bool) -> _Loop:
    """The place of the largest or the least, NaN before all: of equals the first, or the last."""
    largest, last = "max" in mode, "last" in mode
    fill, sign, top = (_LEAST, ">", "tl.max") if largest else (_LARGEST, "<", "tl.min")
    nowhere, first = ("-1", "tl.max") if last else ("2147483647", "tl.min")
    unordered = "(value != value)" if last else "((value != value) & (best == best))"
    found = f"(value {sign}{'=' if last else ''} best) | {unordered} | (place == {nowhere})"
    return _Loop(
        fill,
        [_full("best", fill), _full("place", nowhere, "int32")],
        [
            f"found = ({found}) & (element < ELEMENTS)[None, :]" if masked else f"found = {found}",
            "best = tl.where(found, value, best)",
            "place = tl.where(found, element[None, :], place)",
        ],
        [
            "unordered = tl.max((best != best).to(tl.int32), axis=1) > 0",
            f"most = {top}(tl.where(best == best, best, {fill}), axis=1)",
            "found = tl.where(unordered[:, None], best != best, best == most[:, None])",
            f"acc = {first}(tl.where(found, place, {nowhere}), axis=1)",
        ],
    )


def _varies(problem: AxisReduction) -> bool:
    return any(problem.x.strides)


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
