"""y = relu(conv(x, w)); y = conv(x, w); then y = reducemax(x); y = relu(conv(x, w))

conv1x1_e59df49d: Over pq=49 (row), k=16 (col).
x: fp32 tensor, strides pq: 1
w: fp16 weights, strides k: 1
y: fp16 tensor, strides pq: 48, k: 1
Tile: 64 rows x 16 columns x 32 deep, 4 warps, 4 stages.

conv3x3_211a353c: Over p=7 (row), q=7 (row), k=32 (col).
x: fp32 tensor, strides p: 7, q: 1
w: fp16 weights, strides k: 1
y: fp16 tensor, strides p: 336, q: 48, k: 1
Tile: 64 rows x 16 columns x 32 deep, split-K 12, 4 warps, 3 stages.

reduce_max_4bb7f5a8: Over i1=48 (row).
x: fp16 tensor, strides i1: 1
y: fp16 tensor, strides i1: 1
Tile: 32 rows x 64 columns, 4 warps, 1 stages.

conv1x1_ef2662a1: Over k=10 (col).
x: fp16 tensor, strides none
w: fp16 weights, strides k: 1
y: fp32 tensor, strides k: 1
Tile: 16 rows x 16 columns x 64 deep, 4 warps, 2 stages.
"""

import triton
import triton.language as tl


@triton.jit
def conv1x1_e59df49d(pid, x, w, y, steps):
    ROWS: tl.constexpr = 49
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 16
    BLOCK_DEPTH: tl.constexpr = 32
    row = tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    pq = row
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + pq[:, None] + (d * 49)[None, :]
    w_tile = w + (d * 16)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    c = 0
    tl.assume(steps > 0)
    for _ in range(steps):
        a = tl.load(x_tile + (c * 49))
        a = a.to(tl.float16)
        b = tl.load(w_tile + (c * 16))
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
    v0 = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (pq * 48)[:, None] + k[None, :], v0.to(tl.float16), mask=row_ok)


@triton.jit
def conv3x3_211a353c(pid, part, x, w, y, partial, counters, steps):
    ROWS: tl.constexpr = 49
    BLOCK_ROWS: tl.constexpr = 64
    BLOCK_COLS: tl.constexpr = 16
    BLOCK_DEPTH: tl.constexpr = 32
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
    w_tile = w + (d * 32)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    first = part * steps
    c = first % 4 * BLOCK_DEPTH
    s = first // 4 % 3
    r = first // 12
    tl.assume(steps > 0)
    for _ in range(steps):
        inside = (((r_inside >> r) & (s_inside >> s)) & 1) != 0
        a = tl.load(x_tile + (r * 7 + s + c * 49), mask=inside[:, None], other=0.0)
        a = a.to(tl.float16)
        b = tl.load(w_tile + (r * 12288 + s * 4096 + c * 32))
        acc = tl.dot(a, b, acc)
        c += BLOCK_DEPTH
        carry = (c >= 128).to(tl.int32)
        c = tl.where(carry == 1, 0, c)
        s += carry
        carry = (s >= 3).to(tl.int32)
        s = tl.where(carry == 1, 0, s)
        r += carry

    # The last of the 12 programs of this tile adds up all partial sums, always in the same order.
    tile = pid
    slot = tl.arange(0, BLOCK_ROWS)[:, None] * BLOCK_COLS + tl.arange(0, BLOCK_COLS)[None, :]
    tl.store(partial + (tile * 12 + part) * (BLOCK_ROWS * BLOCK_COLS) + slot, acc)
    tl.debug_barrier()
    arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
    if arrived == 11:
        tl.debug_barrier()
        acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
        for other in range(12):
            acc += tl.load(partial + (tile * 12 + other) * (BLOCK_ROWS * BLOCK_COLS) + slot, cache_modifier=".cg")
        tl.store(y + (p * 336 + q * 48)[:, None] + k[None, :], acc.to(tl.float16), mask=row_ok)
        tl.store(counters + tile, 0)


@triton.jit
def reduce_max_4bb7f5a8(pid, x, y):
    ROWS: tl.constexpr = 48
    ELEMENTS: tl.constexpr = 49
    BLOCK_ROWS: tl.constexpr = 32
    BLOCK_ELEMENTS: tl.constexpr = 64
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_ok = row < ROWS
    row = tl.minimum(row, ROWS - 1)
    i1 = row
    x_rows = x + i1[:, None]
    acc = tl.full((BLOCK_ROWS, BLOCK_ELEMENTS), float("-inf"), tl.float32)
    unordered = tl.zeros((BLOCK_ROWS, BLOCK_ELEMENTS), tl.int32)  # NaN must reach the result, which tl.max does not do
    for start in range(0, ELEMENTS, BLOCK_ELEMENTS):
        element = start + tl.arange(0, BLOCK_ELEMENTS)
        value = tl.load(x_rows + ((element) * 48)[None, :], mask=(element < ELEMENTS)[None, :], other=float("-inf")).to(tl.float32)
        acc = tl.maximum(acc, value)
        unordered |= (value != value).to(tl.int32)
    acc = tl.max(acc, axis=1)
    acc = tl.where(tl.max(unordered, axis=1) > 0, float("nan"), acc)
    tl.store(y + i1, acc.to(tl.float16), mask=row_ok)


@triton.jit
def conv1x1_ef2662a1(pid, x, w, y):
    ROWS: tl.constexpr = 1
    COLS: tl.constexpr = 10
    BLOCK_ROWS: tl.constexpr = 16
    BLOCK_COLS: tl.constexpr = 16
    BLOCK_DEPTH: tl.constexpr = 64
    row = tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    row_ok = (row < ROWS)[:, None]
    row = tl.minimum(row, ROWS - 1)  # rows past the end compute the last one again and are not stored
    col_ok = (col < COLS)[None, :]
    k = col

    d = tl.arange(0, BLOCK_DEPTH)
    x_tile = x + (tl.zeros_like(row))[:, None] + (d)[None, :]
    w_tile = w + (d * 16)[:, None] + k[None, :]
    acc = tl.zeros((BLOCK_ROWS, BLOCK_COLS), tl.float32)
    a = tl.load(x_tile, mask=(d < 48)[None, :], other=0.0)
    b = tl.load(w_tile, mask=(d < 48)[:, None] & (col < 16)[None, :], other=0.0)
    acc = tl.dot(a, b, acc)
    v0 = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (tl.zeros_like(row))[:, None] + k[None, :], v0.to(tl.float32), mask=row_ok & col_ok)


@triton.jit
def conv1x1_and_conv3x3_then_2_c25d3a96(x, w, y, steps, w_2, y_2, partial, counters, steps_2, x_2, y_3, w_3, y_4, arrived):
    pid = tl.program_id(0)
    if pid < 1:
        conv1x1_e59df49d(pid, x, w, y, steps)
    else:
        conv3x3_211a353c((pid - 1) % 2, (pid - 1) // 2, x, w_2, y_2, partial, counters, steps_2)

    # The last of the 25 blocks goes on with what needs all their results.
    tl.debug_barrier()
    finished = tl.atomic_add(arrived, 1, sem="acq_rel")
    if finished == 24:
        tl.debug_barrier()
        for tile in range(2):
            reduce_max_4bb7f5a8(tile, x_2, y_3)
        tl.debug_barrier()
        conv1x1_ef2662a1(0, y_3, w_3, y_4)
        tl.store(arrived, 0)
