"""Separable convolutions: what windows give, depthwise sums or pooling, is built in registers and multiplied at once.

A step of the main loop takes a block of channels: the windows of the tile's pixels from shifted loads of x, in fp32;
bias and elementwise operators on them; rounding to the type of the product, as storing them would; and the product
with these channels' rows of the 1x1 weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import DType
from ..ir.expansion import UNROLLED_EXPANSIONS
from ..ir.plan import Tile
from ..ir.problem import Axis, Operand, Tap
from ..ir.separable import SeparableContraction
from . import expansion
from .contraction import cols_in_memory, constants, epilogue, origin, start_of
from .expressions import Body, widened
from .indexing import dimensions, group_lines, is_wide, joined_masks, offsets, scaled, shaped, tile_lines
from .kernel import Argument, Parts, ceil_div, ragged, render
from .typed import TRITON_TYPES
from .window import INITIAL, LARGER, UNROLLED_TAPS, WORDS, counts, divisor


def parts(problem: SeparableContraction, tile: Tile) -> Parts:
    """The pieces of the kernel."""
    rows, cols = problem.extent(Axis.ROW), problem.extent(Axis.COL)
    row_tiles, col_tiles = ceil_div(rows, tile.rows), ceil_div(cols, tile.cols)
    groups, split = problem.extent(Axis.GROUP), tile.split_k
    tiles = groups * row_tiles * col_tiles
    body = render(
        "separable.py.j2",
        tile_lines=tile_lines(groups, row_tiles, col_tiles),
        row_base="tile_row * BLOCK_ROWS + " if row_tiles > 1 else "",
        col_base="tile_col * BLOCK_COLS + " if col_tiles > 1 else "",
        rows_ragged=ragged(problem, Axis.ROW, tile.rows),
        cols_ragged=ragged(problem, Axis.COL, tile.cols),
        wide=is_wide(problem),
        index_lines=[
            *group_lines(problem),
            *dimensions(problem, Axis.ROW, "row"),
            *dimensions(problem, Axis.COL, "col"),
        ],
        starts=[f"{tap.name}_start = {start_of(problem, tap)}" for tap in problem.taps if counts(problem, tap)]
        + _divisor_lines(problem)
        + [expansion.INDEX] * (problem.expansion is not None),
        addresses=_addresses(problem),
        loop=_is_loop(problem, tile),
        split_k=split,
        step=_step_lines(problem, tile),
        tile_index="pid",
        epilogue=epilogue(problem, tile),
    )
    return Parts(
        word=("conv1x1_" if problem.expansion else "")
        + WORDS[problem.mode]
        + "x".join(str(tap.size) for tap in problem.taps)
        + "_conv1x1",
        constants=constants(problem, tile)
        | (expansion.constants(problem.expansion) if problem.expansion else {})
        | ({} if problem.depth % tile.depth == 0 else {"CHANNELS": problem.depth}),
        body=body,
        grid=(tiles, split, 1),
        extra=_extra(problem, tile),
        workspace_bytes=tiles * split * tile.rows * tile.cols * 4 if split > 1 else 0,
        counter_bytes=tiles * 4 if split > 1 else 0,
    )


def _steps(problem: SeparableContraction, tile: Tile) -> int:
    """Steps of one program: blocks of channels."""
    return ceil_div(problem.depth, tile.depth) // tile.split_k


def _is_loop(problem: SeparableContraction, tile: Tile) -> bool:
    return tile.split_k > 1 or _steps(problem, tile) > 1


def _extra(problem: SeparableContraction, tile: Tile) -> tuple[tuple[str, str, Argument], ...]:
    extra: list[tuple[str, str, Argument]] = []
    if tile.split_k > 1:
        extra += [("partial", "*fp32", Argument("partial")), ("counters", "*i32", Argument("counters"))]
    if _is_loop(problem, tile):
        extra.append(("steps", "i32", Argument("number", value=_steps(problem, tile))))
    return tuple(extra)


def _addresses(problem: SeparableContraction) -> list[str]:
    """Where the operands of the first block of channels lie."""
    place = offsets(problem, problem.x, origin(problem.taps)).filled(rows="row")
    x_offset = f"{place.joined()} + {_across('d', problem.x_depth)}"
    made = problem.expansion
    if made is not None:
        x_offset = expansion.x_offset(problem, made, origin(problem.taps))
    lines = [
        f"x_tile = x + {x_offset}",
        *([f"we_tile = {expansion.weights_address(made, _across('d', made.w.depth))}"] if made else []),
        *([f"wd_tile = wd + {_across('d', problem.filter.depth)}"] if problem.filter else []),
    ]
    for operand in (*(made.operands if made else ()), *problem.prologue_operands):
        lines.append(f"{operand.name}_at = {operand.name} + {_across('d', operand.depth)}")
    columns = offsets(problem, problem.w).filled(cols="col").joined()
    return [*lines, f"w_tile = w + ({scaled('d', problem.w_depth)})[:, None] + {columns}"]


def _across(name: str, stride: int) -> str:
    return shaped(scaled(name, stride), "[None, :]")


def _step_lines(problem: SeparableContraction, tile: Tile) -> list[str]:
    """One block of channels: its windows, what follows them, and the product."""
    compute = TRITON_TYPES[problem.compute]
    precision = f', input_precision="{problem.precision}"' if problem.compute is DType.FP32 else ""
    channels = "channel_ok" if problem.depth % tile.depth else ""
    lines = ["channel_ok = c + d < CHANNELS" if _is_loop(problem, tile) else "channel_ok = d < CHANNELS"]
    lines = [*(lines if channels else []), *_expanding_lines(problem, tile, channels), f"mid = {_nothing(problem)}"]
    lines += _window_lines(problem, tile, channels)
    lines += _chain_lines(problem, tile, channels)
    masks = [f"{channels}[:, None]"] if channels else []
    masks += [cols_in_memory(problem)] if ragged(problem, Axis.COL, tile.cols) else []
    w = _load("w_tile", _moved(problem, tile, problem.w_depth), joined_masks(masks))
    if problem.w.dtype is not problem.compute:
        w += f".to(tl.{compute})"
    rounded = "mid" if problem.compute is DType.FP32 else f"mid.to(tl.{compute})"
    return [*lines, f"acc = tl.dot({rounded}, {w}, acc{precision})"]


def _moved(problem: SeparableContraction, tile: Tile, stride: int) -> list[str]:
    """How far this step's channels lie behind the first ones."""
    return [scaled("c", stride)] if _is_loop(problem, tile) else []


