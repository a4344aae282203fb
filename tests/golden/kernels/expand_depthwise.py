"""y = relu(in2 + (conv(clip(conv(x, we) + be), w) + bias))

Over p=7 (row), q=7 (row), c=70 (col).
x: fp16 tensor, strides p: 624, q: 48
w: fp16 weights, strides c: 1
we: fp16 weights, strides c: 1
be: fp32 weights, strides c: 1
bias: fp32 weights, strides c: 1
in2: fp32 tensor, strides p: 7, q: 1, c: 49
y: fp32 tensor, strides p: 7, q: 1, c: 49
Tile: 32 rows x 32 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_depthwise_f4a40d69(x, w, we, be, bias, in2, y):
    ROWS: tl.constexpr = 49
    COLS: tl.constexpr = 70
    BLOCK_ROWS: tl.constexpr = 32
    BLOCK_COLS: tl.constexpr = 32
    BLOCK_INPUTS: tl.constexpr = 32
    INPUTS: tl.constexpr = 24
    pid = tl.program_id(0)
    row = pid // 3 * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = pid % 3 * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)
    col_ok = (col < COLS)[None, :]
    p = row // 7
    q = row % 7
    c = col
    r_start = p * 2 - 1
    s_start = q * 2 - 1
    i = tl.arange(0, BLOCK_INPUTS)

    x_tile = x + (p * 624 + q * 48)[:, None] - 336 + i[None, :]
    expand = tl.load(we + (i * 72)[:, None] + c[None, :], mask=(i < INPUTS)[:, None] & col_ok, other=0.0)
    be_tile = tl.load(be + c[None, :], mask=col_ok, other=0.0)
    w_tile = w + c[None, :]
    acc = tl.full((BLOCK_ROWS, BLOCK_COLS), 0.0, tl.float32)
    for tap in range(9):
        r = tap // 3
        s = tap % 3
        r_at = r_start + r
        r_inside = ((r_at >= 0) & (r_at < 13))[:, None]
        s_at = s_start + s
        s_inside = ((s_at >= 0) & (s_at < 13))[:, None]
        pixels = tl.load(x_tile + (r * 312 + s * 24), mask=r_inside & s_inside & (i < INPUTS)[None, :], other=0.0)
        value = tl.dot(pixels, expand)
        e0 = value + be_tile
        e1 = tl.minimum(tl.maximum(e0, 0.0, propagate_nan=tl.PropagateNan.ALL), 6.0, propagate_nan=tl.PropagateNan.ALL)
        value = tl.where(r_inside & s_inside, e1, 0.0).to(tl.float16).to(tl.float32)
        acc += value * tl.load(w_tile + (r * 216 + s * 72), mask=col_ok, other=0.0).to(tl.float32)
    bias_tile = tl.load(bias + c[None, :], mask=col_ok, other=0.0)
    in2_tile = tl.load(in2 + (p * 7 + q)[:, None] + (c * 49)[None, :], mask=col_ok, other=0.0)
    v0 = acc + bias_tile
    v1 = in2_tile + v0
    v2 = tl.maximum(v1, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (p * 7 + q)[:, None] + (c * 49)[None, :], v2.to(tl.float32), mask=row_ok & col_ok)
