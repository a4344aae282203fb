"""y = conv(neg(x), w) + bias; m = max(y)

Over n=2 (group), p=8 (row), q=8 (row), k=9 (col).
x: fp32 tensor, strides n: 1280, p: 8, q: 1
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
y: fp16 tensor, strides n: 576, p: 72, q: 9, k: 1
m: fp32 tensor, strides n: 9, k: 1
Tile: 16 rows x 16 columns x 32 deep, 4 warps, 2 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv3x3_88e07e8e(x, w, bias, y, m, pool_partial, pool_counters, steps):
    COLS: tl.constexpr = 9
    BLOCK_ROWS: tl.constexpr = 16
    BLOCK_COLS: tl.constexpr = 16
    BLOCK_DEPTH: tl.constexpr = 32
    BLOCK_PARTS: tl.constexpr = 4
    pid = tl.program_id(0)
    tile_row = pid % 4
    group = pid // 4
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    n = group
    p = row // 8
    q = row % 8
    k = col

    r_start = p - 1
    r_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit r: that tap reads inside the input
    for r in tl.static_range(3):
        r_at = r_start + r
        r_inside |= ((r_at >= 0) & (r_at < 8)).to(tl.int32) << r

    s_start = q - 1
    s_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit s: that tap reads inside the input
    for s in tl.static_range(3):
        s_at = s_start + s
        s_inside |= ((s_at >= 0) & (s_at < 8)).to(tl.int32) << s

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 8 + q - 9)[:, None] + n * 1280 + (d * 64)[None, :]
    w_tile = w + (d * 16)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    s = 0
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r) & (s_inside >> s)) & 1) != 0
        a = tl.load(x_tile + (r * 8 + s), mask=inside[:, None] & (d < 20)[None, :], other=0.0)
        f0 = -a
        a = tl.where(inside[:, None] & (d < 20)[None, :], f0, 0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (r * 960 + s * 320), mask=(d < 20)[:, None] & (col < 16)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        s += 1
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry
    bias_tile = tl.load(bias + k[None, :], mask=col_ok, other=0.0)
    v0 = acc + bias_tile
    tl.store(y + (p * 72 + q * 9)[:, None] + k[None, :] + n * 576, v0.to(tl.float16), mask=col_ok)
    unordered = tl.max((v0 != v0).to(tl.int32), axis=0)
    pooled = tl.where(unordered > 0, float("nan"), tl.max(v0, axis=0))
    # The last of the 4 programs of this image and these columns takes what all of them left.
    lane = tl.arange(0, BLOCK_COLS)
    strip = group
    tl.store(pool_partial + (strip * 4 + tile_row) * BLOCK_COLS + lane, pooled)
    tl.debug_barrier()
    finished = tl.atomic_add(pool_counters + strip, 1, sem="acq_rel")
    if finished == 3:
        tl.debug_barrier()
        parts = tl.full((BLOCK_PARTS, BLOCK_COLS), float("-inf"), tl.float32)
        for first_part in range(0, 4, BLOCK_PARTS):
            piece = first_part + tl.arange(0, BLOCK_PARTS)
            left = pool_partial + (strip * 4 + piece)[:, None] * BLOCK_COLS + lane[None, :]
            found = tl.load(left, mask=(piece < 4)[:, None], other=float("-inf"), cache_modifier=".cg")
            parts = tl.maximum(parts, found, propagate_nan=tl.PropagateNan.ALL)
        unordered = tl.max((parts != parts).to(tl.int32), axis=0)
        pooled = tl.where(unordered > 0, float("nan"), tl.max(parts, axis=0))
        tl.store(m + k + n * 9, pooled.to(tl.float32), mask=(col < COLS))
        tl.store(pool_counters + strip, 0)