def _load(base: str, moves: list[str], mask: str, other: str = "0.0") -> str:
    along = " + ".join(moves)
    address = f"{base} + {along if along.isidentifier() else f'({along})'}" if moves else base
    return f"tl.load({address}, mask={mask}, other={other})" if mask else f"tl.load({address})"


def _nothing(problem: SeparableContraction) -> str:
    """Windows before their first position."""
    shape = "(BLOCK_ROWS, BLOCK_DEPTH)"
    if problem.mode != "max":
        return f"tl.zeros({shape}, tl.float32)"
    return f"tl.full({shape}, {INITIAL[problem.mode]}, tl.float32)"


def _window_lines(problem: SeparableContraction, tile: Tile, channels: str) -> list[str]:
    """Loops over the taps, and what each adds."""
    unrolled = problem.tap_count <= (UNROLLED_EXPANSIONS if problem.expansion else UNROLLED_TAPS)
    lines: list[str] = []
    for level, tap in enumerate(problem.taps):
        loop = f"for {tap.name} in {'tl.static_range' if unrolled else 'range'}({tap.size}):"
        lines += ["    " * level + line for line in (loop, *_inside_lines(tap))]
    mask = joined_masks([*(f"{tap.name}_inside[:, None]" for tap in problem.taps if tap.masked)])
    indent = "    " * len(problem.taps)
    return [
        *lines,
        *(indent + line for line in _value_lines(problem, tile, channels, mask)),
        f"{indent}{_taken_in(problem, tile, channels)}",
        *([f"mid = mid / {divisor(problem)[1]}"] if problem.mode == "mean" else []),
    ]


