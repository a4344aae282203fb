"""Convolutions in Gluon, Triton's lower level: the copy engine walks over windows in front of the products.

The engine fills a ring of boxes in shared memory. With a producer, one warp does nothing but ask for boxes, and the
others nothing but multiply; otherwise the same warps do both. Behind the sums stands the text of any contraction, with
Gluon's names and layouts. Only sm_90 has this form, and Triton's interpreter cannot run it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..ir.im2col import Im2col, im2col
from ..ir.plan import Tile
from ..ir.problem import Axis, Contraction
from .contraction import constants, epilogue, index_lines, word
from .indexing import is_wide, tile_lines
from .kernel import Argument, Descriptor, Parts, ceil_div, ragged, render

IMPORTS = (
    "from triton.experimental import gluon",
    "from triton.experimental.gluon import language as gl",
    "from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait",
)
PRODUCER_REGISTERS = 24
"""Registers of a thread of the producer: the least that can be given."""
SWIZZLE_BYTES = 128
VECTOR = 8
"""Elements of a vector of 16 bytes."""


def parts(problem: Contraction, tile: Tile) -> Parts:
    """The pieces of the kernel; its text is made by `text`, which needs its name."""
    walk = im2col(problem)
    row_tiles, col_tiles = _tiles(problem, tile)
    return Parts(
        word=word(problem),
        constants=constants(problem, tile) | _constants(walk, tile),
        body="",
        grid=(row_tiles * col_tiles, 1, 1),
        extra=(("steps", "i32", Argument("number", value=walk.w.rows // tile.depth)),),
        descriptors=boxes(walk, tile),
        imports=IMPORTS,
    )


def boxes(walk: Im2col, tile: Tile) -> dict[str, Descriptor]:
    """The descriptors of images and weights, with the layout of their boxes in shared memory."""
    corners = tuple((along.lower, along.upper) for along in (walk.lines, walk.columns))
    x = Descriptor(
        (tile.rows, tile.depth),
        walk.shape,
        walk.strides,
        layout=_shared_layout(tile.depth),
        lower=tuple(lower for lower, _ in corners),
        upper=tuple(upper for _, upper in corners),
        steps=(1, walk.lines.step, walk.columns.step, 1),
    )
    w = Descriptor(
        (tile.depth, tile.cols),
        (walk.w.rows, walk.w.cols),
        (walk.w.pitch, 1),
        layout=_shared_layout(tile.cols),
    )
    return {"x": x, "w": w}


def _shared_layout(inner: int) -> str:
    width = min(SWIZZLE_BYTES, 2 * inner)
    return (
        f"NVMMASharedLayout(swizzle_byte_width={width}, element_bitwidth=16, rank=2, transposed=False, "
        "fp4_padded=False, cga_layout=[])"
    )


def _tiles(problem: Contraction, tile: Tile) -> tuple[int, int]:
    return problem.row_tiles(tile.rows), ceil_div(problem.extent(Axis.COL), tile.cols)


def _constants(walk: Im2col, tile: Tile) -> dict[str, int | str]:
    """Sizes of the loop, and who holds which sums: of tensor cores, and in whole vectors."""
    across = min(32, tile.cols // VECTOR)
    return {
        "STAGES": tile.num_stages,
        "CHANNELS": walk.channels,
        "BLOCKS": walk.channels // tile.depth,
        "SUMS": f"gl.NVMMADistributedLayout([3, 0], [{tile.num_warps}, 1], [16, {min(tile.cols, 256)}, 16])",
        "TILE": f"gl.BlockedLayout([1, {VECTOR}], [{32 // across}, {across}], [{tile.num_warps}, 1], [1, 0])",
    }


def text(problem: Contraction, tile: Tile, parts: Parts, name: str, parameters: Sequence[str]) -> str:
    """The functions of the kernel of that name."""
    walk = im2col(problem)
    row_tiles, col_tiles = _tiles(problem, tile)
    ending = [*index_lines(problem, tile), *epilogue(problem, tile)]
    return render(
        "im2col.py.j2",
        name=name,
        parameters=parameters,
        operands=[parameter for parameter in parameters if parameter not in ("x", "w", "steps")],
        constants=parts.constants,
        lines=walk.lines,
        columns=walk.columns,
        rows_ragged=ragged(problem, Axis.ROW, tile.rows),
        cols_ragged=ragged(problem, Axis.COL, tile.cols),
        wide=is_wide(problem),
        ending=[in_gluon(line) for line in ending],
        producers=tile.producers,
        producer_registers=PRODUCER_REGISTERS,
        tile_lines=tile_lines(1, row_tiles, col_tiles),
        row_tiles=row_tiles,
        col_tiles=col_tiles,
    ).strip("\n")


def in_gluon(line: str) -> str:
    """A line of Triton's language in Gluon's: blocks that it makes get the layout of the tile."""
    line = re.sub(r"tl\.arange\(([^()]*)\)", r"gl.arange(\1, layout=gl.SliceLayout(1, TILE))", line)
    line = re.sub(r"tl\.zeros\((\([^()]*\), [\w.]+)\)", r"gl.zeros(\1, TILE)", line)
    return re.sub(r"\btl\.(?!PropagateNan)", "gl.", line)
