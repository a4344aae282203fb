"""y = conv(clip(depthwise(clip(conv(x, we) + be), wd) + bd), w) + bias

Over p=7 (row), q=7 (row), k=24 (col).
x: fp16 tensor, strides p: 624, q: 48
wd: fp16 weights, strides depth: 1
w: fp16 weights, strides k: 1
we: fp16 weights, strides depth: 1
be: fp32 weights, strides depth: 1
bd: fp32 weights, strides depth: 1
bias: fp32 weights, strides k: 1
y: fp32 tensor, strides p: 7, q: 1, k: 49
Tile: 16 rows x 32 columns x 64 deep, 4 warps, 2 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_depthwise3x3_conv1x1_2f5ad0fe(x, wd, w, we, be, bd, bias, y, steps):
    ROWS: tl.constexpr = 49
    COLS: tl.constexpr = 24
    BLOCK_ROWS: tl.constexpr = 16
    BLOCK_COLS: tl.constexpr = 32
    BLOCK_DEPTH: tl.constexpr = 64
    BLOCK_INPUTS: tl.constexpr = 32
    INPUTS: tl.constexpr = 24
    CHANNELS: tl.constexpr = 70
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    p = row // 7
    q = row % 7
    k = col
    r_start = p * 2 - 1
    s_start = q * 2 - 1
    i = tl.arange(0, BLOCK_INPUTS)

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 624 + q * 48)[:, None] - 336 + i[None, :]
    we_tile = we + (i * 72)[:, None] + d[None, :]
    wd_tile = wd + d[None, :]
    be_at = be + d[None, :]
    bd_at = bd + d[None, :]
    w_tile = w + (d * 24)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        channel_ok = c + d < CHANNELS
        expand = tl.load(we_tile + c, mask=(i < INPUTS)[:, None] & channel_ok[None, :], other=0.0)
        be_tile = tl.load(be_at + c, mask=channel_ok[None, :], other=0.0)
        mid = tl.zeros((BLOCK_ROWS, BLOCK_DEPTH), tl.float32)
        for r in tl.static_range(3):
            r_at = r_start + r
            r_inside = (r_at >= 0) & (r_at < 13)
            for s in tl.static_range(3):
                s_at = s_start + s
                s_inside = (s_at >= 0) & (s_at < 13)
                pixels = tl.load(x_tile + (r * 312 + s * 24), mask=r_inside[:, None] & s_inside[:, None] & (i < INPUTS)[None, :], other=0.0)
                value = tl.dot(pixels, expand)
                e0 = value + be_tile
                e1 = tl.minimum(tl.maximum(e0, 0.0, propagate_nan=tl.PropagateNan.ALL), 6.0, propagate_nan=tl.PropagateNan.ALL)
                value = tl.where(r_inside[:, None] & s_inside[:, None], e1, 0.0).to(tl.float16).to(tl.float32)
                mid += value * tl.load(wd_tile + (c + r * 216 + s * 72), mask=channel_ok[None, :], other=0.0).to(tl.float32)
        bd_tile = tl.load(bd_at + c, mask=channel_ok[None, :], other=0.0)
        f0 = mid + bd_tile
        f1 = tl.minimum(tl.maximum(f0, (-3.0), propagate_nan=tl.PropagateNan.ALL), 6.0, propagate_nan=tl.PropagateNan.ALL)
        mid = tl.where(channel_ok[None, :], f1, 0.0)
        acc = tl.dot(mid.to(tl.float16), tl.load(w_tile + (c * 24), mask=channel_ok[:, None] & (col < 24)[None, :], other=0.0), acc)
        c += BLOCK_DEPTH
    bias_tile = tl.load(bias + k[None, :], mask=col_ok, other=0.0)
    v0 = acc + bias_tile
    tl.store(y + (p * 7 + q)[:, None] + (k * 49)[None, :], v0.to(tl.float32), mask=row_ok & col_ok)
