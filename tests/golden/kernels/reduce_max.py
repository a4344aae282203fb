"""y = abs(reducemax(x))

Over i0=6 (row).
x: fp16 tensor, strides i0: 50
y: fp32 tensor, strides i0: 1
Tile: 4 rows x 64 columns, 4 warps, 1 stages.
"""

import triton
import triton.language as tl


@triton.jit
def reduce_max_e6811b67(x, y):
    ROWS: tl.constexpr = 6
    ELEMENTS: tl.constexpr = 50
    BLOCK_ROWS: tl.constexpr = 4
    BLOCK_ELEMENTS: tl.constexpr = 64
    pid = tl.program_id(0)
    row = pid * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_ok = row < ROWS
    row = tl.minimum(row, ROWS - 1)
    i0 = row
    x_rows = x + (i0 * 50)[:, None]
    acc = tl.full((BLOCK_ROWS, BLOCK_ELEMENTS), float("-inf"), tl.float32)
    unordered = tl.zeros((BLOCK_ROWS, BLOCK_ELEMENTS), tl.int32)  # NaN must reach the result, which tl.max does not do
    for start in range(0, ELEMENTS, BLOCK_ELEMENTS):
        element = start + tl.arange(0, BLOCK_ELEMENTS)
        value = tl.load(x_rows + ((element))[None, :], mask=(element < ELEMENTS)[None, :], other=float("-inf")).to(tl.float32)
        acc = tl.maximum(acc, value)
        unordered |= (value != value).to(tl.int32)
    acc = tl.max(acc, axis=1)
    acc = tl.where(tl.max(unordered, axis=1) > 0, float("nan"), acc)
    v0 = tl.abs(acc)
    tl.store(y + i0, v0.to(tl.float32), mask=row_ok)
