"""y = averagepool(relu(conv(x, w)))

Over n=2 (row), p=10 (row), q=10 (row), k=8 (col).
x: fp32 tensor, strides n: 2704, p: 13, q: 1
w: fp16 weights, strides k: 1
y: fp32 tensor, strides n: 200, p: 5, q: 1, k: 25
Tile: 64 rows x 32 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv3x3_7a3e3307(x, w, y, steps):
    ROWS: tl.constexpr = 50
    BLOCK_PIXELS: tl.constexpr = 16
    COLS: tl.constexpr = 8
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 32
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    local = tl.arange(0, BLOCK_ROWS)
    row = tile_row * BLOCK_PIXELS + local % BLOCK_PIXELS  # pixel of the pooled image
    col = tl.arange(0, BLOCK_COLS)
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    i = local // (2 * BLOCK_PIXELS)
    j = local // BLOCK_PIXELS % 2
    n = row // 25
    window_p = (row // 5) % 5
    window_q = row % 5
    p = window_p * 2 + i
    q = window_q * 2 + j
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (n * 2704 + p * 13 + q)[:, None] + (d * 169)[None, :]
    w_tile = w + (d * 8)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    s = 0
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (r * 13 + s), mask=(d < 16)[None, :], other=0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (r * 384 + s * 128), mask=(d < 16)[:, None] & (col < 8)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        s += 1
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry
    v0 = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    pooled = tl.sum(tl.reshape(v0, (4, BLOCK_PIXELS, BLOCK_COLS)), axis=0) * 0.25
    pixel = tile_row * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    pooled_n = pixel // 25
    pooled_p = (pixel // 5) % 5
    pooled_q = pixel % 5
    pixel_ok = ((pixel < ROWS))[:, None]
    tl.store(y + (pooled_n * 200 + pooled_p * 5 + pooled_q)[:, None] + (k * 25)[None, :], pooled.to(tl.float32), mask=pixel_ok & col_ok)
