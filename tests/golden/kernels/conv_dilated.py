"""y = abs(conv(x, w))

Over p=9 (row), q=9 (row), k=24 (col).
x: fp16 tensor, strides p: 144, q: 16
w: fp16 weights, strides k: 1
y: fp32 tensor, strides p: 9, q: 1, k: 81
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv3x3_69db9109(x, w, y, steps):
    ROWS: tl.constexpr = 81
    COLS: tl.constexpr = 24
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    p = row // 9
    q = row % 9
    k = col

    r_start = p - 2
    r_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit r: that tap reads inside the input
    for r in tl.static_range(3):
        r_at = r_start + r * 2
        r_inside |= ((r_at >= 0) & (r_at < 9)).to(tl.int32) << r

    s_start = q - 2
    s_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit s: that tap reads inside the input
    for s in tl.static_range(3):
        s_at = s_start + s * 2
        s_inside |= ((s_at >= 0) & (s_at < 9)).to(tl.int32) << s

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 144 + q * 16 - 320)[:, None] + (d)[None, :]
    w_tile = w + (d * 24)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    s = 0
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r) & (s_inside >> s)) & 1) != 0
        a = tl.load(x_tile + (r * 288 + s * 32), mask=inside[:, None] & (d < 16)[None, :], other=0.0)
        b = tl.load(w_tile + (r * 1152 + s * 384), mask=(d < 16)[:, None] & (col < 24)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        s += 1
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry
    v0 = tl.abs(acc)
    tl.store(y + (p * 9 + q)[:, None] + (k * 81)[None, :], v0.to(tl.float32), mask=row_ok & col_ok)