def _taken_in(problem: SeparableContraction, tile: Tile, channels: str) -> str:
    """What the value at one position does to the window's result."""
    if problem.filter is None:
        return f"mid = {LARGER.format('mid')}" if problem.mode == "max" else "mid += value"
    weights = [scaled(tap.name, tap.w_stride) for tap in problem.taps]
    along = [*_moved(problem, tile, problem.filter.depth), *weights]
    weight = _load("wd_tile", along, f"{channels}[None, :]" if channels else "")
    return f"mid += value * {weight}{widened(problem.filter.dtype)}"


def _divisor_lines(problem: SeparableContraction) -> list[str]:
    """Counts what the windows of an average hold, once for all channels."""
    return divisor(problem)[0] if problem.mode == "mean" else []


def _value_lines(problem: SeparableContraction, tile: Tile, channels: str, inside: str) -> list[str]:
    """What a tap reads: x, or what is made from it."""
    moves = [scaled(tap.name, tap.x_stride) for tap in problem.taps]
    if problem.expansion is not None:
        address = f"x_tile + ({' + '.join(moves)})"
        return expansion.value_lines(problem, problem.expansion, address, inside)
    mask = joined_masks([*([inside] if inside else []), *([f"{channels}[None, :]"] if channels else [])])
    along = [*_moved(problem, tile, problem.x_depth), *moves]
    return [f"value = {_load('x_tile', along, mask, INITIAL[problem.mode])}{widened(problem.x.dtype)}"]


def _expanding_lines(problem: SeparableContraction, tile: Tile, channels: str) -> list[str]:
    """Loads what all taps of a block of channels need to expand: its weights, and the vectors over it."""
    made = problem.expansion
    if made is None:
        return []
    mask = f"{channels}[None, :]" if channels else ""
    address = " + ".join(["we_tile", *_moved(problem, tile, made.w.depth)])
    return [expansion.load_weights(problem, made, address, mask), *_vector_lines(problem, tile, made.operands, mask)]


def _inside_lines(tap: Tap) -> list[str]:
    """Whether a tap lies inside the input, one level in."""
    if not tap.masked:
        return []
    at = f"{tap.name}_at"
    return [
        f"    {at} = {tap.name}_start + {scaled(tap.name, tap.dilation)}",
        f"    {tap.name}_inside = ({at} >= 0) & ({at} < {tap.limit})",
    ]


def _vector_lines(problem: SeparableContraction, tile: Tile, operands: Sequence[Operand], mask: str) -> list[str]:
    """Loads of vectors over a block of channels."""
    loads = ((o, _load(f"{o.name}_at", _moved(problem, tile, o.depth), mask)) for o in operands)
    return [f"{operand.name}_tile = {load}{widened(operand.dtype)}" for operand, load in loads]


def _chain_lines(problem: SeparableContraction, tile: Tile, channels: str) -> list[str]:
    """Bias and elementwise operators on what the windows gave. Channels past the last give zero again: they meet
    weights that are zero, but operators could make infinity of nothing, and the largest of nothing is."""
    body = Body(problem, prefix="f")
    body.lines = _vector_lines(problem, tile, problem.prologue_operands, f"{channels}[None, :]" if channels else "")
    result = body.apply(problem.prologue, problem.prologue_operands, "mid")
    if channels and (problem.prologue or problem.expansion or problem.mode == "max"):
        result = f"tl.where({channels}[None, :], {result}, 0.0)"
    return body.lines if result == "mid" else [*body.lines, f"mid = {result}"]
