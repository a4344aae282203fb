"""y = pad(x)

Over i0=2 (row), i2=8 (row), i3=9 (row), i1=8 (col).
x: fp16 tensor, strides i0: 240, i2: 48, i3: 8, i1: 1
y: fp16 tensor, strides i0: 576, i2: 72, i3: 8, i1: 1
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def pad_90f6a90e(x, y):
    COLS: tl.constexpr = 8
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i0 = row // 72
    i2 = (row // 9) % 8
    i3 = row % 9
    i1 = col
    x_tile = tl.load(x + (i0 * 240 + tl.minimum(tl.maximum((i2 - 1), 0), 4) * 48 + tl.minimum(tl.maximum((i3 - 2), 0), 5) * 8)[:, None] + i1[None, :], mask=col_ok, other=0.0)
    tl.store(y + (i0 * 576 + i2 * 72 + i3 * 8)[:, None] + i1[None, :], x_tile.to(tl.float16), mask=col_ok)
