"""y = abs(conv(x, w) + in1)

Over p=10 (row), q=10 (row), k=24 (col).
x: fp16 tensor, strides p: 640, q: 64
w: fp16 weights, strides k: 1
in1: fp16 tensor, strides k: 1
y: fp32 tensor, strides p: 10, q: 1, k: 100
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_8bd528a1(x, w, in1, y, steps):
    ROWS: tl.constexpr = 100
    COLS: tl.constexpr = 24
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    p = row // 10
    q = row % 10
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 640 + q * 64)[:, None] + (d)[None, :]
    w_tile = w + (d * 24)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (c))
        b = tl.load(w_tile + (c * 24), mask=(col < 24)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
    in1_tile = tl.load(in1 + ((p // 2) * 120 + (p % 2) * 0 + (q // 2) * 24 + (q % 2) * 0)[:, None] + k[None, :], mask=col_ok, other=0.0).to(tl.float32)
    v0 = acc + in1_tile
    v1 = tl.abs(v0)
    tl.store(y + (p * 10 + q)[:, None] + (k * 100)[None, :], v1.to(tl.float32), mask=row_ok & col_ok)
