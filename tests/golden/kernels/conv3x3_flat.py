"""y = relu(conv(x, w) + in1)

Over n=2 (row), p=7 (row), q=7 (row), m=128 (row), k=64 (col).
x: fp16 tensor, strides m: 64, between zeros: 1 below an image, 1 right of a line
w: fp16 weights, strides k: 1
in1: fp16 tensor, strides m: 64, k: 1, between zeros: 1 below an image, 1 right of a line
y: fp16 tensor, strides m: 64, k: 1, between zeros: 1 below an image, 1 right of a line
Matrices that boxes are fetched out of: x as 137x64, w as 576x64.
Tile: 64 rows x 64 columns x 64 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv3x3_0d27d7a5(x, w, in1, y, steps):
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 64
    pid = tl.program_id(0)
    tile_row = pid
    row_start = tile_row * BLOCK_ROWS
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    s = 0
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = x.load([row_start + r * 8 + s, 0])
        b = w.load([r * 192 + s * 64, 0])
        acc = tl.dot(a, b, acc)
        s += 1
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry

    row = row_start + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    m = row
    p = row // 8 % 8
    q = row % 8
    exists = ((p < 7) & (q < 7))[:, None]  # pixels that are places of the window
    k = col
    in1_tile = tl.load(in1 + (m * 64)[:, None] + k[None, :]).to(tl.float32)
    v0 = acc + in1_tile
    v1 = tl.maximum(v0, 0.0, propagate_nan=tl.PropagateNan.ALL)
    value = tl.where(exists, v1, 0.0)
    tl.store(y + (m * 64)[:, None] + k[None, :], value.to(tl.float16))
    # Zeros around the images: this program's share.
    around = tile_row * 5 + tl.arange(0, 8)
    place = around
    tl.store(y + (place * 64)[:, None] + k[None, :] - 576, tl.zeros((8, BLOCK_COLS), tl.float16), mask=(around < 9)[:, None])
