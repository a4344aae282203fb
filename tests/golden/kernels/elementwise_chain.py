"""y = neg(in1)

Over i2=6 (row), i3=6 (col).
in1: fp32 tensor, strides i2: 6, i3: 1
y: fp16 tensor, strides i2: 6, i3: 1
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def elementwise_fcfe38f8(in1, y):
    ROWS: tl.constexpr = 6
    COLS: tl.constexpr = 6
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)
    col_ok = (col < COLS)[None, :]
    i2 = row
    i3 = col
    in1_tile = tl.load(in1 + (i2 * 6)[:, None] + i3[None, :], mask=col_ok, other=0.0)
    v0 = -in1_tile
    tl.store(y + (i2 * 6)[:, None] + i3[None, :], v0.to(tl.float16), mask=row_ok & col_ok)
