"""Contractions whose operands the copy engine fetches: a step is two boxes out of matrices and one product.

What lies outside a matrix arrives as zeros, so that no load has a mask and no thread computes an address. The rest of
the kernel, from the sums to the store, is that of any contraction.
"""

from __future__ import annotations

from ..ir.flat import FlatContraction, flat_matrices
from ..ir.matrices import Matrices, Matrix, matrices
from ..ir.plan import Tile
from ..ir.problem import Axis, Contraction
from .contraction import assembled, epilogue, index_lines, origin
from .indexing import is_wide, scaled, tile_lines
from .kernel import Descriptor, Parts, ceil_div, ragged, render
from .main_loop import Loop


def parts(problem: Contraction, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    loop = Loop(problem, tile)
    found = flat_matrices(problem) if isinstance(problem, FlatContraction) else matrices(problem)
    groups, row_tiles = problem.extent(Axis.GROUP), problem.row_tiles(tile.rows)
    col_tiles = ceil_div(problem.extent(Axis.COL), tile.cols)
    tiles = groups * row_tiles * col_tiles
    row_start, col_start = row_tiles > 1, col_tiles > 1
    text = render(
        "descriptors.py.j2",
        start_of_tile=[
            *tile_lines(groups, row_tiles, col_tiles),
            *(["row_start = tile_row * BLOCK_ROWS"] if row_start else []),
            *(["col_start = tile_col * BLOCK_COLS"] if col_start else []),
        ],
        loop=loop.is_loop,
        split_k=tile.split_k,
        counters=loop.counters(),
        start_lines=loop.start_lines(),
        advance_lines=loop.advance_lines(),
        body="\n".join(_step_lines(loop, found, row_start, col_start)),
        row_start="row_start + " if row_start else "",
        col_start="col_start + " if col_start else "",
        rows_ragged=ragged(problem, Axis.ROW, tile.rows),
        cols_ragged=ragged(problem, Axis.COL, tile.cols),
        wide=is_wide(problem),
        index_lines=index_lines(problem, tile),
        tile_index="pid",
        epilogue=epilogue(problem, tile),
    )
    return assembled(problem, tile, tiles, text, boxes(found, tile))


def boxes(found: Matrices, tile: Tile) -> dict[str, Descriptor]:
    """The descriptors of both operands."""
    w = (tile.cols, tile.depth) if found.transposed else (tile.depth, tile.cols)
    return {"x": _descriptor(found.x, (tile.rows, tile.depth)), "w": _descriptor(found.w, w)}


def _descriptor(matrix: Matrix, block: tuple[int, int]) -> Descriptor:
    return Descriptor(block, (matrix.rows, matrix.cols), (matrix.pitch, 1))


def _step_lines(loop: Loop, found: Matrices, row_start: bool, col_start: bool) -> list[str]:
    """One step: fetch a box of each operand, multiply and accumulate."""
    x_row = _joined([*_group(loop, found), *(["row_start"] if row_start else []), *_shifts(loop, found)])
    col = "col_start" if col_start else "0"
    along = ["c"] if loop.walks_depth and loop.is_loop else []
    w_row = _joined([*_blocks(loop, found), *along])
    w = f"w.load([{col}, {w_row}]).T" if found.transposed else f"w.load([{w_row}, {col}])"
    return [f"a = x.load([{x_row}, {_joined(along)}])", f"b = {w}", "acc = tl.dot(a, b, acc)"]


def _group(loop: Loop, found: Matrices) -> list[str]:
    """The first row of the program's group."""
    return [scaled("group", found.image_rows)] if loop.problem.extent(Axis.GROUP) > 1 else []


def _shifts(loop: Loop, found: Matrices) -> list[str]:
    """Where a tap's rows of x lie beside those of the tile."""
    first = found.first_row + origin(loop.problem.taps) // found.x.pitch
    shifts = [scaled(tap.name, tap.x_stride // found.x.pitch) for tap in loop.outer]
    return [*shifts, *([str(first)] if first else [])]


def _blocks(loop: Loop, found: Matrices) -> list[str]:
    """Where a tap's rows of w begin."""
    return [scaled(tap.name, tap.w_stride // found.w.pitch) for tap in loop.outer]


def _joined(terms: list[str]) -> str:
    return " + ".join(terms).replace("+ -", "- ") or "0"
