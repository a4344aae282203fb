"""y = conv(x, w)

Over p=14 (row), q=14 (row), k=128 (col).
x: fp16 tensor, strides p: 896, q: 64
w: fp16 weights, strides k: 1
y: fp16 tensor, strides p: 1920, q: 128, k: 1, between zeros: 1 below an image, 1 right of a line
Tile: 64 rows x 64 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_a1f5c13f(x, w, y, steps):
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
    p = row // 14
    q = row % 14
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (p * 896 + q * 64)[:, None] + (d)[None, :]
    w_tile = w + (d * 128)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (c))
        b = tl.load(w_tile + (c * 128))
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
    tl.store(y + (p * 1920 + q * 128)[:, None] + k[None, :], acc.to(tl.float16), mask=row_ok)
    # Zeros around the images: this program's share.
    around = tile_row * 12 + tl.arange(0, 16)
    beside = around % 29 - 16  # those right of lines, behind those of the margin
    right = 30 + beside * 15
    place = around // 29 * 225 + tl.where(beside < 0, beside + 16, right)
    tl.store(y + (place * 128)[:, None] + k[None, :] - 2048, tl.zeros((16, BLOCK_COLS), tl.float16), mask=(around < 45)[:, None])
