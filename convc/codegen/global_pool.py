"""The end of a kernel that pools its result over whole images, too.

A program reduces its tile over the rows, which are pixels of one image. Where an image is one tile, that is the result.
Elsewhere every program leaves a vector in the workspace and takes a ticket; the one that takes the last ticket of its
image and columns folds all vectors, in an order that does not depend on which program that is.
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.plan import Tile
from ..ir.problem import Axis, Problem
from ..targets.cost import pooled_parts
from .expressions import Body
from .kernel import Argument, Parts, ceil_div, render

ALIGNMENT = 16
"""Bytes that the counters and the workspace of the pooling start at multiples of."""


def ending(body: Body, tile: Tile) -> list[str]:
    """Lines from the accumulator to the stores of the result and of its pooling, where there is one."""
    problem = body.problem
    if problem.pool is None:
        return body.emit("acc" if problem.family != "pointwise" else None)
    result = body.values("acc" if problem.family != "pointwise" else None)
    lines = [*body.lines, *([body.store(result)] if problem.pool.keeps else [])]
    row_tiles, col_tiles = tiles(problem, tile)
    text = render(
        "global_pool.j2",
        mode=problem.pool.mode,
        row_mask=body.row_mask,
        result=result,
        row_tiles=row_tiles,
        strip=_strip(problem, col_tiles),
        store=_store(body),
    )
    return [*lines, *text.strip("\n").split("\n")]


def tiles(problem: Problem, tile: Tile) -> tuple[int, int]:
    """Tiles along rows and columns."""
    return ceil_div(problem.extent(Axis.ROW), tile.rows), ceil_div(problem.extent(Axis.COL), tile.cols)


def _strip(problem: Problem, col_tiles: int) -> str:
    """The number of an image's columns among all."""
    groups = problem.extent(Axis.GROUP)
    terms = ["group" if col_tiles == 1 else f"group * {col_tiles}"] if groups > 1 else []
    return " + ".join([*terms, *(["tile_col"] if col_tiles > 1 else [])]) or "0"


def _store(body: Body) -> str:
    problem, pool = body.problem, body.problem.pool
    assert pool is not None
    mask = "(col < COLS)" if body.col_mask else ""
    columns = Body(replace(problem, output=pool.output), col_mask=mask, col_suffix="", rows_stored=False)
    count = f" / {problem.extent(Axis.ROW)}.0" if pool.mode == "mean" else ""
    return columns.store(f"(pooled{count})" if count else "pooled")


def with_scratch(parts: Parts, problem: Problem, tile: Tile) -> Parts:
    """The parts of a kernel with what its pooling needs besides: workspace, counters, a constant."""
    row_tiles, col_tiles = tiles(problem, tile)
    if problem.pool is None or row_tiles == 1:
        return parts
    strips = problem.extent(Axis.GROUP) * col_tiles
    workspace, counters = (ceil_div(n, ALIGNMENT) * ALIGNMENT for n in (parts.workspace_bytes, parts.counter_bytes))
    extra = (
        ("pool_partial", "*fp32", Argument("partial", value=workspace)),
        ("pool_counters", "*i32", Argument("counters", value=counters)),
    )
    return replace(
        parts,
        constants={**parts.constants, "BLOCK_PARTS": pooled_parts(row_tiles, tile.cols)},
        extra=(*extra, *parts.extra),
        workspace_bytes=workspace + strips * row_tiles * tile.cols * 4,
        counter_bytes=counters + strips * 4,
    )
