"""y = relu((in2 - padded) + in3)

Over i0=2 (row), i1=8 (row), i2=8 (row), i3=9 (col).
padded: fp32 tensor, strides i0: 210, i1: 30, i2: 6, i3: 1
in2: fp32 weights, strides i1: 1
in3: fp32 tensor, strides i0: 576, i1: 72, i2: 9, i3: 1
y: fp32 tensor, strides i0: 576, i1: 72, i2: 9, i3: 1
Tile: 4 rows x 64 columns, 4 warps, 3 stages.
"""

import triton
import triton.language as tl


@triton.jit
def pad_0d962462(padded, in2, in3, y):
    COLS: tl.constexpr = 9
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_COLS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col = tl.arange(0, BLOCK_COLS)
    col_ok = (col < COLS)[None, :]
    i0 = row // 64
    i1 = (row // 8) % 8
    i2 = row % 8
    i3 = col
    padded_tile = tl.load(padded + (i0 * 210 + i1 * 30 + (i2 - 1) * 6)[:, None] + ((i3 - 2))[None, :], mask=col_ok & ((i1 >= 0) & (i1 < 7))[:, None] & ((i2 >= 1) & (i2 < 6))[:, None] & ((i3 >= 2) & (i3 < 8))[None, :], other=0.5)
    in2_tile = tl.load(in2 + i1[:, None])
    in3_tile = tl.load(in3 + (i0 * 576 + i1 * 72 + i2 * 9)[:, None] + i3[None, :], mask=col_ok, other=0.0)
    v0 = in2_tile - padded_tile
    v1 = v0 + in3_tile
    v2 = tl.maximum(v1, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y + (i0 * 576 + i1 * 72 + i2 * 9)[:, None] + i3[None, :], v2.to(tl.float32), mask=col_ok)
