"""y = silu(conv(x, w) + bias); m = mean(y)

Over p=9 (row), q=7 (row), c=24 (col).
x: fp16 tensor, strides p: 168, q: 24, c: 1
w: fp16 weights, strides c: 1
bias: fp32 weights, strides c: 1
y: fp16 tensor, strides p: 168, q: 24, c: 1
m: fp16 tensor, strides c: 1
Tile: 16 rows x 32 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def depthwise_219fb7b0(x, w, bias, y, m, pool_partial, pool_counters):
    ROWS: tl.constexpr = 63
    COLS: tl.constexpr = 24
    BLOCK_ROWS: tl.constexpr = 16
    BLOCK_COLS: tl.constexpr = 32
    BLOCK_PARTS: tl.constexpr = 4
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)
    col_ok = (col < COLS)[None, :]
    p = row // 7
    q = row % 7
    c = col
    r_start = p - 1
    s_start = q - 1

    x_tile = x + (p * 168 + q * 24)[:, None] + c[None, :] - 192
    w_tile = w + c[None, :]
    acc = tl.full((BLOCK_ROWS, BLOCK_COLS), 0.0, tl.float32)
    for r in tl.static_range(3):
        r_at = r_start + r
        r_inside = ((r_at >= 0) & (r_at < 9))[:, None]
        for s in tl.static_range(3):
            s_at = s_start + s
            s_inside = ((s_at >= 0) & (s_at < 7))[:, None]
            value = tl.load(x_tile + (r * 168 + s * 24), mask=r_inside & s_inside & col_ok, other=0.0).to(tl.float32)
            acc += value * tl.load(w_tile + (r * 72 + s * 24), mask=col_ok, other=0.0).to(tl.float32)
    bias_tile = tl.load(bias + c[None, :], mask=col_ok, other=0.0)
    v0 = acc + bias_tile
    v1 = v0 / (1.0 + tl.exp(-v0))
    tl.store(y + (p * 168 + q * 24)[:, None] + c[None, :], v1.to(tl.float16), mask=row_ok & col_ok)
    v1 = tl.where(row_ok, v1, 0.0)
    pooled = tl.sum(v1, axis=0)
    # The last of the 4 programs of this image and these columns takes what all of them left.
    lane = tl.arange(0, BLOCK_COLS)
    strip = 0
    tl.store(pool_partial + (strip * 4 + tile_row) * BLOCK_COLS + lane, pooled)
    tl.debug_barrier()
    finished = tl.atomic_add(pool_counters + strip, 1, sem="acq_rel")
    if finished == 3:
        tl.debug_barrier()
        parts = tl.full((BLOCK_PARTS, BLOCK_COLS), 0.0, tl.float32)
        for first_part in range(0, 4, BLOCK_PARTS):
            piece = first_part + tl.arange(0, BLOCK_PARTS)
            left = pool_partial + (strip * 4 + piece)[:, None] * BLOCK_COLS + lane[None, :]
            found = tl.load(left, mask=(piece < 4)[:, None], other=0.0, cache_modifier=".cg")
            parts += found
        pooled = tl.sum(parts, axis=0)
        tl.store(m + c, (pooled / 63.0).to(tl.float16), mask=(col < COLS))
        tl.store(pool_counters + strip, 0)
