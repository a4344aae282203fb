"""y = abs(relu(conv(x, w)))

Over pq=196 (row), k=100 (col).
x: fp16 tensor, strides pq: 64
w: fp16 weights, strides k: 1
y: fp32 tensor, strides pq: 1, k: 196
Matrices that boxes are fetched out of: x as 196x64, w as 64x100.
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_28f673fc(x, w, y, steps):
    ROWS: tl.constexpr = 196
    COLS: tl.constexpr = 100
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_col = pid % 2
    tile_row = pid // 2
    row_start = tile_row * BLOCK_ROWS
    col_start = tile_col * BLOCK_COLS
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = x.load([row_start, c])
        b = w.load([c, col_start])
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH

    row = row_start + tl.arange(0, BLOCK_ROWS)
    col = col_start + tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end meet operands of the last one and are not stored
    col_ok = (col < COLS)[None, :]
    pq = row
    k = col
    v0 = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    v1 = tl.abs(v0)
    tl.store(y + pq[:, None] + (k * 196)[None, :], v1.to(tl.float32), mask=row_ok & col_ok)
