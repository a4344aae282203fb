"""y = softmax(gemm(x, w) + bias)

Over m=40 (row), k=10 (col).
x: fp32 tensor, strides m: 64
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
y: fp32 tensor, strides m: 10, k: 1
Tile: 16 rows x 16 columns x 32 deep, 4 warps, 2 stages.
"""

import triton
import triton.language as tl


@triton.jit
def matmul_d9b518e0(x, w, bias, y, steps):
    ROWS: tl.constexpr = 40
    COLS: tl.constexpr = 10
    BLOCK_ROWS: tl.constexpr = 16
    BLOCK_COLS: tl.constexpr = 16
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    m = row
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (m * 64)[:, None] + (d)[None, :]
    w_tile = w + (d * 16)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (c))
        a = a.to(tl.float16)
        b = tl.load(w_tile + (c * 16), mask=(col < 16)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
    bias_tile = tl.load(bias + k[None, :], mask=col_ok, other=0.0)
    v0 = acc + bias_tile
    acc = tl.where(col_ok, v0, float("-inf"))
    largest = tl.max(acc, axis=1)
    shifted = acc - largest[:, None]
    power = tl.exp(shifted)
    total = tl.sum(power, axis=1)
    acc = power / total[:, None]
    tl.store(y + (m * 10)[:, None] + k[None, :], acc.to(tl.float32), mask=row_ok & col_ok)
