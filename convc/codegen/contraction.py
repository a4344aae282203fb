"""Implicit matrix product: convolutions of any stride, dilation and grouping, and matrix products.

The main loop is flat over window positions and channel blocks, with counters that carry over instead of divisions.
Whether a tap reads inside the input is a bit per row, computed once before the loop (within it where a window has more
positions than a word has bits). With few channels a step covers one line of the filter, taps and channels together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..ir import DType
from ..ir.flat import FlatContraction
from ..ir.plan import PackedWeight, Tile
from ..ir.pooled import PooledContraction
from ..ir.problem import Axis, Contraction, Tap
from . import border, flat, pooled, prologue, softmax
from .expressions import Body
from .global_pool import ending
from .indexing import dimensions, group_lines, is_wide, joined_masks, offsets, scaled, tile_lines
from .kernel import Descriptor, Parts, ceil_div, ragged, render
from .main_loop import Loop
from .typed import TRITON_TYPES


def parts(problem: Contraction, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    cols, groups = problem.extent(Axis.COL), problem.extent(Axis.GROUP)
    row_tiles, col_tiles = problem.row_tiles(tile.rows), ceil_div(cols, tile.cols)
    tiles = groups * row_tiles * col_tiles
    text = body(
        problem,
        tile,
        program_lines=tile_lines(groups, row_tiles, col_tiles),
        row_tiles=row_tiles,
        wide=is_wide(problem),
        col_base="tile_col * BLOCK_COLS + " if col_tiles > 1 else "",
        index_lines=index_lines(problem, tile),
        epilogue=epilogue(problem, tile),
    )
    return assembled(problem, tile, tiles, text)


def assembled(
    problem: Contraction, tile: Tile, tiles: int, body: str, descriptors: Mapping[str, Descriptor] | None = None
) -> Parts:
    """The pieces of a kernel of so many tiles, whose text is ``body``."""
    workspace_bytes, counter_bytes = scratch(tile, tiles)
    return Parts(
        word=word(problem),
        constants=constants(problem, tile),
        body=body,
        grid=(tiles, tile.split_k, 1),
        extra=Loop(problem, tile).parameters(),
        workspace_bytes=workspace_bytes,
        counter_bytes=counter_bytes,
        descriptors=descriptors or {},
    )


def scratch(tile: Tile, tiles: int) -> tuple[int, int]:
    """Bytes of the partial sums and counters of split-K."""
    if tile.split_k == 1:
        return 0, 0
    return tiles * tile.split_k * tile.rows * tile.cols * 4, tiles * 4


def body(
    problem: Contraction,
    tile: Tile,
    program_lines: list[str],
    row_tiles: int,
    wide: bool,
    index_lines: list[str],
    epilogue: list[str],
    col_base: str = "",
) -> str:
    """The kernel's text: the tile of a program, the main loop, and what follows."""
    loop = Loop(problem, tile)
    return render(
        "contraction.py.j2",
        tile_lines=program_lines,
        row_lines=_row_lines(problem, row_tiles),
        pooled=isinstance(problem, PooledContraction),
        col_base=col_base,
        rows_ragged=_rows_ragged(problem, tile),
        cols_ragged=ragged(problem, Axis.COL, tile.cols),
        wide=wide,
        index_lines=index_lines,
        masked_taps=[_described(loop, tap) for tap in problem.taps if tap.masked],
        flat=_described(loop, loop.flat) if loop.flat else None,
        depth=problem.depth,
        x_offset=_x_offset(loop),
        w_offset=_w_offset(loop),
        prologue_addresses=prologue.addresses(problem, "channel" if loop.flat else "d"),
        loop=loop.is_loop,
        split_k=tile.split_k,
        sums=TRITON_TYPES[problem.sums],
        counters=loop.counters(),
        start_lines=loop.start_lines(),
        advance_lines=loop.advance_lines(),
        body="\n".join(_step_lines(loop)),
        tile_index="pid",
        epilogue=epilogue,
    )


def _row_lines(problem: Contraction, row_tiles: int) -> list[str]:
    """The rows of the tile."""
    if isinstance(problem, PooledContraction):
        return pooled.row_lines(problem, row_tiles)
    return [f"row = {'tile_row * BLOCK_ROWS + ' if row_tiles > 1 else ''}tl.arange(0, BLOCK_ROWS)"]


