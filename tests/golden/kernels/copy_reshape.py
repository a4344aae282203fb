"""y = reshape(x)

Over i0=2 (row), i1=6 (row), i2=4 (row), i3=5 (col).
x: fp16 tensor, strides i0: 120, i1: 1, i2: 30, i3: 6
y: fp16 tensor, strides i0: 120, i1: 20, i2: 5, i3: 1
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def copy_e848a0ed(x, y):
    COLS: tl.constexpr = 5
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i0 = row // 24
    i1 = (row // 4) % 6
    i2 = row % 4
    i3 = col
    x_tile = tl.load(x + (i0 * 120 + i1 + i2 * 30)[:, None] + (i3 * 6)[None, :], mask=col_ok, other=0.0)
    tl.store(y + (i0 * 120 + i1 * 20 + i2 * 5)[:, None] + i3[None, :], x_tile.to(tl.float16), mask=col_ok)
