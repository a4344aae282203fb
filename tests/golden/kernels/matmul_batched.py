"""y = abs(matmul(x, w))

Over b0=3 (group), m=17 (row), k=20 (col).
x: fp16 tensor, strides b0: 561, m: 1
w: fp16 tensor, strides b0: 660, k: 33
y: fp32 tensor, strides b0: 340, m: 20, k: 1
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def matmul_38faaad2(x, w, y, steps):
    ROWS: tl.constexpr = 17
    COLS: tl.constexpr = 20
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    group = pid
    row = tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    b0 = group
    m = row
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + m[:, None] + b0 * 561 + (d * 17)[None, :]
    w_tile = w + (d)[:, None] + (k * 33)[None, :] + b0 * 660
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (c * 17), mask=(c + d < 33)[None, :], other=0.0)
        b = tl.load(w_tile + (c), mask=(c + d < 33)[:, None] & col_ok, other=0.0)
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
    v0 = tl.abs(acc)
    tl.store(y + (m * 20)[:, None] + k[None, :] + b0 * 340, v0.to(tl.float32), mask=row_ok & col_ok)