def _rows_ragged(problem: Contraction, tile: Tile) -> bool:
    if isinstance(problem, PooledContraction):
        return pooled.is_ragged(problem, tile)
    return ragged(problem, Axis.ROW, tile.rows)


def word(problem: Contraction) -> str:
    """A short word for it."""
    if problem.mode == "matmul":
        return "matmul"
    sizes = [tap.size for tap in problem.taps]
    return "conv" + "x".join(str(size) for size in sizes or [1, 1])


def constants(problem: Contraction, tile: Tile) -> dict[str, Any]:
    """Extents that tiles stick out past, and the tile."""
    found: dict[str, Any] = {}
    if isinstance(problem, PooledContraction):
        found = pooled.constants(problem, tile)
    elif ragged(problem, Axis.ROW, tile.rows):
        found["ROWS"] = problem.extent(Axis.ROW)
    if ragged(problem, Axis.COL, tile.cols):
        found["COLS"] = problem.extent(Axis.COL)
    return found | {"BLOCK_ROWS": tile.rows, "BLOCK_COLS": tile.cols, "BLOCK_DEPTH": tile.depth}


def index_lines(problem: Contraction, tile: Tile) -> list[str]:
    """From group, row and column to the problem's dimensions."""
    lines = group_lines(problem)
    if isinstance(problem, PooledContraction):
        lines += pooled.index_lines(problem, tile)
    elif isinstance(problem, FlatContraction):
        lines += flat.index_lines(problem)
    else:
        lines += dimensions(problem, Axis.ROW, "row")
    return lines + dimensions(problem, Axis.COL, "col")


def _described(loop: Loop, tap: Tap) -> dict[str, Any]:
    return {
        "name": tap.name,
        "size": tap.size,
        "position": scaled(tap.name, tap.dilation),
        "limit": tap.limit,
        "bits": "" if tap is loop.flat or _is_long(tap) else "int32" if tap.size <= 31 else "int64",
        "masked": tap.masked,
        "start": start_of(loop.problem, tap) if tap.masked else "",
    }


def _is_long(tap: Tap) -> bool:
    """Whether a window has more positions than a word has bits: then a step finds out whether its own lies inside."""
    return tap.size > 63


def start_of(problem: Any, tap: Tap) -> str:
    """Input position of tap 0, in terms of the output index: index·step − pad."""
    name = problem.dims[tap.dim].name
    text = scaled(name, tap.step)
    return f"{text} - {tap.pad}" if tap.pad else text


