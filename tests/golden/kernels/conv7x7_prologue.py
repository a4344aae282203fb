"""y = relu(conv((cast(x) * pre1) + pre2, w) + bias)

Over p=32 (row), q=32 (row), k=64 (col).
x: uint8 tensor, strides p: 128, q: 2
w: fp16 weights, strides k: 1
pre1: fp32 weights, strides depth: 1
pre2: fp32 weights, strides depth: 1
bias: fp32 weights, strides k: 1
y: fp32 tensor, strides p: 32, q: 1, k: 1024
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv7x7_d3824d25(x, w, pre1, pre2, bias, y, steps):
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
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
    w_tile = w + (d * 64)[:, None] + k[None, :]
    pre1_at = pre1 + (channel)[None, :]
    pre2_at = pre2 + (channel)[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r)) & 1) != 0
        a = tl.load(x_tile + (r * 64), mask=inside[:, None] & line_inside & (d < 21)[None, :], other=0.0)
        a = a.to(tl.float32)
        pre1_tile = tl.load(pre1_at)
        pre2_tile = tl.load(pre2_at)
        f0 = a
        f1 = f0 * pre1_tile
        f2 = f1 + pre2_tile
        a = tl.where(inside[:, None] & line_inside & (d < 21)[None, :], f2, 0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (r * 1344), mask=(d < 21)[:, None], other=0.0)
        acc = tl.dot(a, b, acc)
        r += 1
    bias_tile = tl.load(bias + k[None, :])
    v0 = acc + bias_tile
    v1 = tl.maximum(v0, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (p * 32 + q)[:, None] + (k * 1024)[None, :], v1.to(tl.float32))
