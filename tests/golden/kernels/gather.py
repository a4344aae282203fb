"""y = gather(x, at)

Over i0i2i3=60 (row), i1=3 (col).
x: fp16 tensor, strides i0i2i3: 7, picked out of 7
at: int64 tensor, strides i1: 1
y: fp16 tensor, strides i0i2i3: 3, i1: 1
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def gather_defaebeb(x, at, y):
    COLS: tl.constexpr = 3
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i0i2i3 = row
    i1 = col
    at_tile = tl.load(at + i1[None, :], mask=col_ok, other=0.0)
    at_tile_from_0 = tl.where(at_tile < 0, at_tile + 7, at_tile)
    x_tile = tl.load(x + (i0i2i3 * 7)[:, None] + at_tile_from_0.to(tl.int32), mask=(at_tile_from_0 >= 0) & (at_tile_from_0 < 7), other=0.0)
    tl.store(y + (i0i2i3 * 3)[:, None] + i1[None, :], x_tile.to(tl.float16), mask=col_ok)