def origin(taps: tuple[Tap, ...]) -> int:
    """Elements from the first input element to tap 0 of the first window: negative by the padding."""
    return -sum(tap.pad * tap.x_stride // tap.dilation for tap in taps)


def _x_offset(loop: Loop) -> str:
    problem = loop.problem
    place = offsets(problem, problem.x).moved(origin(problem.taps)).filled(rows="row")
    if loop.flat:
        along = f"{scaled(loop.flat.name, loop.flat.x_stride)} + {scaled('channel', problem.x_depth)}"
    else:
        along = scaled("d", problem.x_depth)
    return f"{place.joined()} + ({along})[None, :]"


def _w_offset(loop: Loop) -> str:
    problem = loop.problem
    place = offsets(problem, problem.w).filled(cols="col")
    if loop.flat and loop.flat.w_stride != problem.depth * problem.w_depth:
        along = f"{scaled(loop.flat.name, loop.flat.w_stride)} + {scaled('channel', problem.w_depth)}"
    else:
        along = scaled("d", problem.w_depth)
    return f"({along})[:, None] + {place.joined()}"


def _step_lines(loop: Loop) -> list[str]:
    """One step: load both operands, multiply and accumulate."""
    problem = loop.problem
    moves_x = [scaled(tap.name, tap.x_stride) for tap in loop.outer]
    moves_w = [scaled(tap.name, tap.w_stride) for tap in loop.outer]
    if loop.walks_depth:
        moves_x.append(scaled("c", problem.x_depth))
        moves_w.append(scaled("c", problem.w_depth))
    if not loop.is_loop:
        moves_x, moves_w = [], []
    inside, x_mask = _x_mask(loop)
    lines = list(inside)
    lines.append(f"a = {_load('x_tile', moves_x, x_mask)}")
    flat = loop.flat is not None
    moves = loop.walks_depth and loop.is_loop
    before, a = prologue.step(problem, _load, moves, "" if flat else _depth_mask(loop), x_mask)
    lines += before
    if problem.prologue or problem.x.dtype is not problem.compute:
        lines.append(f"a = {a}.to(tl.{TRITON_TYPES[problem.compute]})")
    lines.append(f"b = {_load('w_tile', moves_w, _w_mask(loop))}")
    if problem.w.dtype is not problem.compute:
        lines.append(f"b = b.to(tl.{TRITON_TYPES[problem.compute]})")
    precision = f', input_precision="{problem.precision}"' if problem.compute is DType.FP32 else ""
    exact = f"acc += tl.dot(a, b).to(tl.{TRITON_TYPES[problem.sums]})  # fp32 holds the sum of a step exactly"
    lines.append(f"acc = tl.dot(a, b, acc{precision})" if problem.sums.is_float else exact)
    return lines


def _load(base: str, moves: list[str], mask: str) -> str:
    address = f"{base} + ({' + '.join(moves)})" if moves else base
    return f"tl.load({address}, mask={mask}, other=0.0)" if mask else f"tl.load({address})"


def _x_mask(loop: Loop) -> tuple[list[str], str]:
    """Lines before the load, and its mask: taps inside the input, channels that exist."""
    masked = [tap for tap in loop.outer if tap.masked]
    counted = [tap for tap in masked if not _is_long(tap)]
    bits = " & ".join(f"({tap.name}_inside >> {tap.name})" if loop.is_loop else f"{tap.name}_inside" for tap in counted)
    lines = [f"inside = (({bits}) & 1) != 0"] if counted else []
    for tap in masked:
        if _is_long(tap):
            lines.append(f"{tap.name}_at = {tap.name}_start + {scaled(tap.name, tap.dilation)}")
            within = f"({tap.name}_at >= 0) & ({tap.name}_at < {tap.limit})"
            lines.append(f"inside = inside & {within}" if len(lines) > 1 else f"inside = {within}")
    masks = ["inside[:, None]"] if masked else []
    if loop.flat and loop.flat.masked:
        masks.append("line_inside")
    depth_mask = _depth_mask(loop)
    return lines, joined_masks([*masks, f"{depth_mask}[None, :]"] if depth_mask else masks)


def _depth_mask(loop: Loop) -> str:
    """Which elements of a step exist; empty where all do."""
    length = loop.plan.length
    if length % loop.tile.depth == 0:
        return ""
    return f"(c + d < {length})" if loop.walks_depth else f"(d < {length})"


def _w_mask(loop: Loop) -> str:
    problem = loop.problem
    depth_mask = _depth_mask(loop)
    masks = [f"{depth_mask}[:, None]"] if depth_mask else []
    if ragged(problem, Axis.COL, loop.tile.cols):
        masks.append(cols_in_memory(problem))
    return joined_masks(masks)


def cols_in_memory(problem: Contraction) -> str:
    """Mask over columns of the weights: up to their padded pitch, which keeps wide accesses whole."""
    source = problem.w.source
    if isinstance(source, PackedWeight) and len(problem.positions(Axis.COL)) == 1:
        return f"(col < {source.pitch})[None, :]"
    return "col_ok"


def epilogue(problem: Contraction, tile: Tile) -> list[str]:
    """From the sums to the store."""
    cols_ragged = ragged(problem, Axis.COL, tile.cols)
    share = border.Share("tile_row", problem.row_tiles(tile.rows), mask="col_ok" if cols_ragged else "")
    zeros = flat.with_margin_alone(problem) if isinstance(problem, FlatContraction) else problem
    return [*_ending(problem, tile, cols_ragged), *border.lines(zeros, share)]


def _ending(problem: Contraction, tile: Tile, cols_ragged: bool) -> list[str]:
    if isinstance(problem, PooledContraction):
        return pooled.epilogue(problem, tile, cols_ragged)
    row_mask, col_mask = "row_ok" if ragged(problem, Axis.ROW, tile.rows) else "", "col_ok" if cols_ragged else ""
    if isinstance(problem, FlatContraction):
        return flat.ending(problem, row_mask, col_mask)
    found = Body(problem, row_mask, col_mask)
    return softmax.ending(found, problem.normalise) if problem.normalise else ending(found, tile)
