"""y = scatterelements(x, at)

Over i0=2 (row), i2=6 (row), i3=5 (row), i1=8 (col).
x: fp16 tensor, strides i0: 240, i2: 40, i3: 8, i1: 1
at: int64 tensor, strides i0: 240, i2: 40, i3: 8, i1: 1
y: fp16 tensor, strides i0: 240, i3: 8, i1: 1, picked out of 6
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def scatter_2ab75436(x, at, y):
    COLS: tl.constexpr = 8
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i0 = row // 30
    i2 = (row // 5) % 6
    i3 = row % 5
    i1 = col
    x_tile = tl.load(x + (i0 * 240 + i2 * 40 + i3 * 8)[:, None] + i1[None, :], mask=col_ok, other=0.0)
    at_tile = tl.load(at + (i0 * 240 + i2 * 40 + i3 * 8)[:, None] + i1[None, :], mask=col_ok, other=0.0)
    at_tile_from_0 = tl.where(at_tile < 0, at_tile + 6, at_tile)
    tl.store(y + (i0 * 240 + i3 * 8)[:, None] + i1[None, :] + at_tile_from_0.to(tl.int32) * 40, x_tile.to(tl.float16), mask=col_ok & (at_tile_from_0 >= 0) & (at_tile_from_0 < 6))
