"""y = conv(clip(averagepool(x)), w) + bias

Over p=4 (row), q=4 (row), k=70 (col).
x: fp16 tensor, strides p: 1260, q: 180
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
y: fp32 tensor, strides p: 4, q: 1, k: 16
Tile: 16 rows x 64 columns x 32 deep, 4 warps, 2 stages.
"""

import triton
import triton.language as tl


@triton.jit
def average_pool3x3_conv1x1_5efa0502(x, w, bias, y, steps):
    COLS: tl.constexpr = 70
    BLOCK_ROWS: tl.constexpr = 16
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    CHANNELS: tl.constexpr = 90
    pid = tl.program_id(0)
    tile_col = pid
    row = tl.arange(0, BLOCK_ROWS)
    col = tile_col * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    p = row // 4
    q = row % 4
    k = col
    r_start = p * 2 - 1
    s_start = q * 2 - 1
    r_count = tl.zeros_like(r_start)
    for r in tl.static_range(3):
        r_at = r_start + r
        r_count += ((r_at >= 0) & (r_at < 7)).to(r_count.dtype)
    s_count = tl.zeros_like(s_start)
    for s in tl.static_range(3):
        s_at = s_start + s
        s_count += ((s_at >= 0) & (s_at < 7)).to(s_count.dtype)

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 1260 + q * 180)[:, None] - 720 + d[None, :]
    w_tile = w + (d * 72)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        channel_ok = c + d < CHANNELS
        mid = tl.zeros((BLOCK_ROWS, BLOCK_DEPTH), tl.float32)
        for r in tl.static_range(3):
            r_at = r_start + r
            r_inside = (r_at >= 0) & (r_at < 7)
            for s in tl.static_range(3):
                s_at = s_start + s
                s_inside = (s_at >= 0) & (s_at < 7)
                value = tl.load(x_tile + (c + r * 630 + s * 90), mask=r_inside[:, None] & s_inside[:, None] & channel_ok[None, :], other=0.0).to(tl.float32)
                mid += value
        mid = mid / (r_count[:, None].to(tl.float32) * s_count[:, None].to(tl.float32))
        f0 = tl.minimum(tl.maximum(mid, 0.0, propagate_nan=tl.PropagateNan.ALL), 6.0, propagate_nan=tl.PropagateNan.ALL)
        mid = tl.where(channel_ok[None, :], f0, 0.0)
        acc = tl.dot(mid.to(tl.float16), tl.load(w_tile + (c * 72), mask=channel_ok[:, None] & (col < 72)[None, :], other=0.0), acc)
        c += BLOCK_DEPTH
    bias_tile = tl.load(bias + k[None, :], mask=col_ok, other=0.0)
    v0 = acc + bias_tile
    tl.store(y + (p * 4 + q)[:, None] + (k * 16)[None, :], v0.to(tl.float32), mask=col_ok)
