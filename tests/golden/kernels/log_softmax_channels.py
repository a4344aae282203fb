"""y = abs(logsoftmax(x))

Over i0=2 (row), i2i3=16 (row), c=10 (col).
x: fp16 tensor, strides i0: 160, i2i3: 10, c: 1
y: fp32 tensor, strides i0: 160, i2i3: 1, c: 16
Tile: 4 rows x 16 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def log_softmax_f1252586(x, y):
    COLS: tl.constexpr = 10
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 16
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i0 = row // 16
    i2i3 = row % 16
    c = col
    x_tile = tl.load(x + (i0 * 160 + i2i3 * 10)[:, None] + (c)[None, :], mask=col_ok, other=float("-inf")).to(tl.float32)
    largest = tl.max(x_tile, axis=1)
    shifted = x_tile - largest[:, None]
    power = tl.exp(shifted)
    total = tl.sum(power, axis=1)
    acc = shifted - tl.log(total)[:, None]
    v0 = tl.abs(acc)
    tl.store(y + (i0 * 160 + i2i3)[:, None] + (c * 16)[None, :], v0.to(tl.float32), mask=col_ok)
