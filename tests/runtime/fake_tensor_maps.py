"""``cuTensorMapEncodeTiled`` and ``cuTensorMapEncodeIm2col`` as the fake driver has them: every rule that their
documentation states is checked.

What is written into the 128 bytes is a number under which the fake driver finds the array again at a launch, and bit 21
of the second word, which drivers up to CUDA 13.1 set wrongly for small arrays.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INVALID_VALUE = 1
BYTES = 128
SMALL_BIT = 1 << 21
ITEMSIZES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 8, 9: 2}
"""``CUtensorMapDataType`` → bytes; 6 is fp16, 7 fp32, 9 bf16."""
INNER_LIMITS = {0: None, 1: 32, 2: 64, 3: 128}
PROTOTYPE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64, *[ctypes.c_void_p] * 4,
    *[ctypes.c_int] * 4,
)  # fmt: skip
IM2COL_PROTOTYPE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_uint64, *[ctypes.c_void_p] * 4,
    ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, *[ctypes.c_int] * 4,
)  # fmt: skip
CORNER_LIMITS = {3: 1 << 15, 4: 1 << 7, 5: 1 << 4}


@dataclass(frozen=True)
class MapRecord:
    """An encoded array: elements and bytes of ``strides`` outermost first, the innermost stride included. Of a walk
    over windows, lower, upper, steps: its corners and steps; the box is then pixels and channels."""

    address: int
    data_type: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    lower: tuple[int, ...] = ()
    upper: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    @property
    def span(self) -> int:
        """Bytes from the first element to the end of the last."""
        inner = ITEMSIZES[self.data_type]
        return inner + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


class MapEncoder:
    """The function and what it has encoded. before: called with its name first; returns an error code or 0.

    inside: whether bytes lie inside device memory. refuse: told what was wrong.
    """

    def __init__(
        self, before: Callable[[str], int], inside: Callable[[int, int], bool], refuse: Callable[[str], None]
    ) -> None:
        self._before, self._inside, self._refuse = before, inside, refuse
        self.records: list[MapRecord] = []
        self.function = PROTOTYPE(self._encode)
        self.im2col = IM2COL_PROTOTYPE(self._encode_im2col)

    def found(self, data: bytes, small_is_wrong: bool) -> MapRecord:
        """The array of a map that reached a launch. Raises ``ValueError`` for bytes that are none."""
        words = [int.from_bytes(data[at : at + 8], "little") for at in (0, 8)]
        if not 0 < words[0] <= len(self.records) or any(data[16:]):
            raise ValueError("not an encoded tensor map")
        record = self.records[words[0] - 1]
        small_is_wrong = small_is_wrong and not record.steps  # walks over windows are encoded rightly
        expected = 0 if small_is_wrong and record.span - ITEMSIZES[record.data_type] + 1 < 128 * 1024 else SMALL_BIT
        if words[1] != expected:
            raise ValueError("the bit of small arrays is wrong")
        return record

    def _encode(
        self, target: int, data_type: int, rank: int, address: int, shape: int, strides: int, box: int, steps: int,
        interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        if status := self._before("cuTensorMapEncodeTiled"):
            return status
        if not 1 <= rank <= 5 or data_type not in ITEMSIZES or swizzle not in INNER_LIMITS:
            return self._refused("rank, type or swizzle")
        itemsize = ITEMSIZES[data_type]
        wide, narrow = ctypes.c_uint64, ctypes.c_uint32
        extents, boxes, stepped = _read(shape, wide, rank), _read(box, narrow, rank), _read(steps, narrow, rank)
        record = MapRecord(
            address, data_type, extents, (*_read(strides, wide, rank - 1), itemsize), boxes, swizzle
        )  # fmt: skip
        rules = {
            "a box is not between 1 and 256": all(1 <= n <= 256 for n in boxes),
            "element strides": set(stepped) == {1},
        }
        return self._kept(target, record, (interleave, promotion, fill), rules)

    def _encode_im2col(
        self, target: int, data_type: int, rank: int, address: int, shape: int, strides: int, lower: int, upper: int,
        channels: int, pixels: int, steps: int, interleave: int, swizzle: int, promotion: int, fill: int,
    ) -> int:  # fmt: skip
        if status := self._before("cuTensorMapEncodeIm2col"):
            return status
        if rank not in CORNER_LIMITS or data_type not in ITEMSIZES or swizzle not in INNER_LIMITS:
            return self._refused("rank, type or swizzle")
        wide = ctypes.c_uint64
        record = MapRecord(
            address, data_type, _read(shape, wide, rank), (*_read(strides, wide, rank - 1), ITEMSIZES[data_type]),
            (pixels, channels), swizzle, _read(lower, ctypes.c_int, rank - 2), _read(upper, ctypes.c_int, rank - 2),
            _read(steps, ctypes.c_uint32, rank),
        )  # fmt: skip
        limit = CORNER_LIMITS[rank]
        rules = {
            "a box is not of 1 to 1024 pixels and 256 channels": 1 <= pixels <= 1024 and 1 <= channels <= 256,
            "a corner is too far": all(-limit <= corner < limit for corner in (*record.lower, *record.upper)),
            "a step is not between 1 and 8": all(1 <= step <= 8 for step in record.steps),
        }
        return self._kept(target, record, (interleave, promotion, fill), rules)

    def _kept(self, target: int, record: MapRecord, modes: tuple[int, int, int], rules: dict[str, bool]) -> int:
        itemsize, boxes = ITEMSIZES[record.data_type], record.box
        rules |= {
            "the map is not at a multiple of 64": target % 64 == 0,
            "the address is not a multiple of 16": record.address % 16 == 0,
            "an extent is not between 1 and 2**32": all(1 <= n <= 2**32 for n in record.shape),
            "a stride is not a multiple of 16 below 2**40": all(s % 16 == 0 and s < 2**40 for s in record.strides[:-1]),
            "the box's inner bytes are not a multiple of 16": boxes[-1] * itemsize % 16 == 0,
            "the box is wider than the swizzle": boxes[-1] * itemsize <= (INNER_LIMITS[record.swizzle] or 1 << 30),
            "interleave, promotion or fill": modes == (0, 2, 0),
            "the array reaches outside of device memory": self._inside(record.address, record.span),
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            return self._refused(broken[0])
        self.records.append(record)
        ctypes.memset(target, 0, BYTES)
        (ctypes.c_uint64 * 2).from_address(target)[:] = [len(self.records), SMALL_BIT]
        return 0

    def _refused(self, rule: str) -> int:
        self._refuse(f"cuTensorMapEncode: {rule}")
        return INVALID_VALUE


def _read(address: int, type: Any, count: int) -> tuple[int, ...]:
    """The driver's arrays begin with the innermost dimension; here the outermost is first."""
    return tuple(reversed((type * count).from_address(address))) if count else ()
