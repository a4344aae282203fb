"""y = abs(relu((conv(x, w) + bias) + in2))

Over p=14 (row), q=14 (row), k=64 (col).
x: fp16 tensor, strides p: 480, q: 32, between zeros: 1 below an image, 1 right of a line
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
in2: fp16 tensor, strides p: 896, q: 64, k: 1
y: fp32 tensor, strides p: 14, q: 1, k: 196
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv3x3_3c99a75b(x, w, bias, in2, y, steps):
    ROWS: tl.constexpr = 196
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    p = row // 14
    q = row % 14
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 480 + q * 32 - 512)[:, None] + (d)[None, :]
    w_tile = w + (d * 64)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    s = 0
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (r * 480 + s * 32))
        b = tl.load(w_tile + (r * 6144 + s * 2048))
        acc = tl.dot(a, b, acc)
        s += 1
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry
    bias_tile = tl.load(bias + k[None, :])
    in2_tile = tl.load(in2 + (p * 896 + q * 64)[:, None] + k[None, :]).to(tl.float32)
    v0 = acc + bias_tile
    v1 = v0 + in2_tile
    v2 = tl.maximum(v1, 0.0, propagate_nan=tl.PropagateNan.ALL)
    v3 = tl.abs(v2)
    tl.store(y + (p * 14 + q)[:, None] + (k * 196)[None, :], v3.to(tl.float32), mask=row_ok)
