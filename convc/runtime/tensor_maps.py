"""Descriptors of arrays for the tensor memory accelerator: the types of such parameters, and their element types.

A parameter ``tensordesc<fp16[128,64]>`` is an array of any shape of which a kernel copies blocks of 128 x 64 elements.
What is passed is a tensor map of 128 bytes, which the driver encodes, and behind it the array's shape and strides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TYPE = re.compile(
    r"tensordesc(?:_im2col(?=<[^>]*,input_rank=(\d)))?<(\w+)\[(\d{1,9}(?:,\d{1,9})*)\](?:,[\w=,()\[\] ]*)?>", re.ASCII
)
MAX_RANK = 5
IMAGE_RANKS = (3, 4, 5)
CORNERS = {3: 1 << 15, 4: 1 << 7, 5: 1 << 4}
"""Rank of images → corners of a walk over windows lie from minus this to one less."""
MAX_STEP = 8
MAX_PIXELS = 1024
MAX_BOX = 256
"""Elements that a box may have along one dimension."""
MAX_EXTENT = 2**31 - 1
"""Elements along one dimension: the kernel takes them as ``i32``."""
MAX_STRIDE = 2**40
"""Bytes from which on a stride is refused by the driver."""
STEP = 16
"""Bytes that the address, every stride and the innermost extent of the box are a multiple of."""
SWIZZLES = (0, 32, 64, 128)
"""Bytes of the innermost extent of a box that each swizzle mode can take at most; 0 where there is no limit."""


@dataclass(frozen=True)
class Element:
    """An element type: bytes, Triton's number of it in compiled code, and ``CUtensorMapDataType`` of the driver."""

    itemsize: int
    compiled: int
    driver: int


ELEMENTS = {"fp16": Element(2, 6, 6), "fp32": Element(4, 7, 7), "bf16": Element(2, 10, 9)}


@dataclass(frozen=True)
class DescriptorType:
    """The type of a descriptor parameter: elements, the block that the kernel copies, outermost extent first, and the
    dimensions of the array. windows: whether a block is pixels and channels of images that windows walk over."""

    dtype: str
    block: tuple[int, ...]
    rank: int
    windows: bool = False

    @property
    def element(self) -> Element:
        return ELEMENTS[self.dtype]


def descriptor_type(spelled: str) -> DescriptorType | None:
    """``tensordesc<fp16[128,64]>`` taken apart, and what Gluon has: with a layout, and ``tensordesc_im2col`` with the
    rank of the images. None for other types and for elements that are not known here."""
    match = TYPE.fullmatch(spelled)
    if match is None or match[2] not in ELEMENTS:
        return None
    block = tuple(int(extent) for extent in match[3].split(","))
    rank = int(match[1]) if match[1] else len(block)
    if rank > MAX_RANK or min(block) <= 0 or (match[1] and (len(block) != 2 or rank not in IMAGE_RANKS)):
        return None
    return DescriptorType(match[2], block, rank, windows=match[1] is not None)


def span_bytes(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """Bytes from the first element of a strided array to the end of its last."""
    return itemsize * (1 + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)))
