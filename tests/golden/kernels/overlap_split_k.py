"""y = abs(conv(neg(x), w) + bias)

Over p=7 (row), q=7 (row), k=64 (col).
x: fp32 tensor, strides p: 7, q: 1
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
y: fp32 tensor, strides p: 7, q: 1, k: 49
Tile: 64 rows x 16 columns x 32 deep, split-K 18, 4 warps, 4 stages.
"""

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def fetch(weights, first, bytes):
    """Has one thread of the block ask for a piece of the weights in the L2 cache."""
    tl.inline_asm_elementwise(
        "{ .reg .pred one; .reg .u32 thread; mov.u32 thread, %tid.x; setp.eq.u32 one, thread, 0;"
        " @one cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0; }",
        "=r,l,r",
        [weights.to(tl.pointer_type(tl.int8)) + first, bytes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


@triton.jit
def conv3x3_ddc4b3ae(x, w, bias, y, partial, counters, steps):
    ROWS: tl.constexpr = 49
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 16
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    part = tl.program_id(1)
    fetch(w, (part * 4 + pid) * 8192, 8192)
    gdc_wait()
    tile_col = pid
    row = tl.arange(0, BLOCK_ROWS)
    col = tile_col * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    p = row // 7
    q = row % 7
    k = col

    r_start = p - 1
    r_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit r: that tap reads inside the input
    for r in tl.static_range(3):
        r_at = r_start + r
        r_inside |= ((r_at >= 0) & (r_at < 7)).to(tl.int32) << r

    s_start = q - 1
    s_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit s: that tap reads inside the input
    for s in tl.static_range(3):
        s_at = s_start + s
        s_inside |= ((s_at >= 0) & (s_at < 7)).to(tl.int32) << s

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 7 + q - 8)[:, None] + (d * 49)[None, :]
    w_tile = w + (d * 64)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    first = part * steps
    c = first % 16 * BLOCK_DEPTH
    s = first // 16 % 3
    r = first // 48
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r) & (s_inside >> s)) & 1) != 0
        a = tl.load(x_tile + (r * 7 + s + c * 49), mask=inside[:, None], other=0.0)
        f0 = -a
        a = tl.where(inside[:, None], f0, 0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (r * 98304 + s * 32768 + c * 64))
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
        carry = (c >= 512).to(tl.int32)
        c = tl.where(carry == 1, 0, c)
        s += carry
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry
    gdc_launch_dependents()

    # The last of the 18 programs of this tile adds up all partial sums, always in the same order.
    tile = pid
    slot = tl.arange(0, BLOCK_ROWS)[:, None] * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    tl.store(partial + (tile * 18 + part) * (BLOCK_ROWS * BLOCK_COLS) + slot, acc)
    tl.debug_barrier()
    arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
    if arrived == 17:
        tl.debug_barrier()
        acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
        for other in range(18):
            acc += tl.load(partial + (tile * 18 + other) * (BLOCK_ROWS * BLOCK_COLS) + slot, cache_modifier=".cg")
        bias_tile = tl.load(bias + k[None, :])
        v0 = acc + bias_tile
        v1 = tl.abs(v0)
        tl.store(y + (p * 7 + q)[:, None] + (k * 49)[None, :], v1.to(tl.float32), mask=row_ok)
        tl.store(counters + tile, 0)
