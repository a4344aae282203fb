"""y = scatternd(x, at)

Over i0=2 (row), i2=5 (row), i1=6 (col).
x: fp16 tensor, strides i0: 30, i2: 6, i1: 1
at: int64 weights, strides i0: 1
y: fp16 tensor, strides i2: 6, i1: 1, picked out of 7
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def scatter_62f13028(x, at, y):
    ROWS: tl.constexpr = 10
    COLS: tl.constexpr = 6
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)
    col_ok = (col < COLS)[None, :]
    i0 = row // 5
    i2 = row % 5
    i1 = col
    x_tile = tl.load(x + (i0 * 30 + i2 * 6)[:, None] + i1[None, :], mask=col_ok, other=0.0)
    at_tile = tl.load(at + i0[:, None])
    at_tile_from_0 = tl.where(at_tile < 0, at_tile + 7, at_tile)
    tl.store(y + (i2 * 6)[:, None] + i1[None, :] + at_tile_from_0.to(tl.int32) * 30, x_tile.to(tl.float16), mask=row_ok & col_ok & (at_tile_from_0 >= 0) & (at_tile_from_0 < 7))
