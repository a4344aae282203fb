"""y = maxpool(neg((conv(x, w) + bias) + in2))

Over n=2 (row), p=20 (row), q=19 (row), k=20 (col).
x: fp32 tensor, strides n: 4440, p: 74, q: 2
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
in2: fp32 tensor, strides n: 7600, p: 19, q: 1, k: 380
y: fp32 tensor, strides n: 2000, p: 10, q: 1, k: 100
Tile: 64 rows x 32 columns x 32 deep, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv7x7_9ed45f45(x, w, bias, in2, y, steps):
    TILE_LINES: tl.constexpr = 4
    TILE_COLUMNS: tl.constexpr = 4
    BLOCK_PIXELS: tl.constexpr = 16
    COLS: tl.constexpr = 20
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 32
    BLOCK_DEPTH: tl.constexpr = 32
    pid = tl.program_id(0)
    tile_row = pid
    local = tl.arange(0, BLOCK_ROWS)
    row = local % BLOCK_PIXELS  # block of 2 x 2 pixels in the tile
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i = local // (2 * BLOCK_PIXELS)
    j = local // BLOCK_PIXELS % 2
    n = tile_row // 16
    window_p = tile_row // 4 % 4 * (TILE_LINES - 1) + row // TILE_COLUMNS
    window_q = tile_row % 4 * (TILE_COLUMNS - 1) + row % TILE_COLUMNS
    p = window_p * 2 + i - 1
    q = window_q * 2 + j - 1
    exists = ((p >= 0) & (p < 20) & (q >= 0) & (q < 19))[:, None]  # pixels of the convolution's result
    p = tl.minimum(tl.maximum(p, 0), 19)
    q = tl.minimum(tl.maximum(q, 0), 18)
    k = col

    r_start = p * 2 - 3
    r_inside = tl.zeros((BLOCK_ROWS,), tl.int32)  # bit r: that tap reads inside the input
    for r in tl.static_range(7):
        r_at = r_start + r
        r_inside |= ((r_at >= 0) & (r_at < 40)).to(tl.int32) << r

    s_start = q * 2 - 3

    d = tl.arange(0, BLOCK_DEPTH)
    s = d // 3  # a step covers one line of the filter: its taps and their channels
    channel = d % 3
    s_at = s_start[:, None] + (s)[None, :]
    line_inside = (s_at >= 0) & (s_at < 37)
    x_tile = x + (n * 4440 + p * 74 + q * 2 - 114)[:, None] + (s + channel * 1480)[None, :]
    w_tile = w + (d * 24)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    r = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r)) & 1) != 0
        a = tl.load(x_tile + (r * 37), mask=inside[:, None] & line_inside & (d < 21)[None, :], other=0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (r * 504), mask=(d < 21)[:, None] & (col < 24)[None, :], other=0.0)
        acc = tl.dot(a, b, acc)
        r += 1
    bias_tile = tl.load(bias + k[None, :], mask=col_ok, other=0.0)
    in2_tile = tl.load(in2 + (n * 7600 + p * 19 + q)[:, None] + (k * 380)[None, :], mask=col_ok, other=0.0)
    v0 = acc + bias_tile
    v1 = v0 + in2_tile
    v2 = -v1
    value = tl.where(exists, v2, float("-inf"))
    bits = value.to(tl.int32, bitcast=True)
    order = tl.where(value == value, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)  # whole numbers in the same order, NaN above all
    order = tl.reshape(order, (2, 2, BLOCK_PIXELS, BLOCK_COLS))  # line and column in the block
    leading = tl.arange(0, 2) == 0
    left = tl.max(tl.where(leading[None, :, None, None], order, -0x80000000), axis=1)
    block = tl.arange(0, BLOCK_PIXELS)
    behind = tl.minimum(block + 1, BLOCK_PIXELS - 1)[None, :, None]
    right = tl.gather(left, tl.broadcast_to(behind, (2, BLOCK_PIXELS, BLOCK_COLS)), axis=1)
    across = tl.maximum(tl.max(order, axis=1), right)
    top = tl.max(tl.where(leading[:, None, None], across, -0x80000000), axis=0)
    below = tl.minimum(block + TILE_COLUMNS, BLOCK_PIXELS - 1)[:, None]
    bottom = tl.gather(top, tl.broadcast_to(below, (BLOCK_PIXELS, BLOCK_COLS)), axis=0)
    best = tl.maximum(tl.max(across, axis=0), bottom)
    pooled = (best ^ ((best >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    pixel = tl.arange(0, BLOCK_PIXELS)
    pooled_n = tile_row // 16
    pooled_p = tile_row // 4 % 4 * (TILE_LINES - 1) + pixel // TILE_COLUMNS
    pooled_q = tile_row % 4 * (TILE_COLUMNS - 1) + pixel % TILE_COLUMNS
    pixel_ok = ((pixel // TILE_COLUMNS < TILE_LINES - 1) & (pixel % TILE_COLUMNS < TILE_COLUMNS - 1) & (pooled_p < 10) & (pooled_q < 10))[:, None]
    tl.store(y + (pooled_n * 2000 + pooled_p * 10 + pooled_q)[:, None] + (k * 100)[None, :], pooled.to(tl.float32), mask=pixel_ok & col_ok)
