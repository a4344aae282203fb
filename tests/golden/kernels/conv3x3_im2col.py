"""y = relu((conv(x, w) + bias) + in2)

Over n=32 (row), p=14 (row), q=14 (row), k=128 (col).
x: fp16 tensor, strides n: 28800, p: 1920, q: 128, between zeros: 1 below an image, 1 right of a line
w: fp16 weights, strides k: 1
bias: fp32 weights, strides k: 1
in2: fp16 tensor, strides n: 25088, p: 1792, q: 128, k: 1
y: fp16 tensor, strides n: 28800, p: 1920, q: 128, k: 1, between zeros: 1 below an image, 1 right of a line
Matrices that boxes are fetched out of: x as 32x14x14x128, w as 1152x128.
Tile: 128 rows x 128 columns x 64 deep, 8 warps, 3 stages.
"""

import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait


BLOCK_ROWS = gl.constexpr(128)
BLOCK_COLS = gl.constexpr(128)
BLOCK_DEPTH = gl.constexpr(64)
STAGES = gl.constexpr(3)
CHANNELS = gl.constexpr(128)
BLOCKS = gl.constexpr(2)
SUMS = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [8, 1], [16, 128, 16]))
TILE = gl.constexpr(gl.BlockedLayout([1, 8], [2, 16], [8, 1], [1, 0]))


@gluon.jit
def fetch_step(x, w, a_ring, b_ring, ready, step, image, line, column, col_start, pred):
    """Asks for both boxes of a step; ``ready`` counts their bytes."""
    slot = step % STAGES
    position = step // BLOCKS
    c = step % BLOCKS * BLOCK_DEPTH
    bar = ready.index(slot)
    r = (position // 3 * 1).to(gl.int16)
    s = (position % 3 * 1).to(gl.int16)
    mbarrier.expect(bar, x.block_type.nbytes + w.block_type.nbytes, pred=pred)
    tma.async_load_im2col(x, [image, line, column, c], [r, s], bar, a_ring.index(slot), pred=pred)
    tma.async_load(w, [position * CHANNELS + c, col_start], bar, b_ring.index(slot), pred=pred)


@gluon.jit
def finish(acc, row_start, col_start, bias, in2, y):
    """From the sums to the store."""
    acc = gl.convert_layout(acc, TILE)
    tile_row = row_start // BLOCK_ROWS
    row = row_start + gl.arange(0, BLOCK_ROWS, layout=gl.SliceLayout(1, TILE))
    col = col_start + gl.arange(0, BLOCK_COLS, layout=gl.SliceLayout(0, TILE))
    n = row // 196
    p = (row // 14) % 14
    q = row % 14
    k = col
    bias_tile = gl.load(bias + k[None, :])
    in2_tile = gl.load(in2 + (n * 25088 + p * 1792 + q * 128)[:, None] + k[None, :]).to(gl.float32)
    v0 = acc + bias_tile
    v1 = v0 + in2_tile
    v2 = gl.maximum(v1, 0.0, propagate_nan=tl.PropagateNan.ALL)
    gl.store(y + (n * 28800 + p * 1920 + q * 128)[:, None] + k[None, :], v2.to(gl.float16))
    # Zeros around the images: this program's share.
    around = tile_row * 20 + gl.arange(0, 32, layout=gl.SliceLayout(1, TILE))
    beside = around % 29 - 16  # those right of lines, behind those of the margin
    right = 30 + beside * 15
    place = around // 29 * 225 + gl.where(beside < 0, beside + 16, right)
    gl.store(y + (place * 128)[:, None] + k[None, :] - 2048, gl.zeros((32, BLOCK_COLS), gl.float16, TILE), mask=(around < 944)[:, None])


@gluon.jit
def produce(x, w, a_ring, b_ring, ready, empty, image, line, column, col_start, steps):
    """One warp keeps the ring filled."""
    for step in range(steps):
        mbarrier.wait(empty.index(step % STAGES), ((step // STAGES) & 1) ^ 1)
        fetch_step(x, w, a_ring, b_ring, ready, step, image, line, column, col_start, True)


@gluon.jit
def consume(a_ring, b_ring, ready, empty, steps, row_start, col_start, bias, in2, y):
    """The other warps multiply, and give back the slot of the step before once its product is done."""
    acc = gl.zeros((BLOCK_ROWS, BLOCK_COLS), gl.float32, SUMS)
    for step in range(steps):
        slot = step % STAGES
        mbarrier.wait(ready.index(slot), (step // STAGES) & 1)
        acc = warpgroup_mma(a_ring.index(slot), b_ring.index(slot), acc, is_async=True)
        acc = warpgroup_mma_wait(num_outstanding=1, deps=(acc,))
        mbarrier.arrive(empty.index((step + STAGES - 1) % STAGES), count=1, pred=step > 0)
    acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
    finish(acc, row_start, col_start, bias, in2, y)


@gluon.jit
def conv3x3_ea1952d7(x, w, bias, in2, y, steps):
    pid = gl.program_id(0)
    tile_row = pid
    row_start = tile_row * BLOCK_ROWS
    col_start = gl.to_tensor(0)
    image = row_start // 196
    line = row_start // 14 % 14 * 1 - 1
    column = row_start % 14 * 1 - 1
    a_ring = gl.allocate_shared_memory(x.dtype, [STAGES, BLOCK_ROWS, BLOCK_DEPTH], x.layout)
    b_ring = gl.allocate_shared_memory(w.dtype, [STAGES, BLOCK_DEPTH, BLOCK_COLS], w.layout)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for each in gl.static_range(STAGES):
        mbarrier.init(ready.index(each), count=1)
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for each in gl.static_range(STAGES):
        mbarrier.init(empty.index(each), count=1)
    gl.warp_specialize(
        [
            (consume, (a_ring, b_ring, ready, empty, steps, row_start, col_start, bias, in2, y)),
            (produce, (x, w, a_ring, b_ring, ready, empty, image, line, column, col_start, steps)),
        ],
        [1],
        [24],
    )
