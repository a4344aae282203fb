"""y = abs(conv(x, w))

Over p=32 (row), q=32 (row), k=32 (col).
x: fp32 tensor, strides p: 128, q: 2
w: fp16 weights, strides k: 1
y: fp32 tensor, strides p: 32, q: 1, k: 1024
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv7x7_5e2618bf(x, w, y, steps):
    COLS: tl.constexpr = 32
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    p = row // 32
    q = row % 32
    k = col

    r_start = p * 2 - 3
    r_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit r: that tap reads inside the input
    for r in tl.static_range(7):
        r_at = r_start + r
        r_inside |= ((r_at >= 0) & (r_at < 64)).to(tl.int32) << r

    s_start = q * 2 - 3

    d = tl.arange(0, BLOCK_DEPTH)
    s = d // 3  # a step covers one line of the filter: its taps and their channels
    channel = d % 3
    s_at = s_start[:, None] + (s)[None, :]
    line_inside = (s_at >= 0) & (s_at < 64)
    x_tile = x + (p * 128 + q * 2 - 195)[:, None] + (s + channel * 4096)[None, :]
    w_tile = w + (d * 32)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r)) & 1) != 0
        a = tl.load(x_tile + (r * 64), mask=inside[:, None] & line_inside & (d < 21)[None, :], other=0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (r * 672), mask=(d < 21)[:, None] & (col < 32)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        r += 1
    v0 = tl.abs(acc)
    tl.store(y + (p * 32 + q)[:, None] + (k * 1024)[None, :], v0.to(tl.float32), mask=col_ok)
