"""Reductions over sliding windows: pooling, depthwise convolution, local response normalisation."""

from __future__ import annotations

import math
from typing import Any

from ..ir.expansion import ExpandedWindow
from ..ir.plan import Tile
from ..ir.problem import Axis, Tap, WindowReduction
from ..ir.separable import SeparableContraction
from . import border, expansion
from .contraction import origin, start_of
from .expressions import TRITON_TYPES, Body, widened
from .global_pool import ending, tiles
from .indexing import block_starts, dimensions, group_lines, is_wide, joined_masks, offsets, scaled
from .kernel import Parts, ragged, render

UNROLLED_TAPS = 25
"""Windows up to this size are unrolled; larger ones loop. A guess, not measured."""

WORDS = {"max": "max_pool", "mean": "average_pool", "conv": "depthwise", "sum_of_squares": "lrn"}
INITIAL = {"max": 'float("-inf")', "mean": "0.0", "conv": "0.0", "sum_of_squares": "0.0"}
"""What a window of nothing gives, and what its padding counts as."""
LARGER = "tl.maximum({}, value, propagate_nan=tl.PropagateNan.ALL)"


def parts(problem: WindowReduction, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    row_tiles, col_tiles = tiles(problem, tile)
    lines, row_base, col_base = block_starts(problem, row_tiles, col_tiles)
    body = render(
        "window.py.j2",
        tile_lines=lines,
        row_base=row_base,
        col_base=col_base,
        rows_ragged=ragged(problem, Axis.ROW, tile.rows),
        cols_ragged=ragged(problem, Axis.COL, tile.cols),
        wide=is_wide(problem),
        index_lines=[
            *group_lines(problem),
            *dimensions(problem, Axis.ROW, "row"),
            *dimensions(problem, Axis.COL, "col"),
        ],
        starts=_start_lines(problem),
        x_offset=_x_offset(problem),
        before=_expanding_lines(problem, tile) if isinstance(problem, ExpandedWindow) else [],
        weighted=problem.w is not None,
        sums=TRITON_TYPES[problem.sums],
        w_offset=offsets(problem, problem.w).joined() if problem.w else "",
        initial=INITIAL[problem.mode],
        loop_lines=_loop_lines(problem, tile),
        finish=_finish_lines(problem),
        epilogue=[*ending(_body(problem, tile), tile), *border.lines(problem, _share(problem, tile, row_base))],
    )
    word = ("conv1x1_" if isinstance(problem, ExpandedWindow) else "") + WORDS[problem.mode]
    programs = problem.extent(Axis.GROUP) * row_tiles * col_tiles
    return Parts(word, _constants(problem, tile), body, (programs, 1, 1))


def _constants(problem: WindowReduction, tile: Tile) -> dict[str, Any]:
    constants: dict[str, Any] = {}
    if ragged(problem, Axis.ROW, tile.rows):
        constants["ROWS"] = problem.extent(Axis.ROW)
    if ragged(problem, Axis.COL, tile.cols):
        constants["COLS"] = problem.extent(Axis.COL)
    constants |= {"BLOCK_ROWS": tile.rows, "BLOCK_COLS": tile.cols}
    if isinstance(problem, ExpandedWindow):
        constants |= expansion.constants(problem.expansion)
    return constants


def _body(problem: WindowReduction, tile: Tile) -> Body:
    return Body(
        problem,
        row_mask="row_ok" if ragged(problem, Axis.ROW, tile.rows) else "",
        col_mask="col_ok" if ragged(problem, Axis.COL, tile.cols) else "",
    )


def _share(problem: WindowReduction, tile: Tile, row_base: str) -> border.Share:
    masked = ragged(problem, Axis.COL, tile.cols)
    return border.Share(row_base, tiles(problem, tile)[0], mask="col_ok" if masked else "")


def counts(problem: WindowReduction | SeparableContraction, tap: Tap) -> bool:
    """Whether positions along a tap are compared with the input's end, for masks or for the divisor."""
    return tap.masked or problem.divisor == "padded"


def _start_lines(problem: WindowReduction) -> list[str]:
    """Where windows start along what is compared with the input's end, and the channels that are expanded."""
    starts = [f"{tap.name}_start = {start_of(problem, tap)}" for tap in problem.taps if counts(problem, tap)]
    return starts + [expansion.INDEX] * isinstance(problem, ExpandedWindow)


def _x_offset(problem: WindowReduction) -> str:
    before = origin(problem.taps)
    if isinstance(problem, ExpandedWindow):
        return expansion.x_offset(problem, problem.expansion, before)
    return offsets(problem, problem.x, before).joined()


def _expanding_lines(problem: ExpandedWindow, tile: Tile) -> list[str]:
    """Loads what all taps need: the weights of the block's channels, and the vectors over them."""
    body, made = _body(problem, tile), problem.expansion
    address = expansion.weights_address(made, offsets(problem, made.w).filled(cols="col").joined())
    vectors = [f"{operand.name}_tile = {body.load(operand)}" for operand in made.operands]
    return [expansion.load_weights(problem, made, address, body.col_mask), *vectors]


def _loop_lines(problem: WindowReduction, tile: Tile) -> list[str]:
    """The loop over the window. Where every position is expanded it is one loop, whose loads run ahead; otherwise one
    for each dimension, unrolled where the window is small."""
    if isinstance(problem, ExpandedWindow):
        lines = expansion.loop_head(problem.taps, problem.tap_count)
        for tap in problem.taps:
            lines += ["    " + line for line in _inside_lines(problem, tap)]
        return [*lines, *("    " + line for line in _tap_lines(problem, tile))]
    static = math.prod(tap.size for tap in problem.taps) <= UNROLLED_TAPS
    lines = []
    for level, tap in enumerate(problem.taps):
        indent = "    " * level
        lines.append(f"{indent}for {tap.name} in {'tl.static_range' if static else 'range'}({tap.size}):")
        lines += [f"{indent}    {line}" for line in _inside_lines(problem, tap)]
    return [*lines, *("    " * len(problem.taps) + line for line in _tap_lines(problem, tile))]


def _inside_lines(problem: WindowReduction, tap: Tap) -> list[str]:
    """Whether a tap lies inside the input."""
    if not tap.masked:
        return []
    at, suffix = f"{tap.name}_at", "[:, None]" if problem.dims[tap.dim].axis is Axis.ROW else "[None, :]"
    return [
        f"{at} = {tap.name}_start + {scaled(tap.name, tap.dilation)}",
        f"{tap.name}_inside = (({at} >= 0) & ({at} < {tap.limit})){suffix}",
    ]


def _tap_lines(problem: WindowReduction, tile: Tile) -> list[str]:
    """Loads the value at one window position and takes it in."""
    masks = [f"{tap.name}_inside" for tap in problem.taps if tap.masked]
    if ragged(problem, Axis.COL, tile.cols) and any(problem.x.strides[i] for i in problem.positions(Axis.COL)):
        masks.append("col_ok")
    mask = joined_masks(masks)
    address = f"x_tile + ({' + '.join(scaled(tap.name, tap.x_stride) for tap in problem.taps)})"
    if isinstance(problem, ExpandedWindow):
        return [*expansion.value_lines(problem, problem.expansion, address, mask), *_weighted_lines(problem, tile)]
    load = f"tl.load({address}, mask={mask}, other={INITIAL[problem.mode]})" if mask else f"tl.load({address})"
    lines = [f"value = {load}{widened(problem.x.dtype)}"]
    if problem.mode == "max":
        return [*lines, f"acc = {LARGER.format('acc')}"]
    if problem.mode == "mean":
        return [*lines, "acc += value"]
    if problem.mode == "sum_of_squares":
        return [*lines, "acc += value * value"]
    return [*lines, *_weighted_lines(problem, tile)]


def _weighted_lines(problem: WindowReduction, tile: Tile) -> list[str]:
    assert problem.w is not None
    address = f"w_tile + ({' + '.join(scaled(tap.name, tap.w_stride) for tap in problem.taps)})"
    mask = ", mask=col_ok, other=0.0" if ragged(problem, Axis.COL, tile.cols) else ""
    return [f"acc += value * tl.load({address}{mask}){widened(problem.w.dtype)}"]


def _finish_lines(problem: WindowReduction) -> list[str]:
    """The division of an average."""
    if problem.mode != "mean":
        return []
    lines, count = divisor(problem)
    return [*lines, f"acc = acc / {count}"]


def divisor(problem: WindowReduction | SeparableContraction) -> tuple[list[str], str]:
    """What an average divides by: lines that count the positions of each window, and the quotient's lower part."""
    if problem.divisor == "window":
        return [], f"{math.prod(tap.size for tap in problem.taps)}.0"
    lines: list[str] = []
    factors = []
    for index, tap in enumerate(problem.taps):
        padded = problem.divisor == "padded"
        if not (tap.masked or padded):
            factors.append(f"{tap.size}.0")
            continue
        low, high = (-tap.pad, problem.padded[index] - tap.pad) if padded else (0, tap.limit)
        lines += [
            f"{tap.name}_count = tl.zeros_like({tap.name}_start)",
            f"for {tap.name} in tl.static_range({tap.size}):",
            f"    {tap.name}_at = {tap.name}_start + {scaled(tap.name, tap.dilation)}",
            f"    {tap.name}_count += (({tap.name}_at >= {low}) & ({tap.name}_at < {high})).to({tap.name}_count.dtype)",
        ]
        factors.append(f"{tap.name}_count[:, None].to(tl.float32)")
    return lines, f"({' * '.join(factors)})"
