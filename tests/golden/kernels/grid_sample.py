"""y = gridsample(x, grid1, grid0)

Over i0=2 (row), i2i3=20 (row), i1=24 (col).
grid1: fp32 tensor, strides i0: 40, i2i3: 2
grid0: fp32 tensor, strides i0: 40, i2i3: 2
x: fp16 tensor, strides i0: 1536, i1: 1, picked out of 8 x 8
y: fp16 tensor, strides i0: 480, i2i3: 24, i1: 1
Not at multiples of 16 bytes: grid1.
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def grid_sample_5c88c1d8(grid1, grid0, x, y):
    COLS: tl.constexpr = 24
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i0 = row // 20
    i2i3 = row % 20
    i1 = col
    grid1_tile = tl.load(grid1 + (i0 * 40 + i2i3 * 2)[:, None])
    grid0_tile = tl.load(grid0 + (i0 * 40 + i2i3 * 2)[:, None])
    v0 = grid1_tile + (1.0)
    v1 = v0 * (8.0)
    v2 = v1 - (1.0)
    v3 = v2 * (0.5)
    v4 = tl.floor(v3)
    v5 = v3 - v4
    v6 = v4 + (1.0)
    v7 = (1.0) - v5
    v8 = grid0_tile + (1.0)
    v9 = v8 * (8.0)
    v10 = v9 - (1.0)
    v11 = v10 * (0.5)
    v12 = tl.floor(v11)
    v13 = v11 - v12
    v14 = v12 + (1.0)
    v15 = (1.0) - v13
    v16 = v7 * v15
    x_v4_v12 = tl.load(x + (i0 * 1536)[:, None] + i1[None, :] + v4.to(tl.int32) * 192 + v12.to(tl.int32) * 24, mask=col_ok & (v4 >= 0) & (v4 < 8) & (v12 >= 0) & (v12 < 8), other=0.0).to(tl.float32)
    v17 = x_v4_v12 * v16
    v18 = v7 * v13
    x_v4_v14 = tl.load(x + (i0 * 1536)[:, None] + i1[None, :] + v4.to(tl.int32) * 192 + v14.to(tl.int32) * 24, mask=col_ok & (v4 >= 0) & (v4 < 8) & (v14 >= 0) & (v14 < 8), other=0.0).to(tl.float32)
    v19 = x_v4_v14 * v18
    v20 = v17 + v19
    v21 = v5 * v15
    x_v6_v12 = tl.load(x + (i0 * 1536)[:, None] + i1[None, :] + v6.to(tl.int32) * 192 + v12.to(tl.int32) * 24, mask=col_ok & (v6 >= 0) & (v6 < 8) & (v12 >= 0) & (v12 < 8), other=0.0).to(tl.float32)
    v22 = x_v6_v12 * v21
    v23 = v20 + v22
    v24 = v5 * v13
    x_v6_v14 = tl.load(x + (i0 * 1536)[:, None] + i1[None, :] + v6.to(tl.int32) * 192 + v14.to(tl.int32) * 24, mask=col_ok & (v6 >= 0) & (v6 < 8) & (v14 >= 0) & (v14 < 8), other=0.0).to(tl.float32)
    v25 = x_v6_v14 * v24
    v26 = v23 + v25
    tl.store(y + (i0 * 480 + i2i3 * 24)[:, None] + i1[None, :], v26.to(tl.float16), mask=col_ok)
