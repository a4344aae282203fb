"""Window arithmetic of the DSL: kernels, strides and paddings as users write them, in full."""

from __future__ import annotations

from collections.abc import Sequence

from .. import errors
from ..ir.dims import Dim, DimLike

Window = int | tuple[int, ...]
Padding = int | tuple[int, ...] | str


def per_axis(value: Window, rank: int, what: str, layer: str, least: int = 0) -> tuple[int, ...]:
    """``value`` once for each of ``rank`` spatial axes, not below ``least``."""
    values = (value,) * rank if isinstance(value, int) else tuple(value)
    if len(values) != rank:
        raise errors.wrong_length(layer, what, values, (rank,))
    if min(values, default=least) < least:
        raise errors.no_units(layer, what, min(values), least)
    return values


def pads(
    padding: Padding,
    extent: Sequence[DimLike],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    layer: str,
) -> tuple[int, ...]:
    """Paddings, begins then ends.

    padding: one number, one for each axis, begins then ends, "valid" (none) or "same" (the output has
        ceil(extent / stride) positions; an odd padding puts the larger half at the end).
    """
    rank = len(extent)
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise errors.one_of(padding, ("same", "valid"), f"padding of layer {layer!r}:")
        same = [_same(*axis, layer) for axis in zip(extent, kernel, stride, dilation, strict=True)]
        totals = same if padding == "same" else [0] * rank
        return (*(total // 2 for total in totals), *(total - total // 2 for total in totals))
    if isinstance(padding, int) or len(padding) == rank:
        return per_axis(padding, rank, "padding", layer) * 2
    if len(padding) != 2 * rank:
        raise errors.wrong_length(layer, "padding", padding, (rank, 2 * rank))
    return tuple(padding)


def _same(extent: DimLike, kernel: int, stride: int, dilation: int, layer: str) -> int:
    reach = dilation * (kernel - 1) + 1
    if stride == 1:
        return reach - 1
    if isinstance(extent, Dim):
        raise errors.same_needs_sizes(layer, extent)
    return max((-(-extent // stride) - 1) * stride + reach - extent, 0)


def check_fit(
    extent: Sequence[DimLike],
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    dilation: Sequence[int],
    layer: str,
) -> None:
    """Raises `ShapeError` where the windows leave rows or columns at the end unread."""
    rank = len(extent)
    for axis, size in enumerate(extent):
        free = size + pads[axis] + pads[rank + axis] - dilation[axis] * (kernel[axis] - 1) - 1
        if not isinstance(free, Dim) and free % stride[axis]:
            raise errors.does_not_fit(layer, extent, kernel, stride, pads)
