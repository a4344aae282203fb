"""y = abs(conv(relu((x * pre1) + pre2), w))

Over pq=196 (row), k=128 (col).
x: fp16 tensor, strides pq: 72
w: fp16 weights, strides k: 1
pre1: fp32 weights, strides depth: 1
pre2: fp32 weights, strides depth: 1
y: fp32 tensor, strides pq: 1, k: 196
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_ec6f1e73(x, w, pre1, pre2, y, steps):
    ROWS: tl.constexpr = 196
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_col = pid % 2
    tile_row = pid // 2
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tile_col * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    pq = row
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (pq * 72)[:, None] + (d)[None, :]
    w_tile = w + (d * 128)[:, None] + k[None, :]
    pre1_at = pre1 + (d)[None, :]
    pre2_at = pre2 + (d)[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (c), mask=(c + d < 72)[None, :], other=0.0)
        a = a.to(tl.float32)
        pre1_tile = tl.load(pre1_at + (c), mask=(c + d < 72)[None, :], other=0.0)
        pre2_tile = tl.load(pre2_at + (c), mask=(c + d < 72)[None, :], other=0.0)
        f0 = a * pre1_tile
        f1 = f0 + pre2_tile
        f2 = tl.maximum(f1, 0.0, propagate_nan=tl.PropagateNan.ALL)
        a = tl.where((c + d < 72)[None, :], f2, 0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (c * 128), mask=(c + d < 72)[:, None], other=0.0)
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
    v0 = tl.abs(acc)
    tl.store(y + pq[:, None] + (k * 196)[None, :], v0.to(tl.float32), mask=row_ok)
