"""Sizes of blocks, and candidates in the order of their predicted times."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from ..ir.plan import Tile

LARGEST_BLOCK = 1 << 18
"""Most elements of a block in the interpreter: Triton's own limit is 2^20."""
MIN_DOT = 16
"""Least extent of each side of `tl.dot`."""
MOST_STAGES = 4
"""Steps whose operands the copy engine fetches ahead, at most."""
RESERVED_BYTES = 2048
"""Shared memory of a block beside such operands: barriers, and what the driver takes."""


def powers(low: int, high: int) -> Iterator[int]:
    """``low`` and its doubles up to ``high``; at least one."""
    value = low
    while value <= max(low, high):
        yield value
        value *= 2


def ceil_power(value: int) -> int:
    """The least power of two not below ``value``."""
    return 1 << max(0, value - 1).bit_length()


def covering(extent: int, most: int) -> Iterator[int]:
    """Block sizes from the least of `tl.dot` to the first that covers ``extent``, or ``most``."""
    return powers(MIN_DOT, min(ceil_power(extent), ceil_power(most)))


def by_time(candidates: Iterable[Tile], seconds: Callable[[Tile], float]) -> list[Tile]:
    """The candidates, each once, with their predicted times: the cheapest first, ties in the order they come in."""
    timed = sorted(((seconds(tile), tile) for tile in dict.fromkeys(candidates)), key=lambda entry: entry[0])
    return [replace(tile, predicted_us=round(time * 1e6, 3)) for time, tile in timed]
