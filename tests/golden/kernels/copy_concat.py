"""y = concat(x)

Over i2i3=36 (row), i1=8 (col).
x: fp32 tensor, strides i2i3: 1, i1: 36
y: fp16 tensor, strides i2i3: 16, i1: 1
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def copy_a2fe418f(x, y):
    COLS: tl.constexpr = 8
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i2i3 = row
    i1 = col
    x_tile = tl.load(x + i2i3[:, None] + (i1 * 36)[None, :], mask=col_ok, other=0.0)
    tl.store(y + (i2i3 * 16)[:, None] + i1[None, :], x_tile.to(tl.float16), mask=col_ok)
