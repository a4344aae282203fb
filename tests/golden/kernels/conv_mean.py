"""m = mean(relu(in2 + (conv(neg(x), w) + bias)))

Over n=2 (group), pq=49 (row), k=40 (col).
x: fp32 tensor, strides n: 3136, pq: 1
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
in2: fp32 tensor, strides n: 1960, pq: 1, k: 49
m: fp32 tensor, strides n: 40, k: 1
Tile: 64 rows x 32 columns x 32 deep, split-K 2, 4 warps, 2 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_1610d72a(x, w, bias, in2, m, partial, counters, steps):
    ROWS: tl.constexpr = 49
    COLS: tl.constexpr = 40
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 32
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    part = tl.program_id(1)
    tile_col = pid % 2
    group = pid // 2
    row = tl.arange(0, BLOCK_ROWS)
    col = tile_col * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    n = group
    pq = row
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + pq[:, None] + n * 3136 + (d * 49)[None, :]
    w_tile = w + (d * 40)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    first = part * steps
    c = first % 2 * BLOCK_DEPTH
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (c * 49))
        f0 = -a
        a = f0.to(tl.float16)
        b = tl.load(w_tile + (c * 40), mask=(col < 40)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH

    # The last of the 2 programs of this tile adds up all partial sums, always in the same order.
    tile = pid
    slot = tl.arange(0, BLOCK_ROWS)[:, None] * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    tl.store(partial + (tile * 2 + part) * (BLOCK_ROWS * BLOCK_COLS) + slot, acc)
    tl.debug_barrier()
    arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
    if arrived == 1:
        tl.debug_barrier()
        acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
        for other in range(2):
            acc += tl.load(partial + (tile * 2 + other) * (BLOCK_ROWS * BLOCK_COLS) + slot, cache_modifier=".cg")
        bias_tile = tl.load(bias + k[None, :], mask=col_ok, other=0.0)
        in2_tile = tl.load(in2 + pq[:, None] + (k * 49)[None, :] + n * 1960, mask=col_ok, other=0.0)
        v0 = acc + bias_tile
        v1 = in2_tile + v0
        v2 = tl.maximum(v1, 0.0, propagate_nan=tl.PropagateNan.ALL)
        v2 = tl.where(row_ok, v2, 0.0)
        pooled = tl.sum(v2, axis=0)
        tl.store(m + k + n * 40, (pooled / 49.0).to(tl.float32), mask=(col < COLS))
        tl.store(counters + tile, 0)
