"""y = relu(in2 + (conv(clip(clip(conv(x, w) + midbias)), v) + bias))

Over n=2 (row), pq=63 (row), k=70 (col); 33 channels between the products.
x: fp16 tensor, strides n: 3200, p: 320, q: 40, between zeros: 1 below an image, 1 right of a line
w: fp16 weights, strides m: 1
midbias: fp32 weights, strides m: 1
v: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
in2: fp32 tensor, strides n: 4410, pq: 1, k: 63
y: fp32 tensor, strides n: 4410, pq: 1, k: 63
Tile: 64 rows x 32 columns x 32 deep, 2 blocks of columns a program, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv3x3_conv1x1_94a7e9e4(x, w, midbias, v, bias, in2, y, steps):
    ROWS: tl.constexpr = 126
    COLS: tl.constexpr = 33
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 64
    BLOCK_DEPTH: tl.constexpr = 32
    FILTERS: tl.constexpr = 70
    BLOCK_FILTERS: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_col = pid % 2
    tile_row = pid // 2
    row = tile_row * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    n = row // 63
    p = (row // 7) % 9
    q = row % 7
    m = col
    pq = row % 63

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (n * 3200 + p * 320 + q * 40 - 360)[:, None] + (d)[None, :]
    w_tile = w + (d * 40)[:, None] + m[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    s = 0
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (r * 320 + s * 40 + c), mask=(c + d < 40)[None, :], other=0.0)
        b = tl.load(w_tile + (r * 4800 + s * 1600 + c * 40), mask=(c + d < 40)[:, None] & (col < 40)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
        carry = (c >= 40).to(tl.int32)
        c = tl.where(carry == 1, 0, c)
        s += carry
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry
    midbias_tile = tl.load(midbias + m[None, :], mask=col_ok, other=0.0)
    f0 = acc + midbias_tile
    f1 = tl.minimum(tl.maximum(f0, (-3.0), propagate_nan=tl.PropagateNan.ALL), 6.0, propagate_nan=tl.PropagateNan.ALL)
    f2 = tl.minimum(tl.maximum(f1, (-8.0), propagate_nan=tl.PropagateNan.ALL), 8.0, propagate_nan=tl.PropagateNan.ALL)
    middle = tl.where(col_ok, f2, 0.0)
    middle = middle.to(tl.float16)
    for block in range(2):
        filter = (tile_col * 2 + block) * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS)
        filter_ok = (filter < FILTERS)[None, :]
        k = filter
        sums = tl.dot(middle, tl.load(v + (col * 72)[:, None] + k[None, :], mask=(col < COLS)[:, None] & (filter < 72)[None, :], other=0.0))
        bias_tile = tl.load(bias + k[None, :], mask=filter_ok, other=0.0)
        in2_tile = tl.load(in2 + (n * 4410 + pq)[:, None] + (k * 63)[None, :], mask=filter_ok, other=0.0)
        v0 = sums + bias_tile
        v1 = in2_tile + v0
        v2 = tl.maximum(v1, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(y + (n * 4410 + pq)[:, None] + (k * 63)[None, :], v2.to(tl.float32), mask=row_ok & filter_ok)
