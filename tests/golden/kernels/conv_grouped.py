"""y = abs(conv(x, w))

Over g=2 (group), p=9 (row), q=9 (row), k=32 (col).
x: fp16 tensor, strides g: 32, p: 576, q: 64
w: fp16 weights, strides g: 9216, k: 1
y: fp32 tensor, strides g: 2592, p: 9, q: 1, k: 81
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv3x3_b49dc475(x, w, y, steps):
    ROWS: tl.constexpr = 81
    COLS: tl.constexpr = 32
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid % 2
    group = pid // 2
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    g = group
    p = row // 9
    q = row % 9
    k = col

    r_start = p - 1
    r_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit r: that tap reads inside the input
    for r in tl.static_range(3):
        r_at = r_start + r
        r_inside |= ((r_at >= 0) & (r_at < 9)).to(tl.int32) << r

    s_start = q - 1
    s_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit s: that tap reads inside the input
    for s in tl.static_range(3):
        s_at = s_start + s
        s_inside |= ((s_at >= 0) & (s_at < 9)).to(tl.int32) << s

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 576 + q * 64 - 640)[:, None] + g * 32 + (d)[None, :]
    w_tile = w + (d * 32)[:, None] + k[None, :] + g * 9216
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    s = 0
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r) & (s_inside >> s)) & 1) != 0
        a = tl.load(x_tile + (r * 576 + s * 64), mask=inside[:, None], other=0.0)
        b = tl.load(w_tile + (r * 3072 + s * 1024), mask=(col < 32)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        s += 1
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry
    v0 = tl.abs(acc)
    tl.store(y + (p * 9 + q)[:, None] + (k * 81)[None, :] + g * 2592, v0.to(tl.float32), mask=row_ok & col_ok)
