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
def grid_sample_7fc87af0(grid1, grid0, x, y):
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
    v4 = tl.where(tl.abs(v3) < 8388608.0, tl.where(v3 < 0, -((tl.abs(v3) + 8388608.0) - 8388608.0), ((tl.abs(v3) + 8388608.0) - 8388608.0)), v3)
    v5 = tl.minimum(tl.maximum(v4, 0.0, propagate_nan=tl.PropagateNan.ALL), 7.0, propagate_nan=tl.PropagateNan.ALL)
    v6 = grid0_tile + (1.0)
    v7 = v6 * (8.0)
    v8 = v7 - (1.0)
    v9 = v8 * (0.5)
    v10 = tl.where(tl.abs(v9) < 8388608.0, tl.where(v9 < 0, -((tl.abs(v9) + 8388608.0) - 8388608.0), ((tl.abs(v9) + 8388608.0) - 8388608.0)), v9)
    v11 = tl.minimum(tl.maximum(v10, 0.0, propagate_nan=tl.PropagateNan.ALL), 7.0, propagate_nan=tl.PropagateNan.ALL)
    x_v5_v11 = tl.load(x + (i0 * 1536)[:, None] + i1[None, :] + v5.to(tl.int32) * 192 + v11.to(tl.int32) * 24, mask=col_ok & (v5 >= 0) & (v5 < 8) & (v11 >= 0) & (v11 < 8), other=0.0).to(tl.float32)
    v12 = x_v5_v11
    tl.store(y + (i0 * 480 + i2i3 * 24)[:, None] + i1[None, :], v12.to(tl.float16), mask=col_ok)
