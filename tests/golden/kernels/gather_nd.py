"""y = gathernd(x, at, at1)

Over i0=2 (row), i2=5 (row), i1=4 (col).
x: fp16 tensor, strides i0: 210, i2: 7, picked out of 7 x 6
at: int64 tensor, strides i0: 8, i1: 1
at1: int64 tensor, strides i0: 8, i1: 1
y: fp16 tensor, strides i0: 20, i2: 4, i1: 1
Not at multiples of 16 bytes: at1.
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def gather_3dbead0c(x, at, at1, y):
    ROWS: tl.constexpr = 10
    COLS: tl.constexpr = 4
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
    at_tile = tl.load(at + (i0 * 8)[:, None] + i1[None, :], mask=col_ok, other=0.0)
    at_tile_from_0 = tl.where(at_tile < 0, at_tile + 7, at_tile)
    at1_tile = tl.load(at1 + (i0 * 8)[:, None] + i1[None, :], mask=col_ok, other=0.0)
    at1_tile_from_0 = tl.where(at1_tile < 0, at1_tile + 6, at1_tile)
    x_tile = tl.load(x + (i0 * 210 + i2 * 7)[:, None] + at_tile_from_0.to(tl.int32) + at1_tile_from_0.to(tl.int32) * 35, mask=(at_tile_from_0 >= 0) & (at_tile_from_0 < 7) & (at1_tile_from_0 >= 0) & (at1_tile_from_0 < 6), other=0.0)
    tl.store(y + (i0 * 20 + i2 * 4)[:, None] + i1[None, :], x_tile.to(tl.float16), mask=row_ok & col_ok)
