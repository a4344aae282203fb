"""What a cubin says about its kernels, read from the ELF file: parameters, threads, architecture.

Every kernel has a section ``.nv.info.NAME`` of records: a format byte, an attribute byte, and 16 bits that are the
value itself, or for format 4 the length of the value that follows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SIZED, KPARAM_INFO, REQNTID = 4, 0x17, 0x10
POINTER_SPACE = 4


@dataclass(frozen=True)
class KernelParameter:
    """Position, byte offset in the parameter block, size in bytes, and whether the compiler calls it a pointer."""

    ordinal: int
    offset: int
    size: int
    pointer: bool


@dataclass(frozen=True)
class CubinKernel:
    parameters: tuple[KernelParameter, ...]
    threads: tuple[int, int, int] | None


@dataclass(frozen=True)
class Cubin:
    """sm: the architecture, such as 90. kernels: by name."""

    sm: int
    kernels: dict[str, CubinKernel]


def parse(image: bytes) -> Cubin:
    """Raises ``ValueError`` for anything but a complete cubin."""
    if image[:4] != b"\x7fELF":
        raise ValueError("not an ELF file")
    flags = struct.unpack_from("<I", image, 48)[0]
    sm = flags >> 8 & 0xFF if image[8] >= 8 else flags & 0xFF
    prefix = ".nv.info."
    found = {name[len(prefix) :]: _kernel(data) for name, data in _sections(image) if name.startswith(prefix)}
    return Cubin(sm, found)


def _sections(image: bytes) -> list[tuple[str, bytes]]:
    start = struct.unpack_from("<Q", image, 40)[0]
    size, count, names_index = struct.unpack_from("<HHH", image, 58)
    if start + size * count > len(image):
        raise ValueError("the section headers are cut off")
    headers = [struct.unpack_from("<IIQQQQ", image, start + i * size) for i in range(count)]
    names = headers[names_index][4]
    return [
        (image[names + h[0] : image.index(b"\0", names + h[0])].decode(), image[h[4] : h[4] + h[5]]) for h in headers
    ]


def _kernel(info: bytes) -> CubinKernel:
    parameters, threads, at = [], None, 0
    while at < len(info):
        form, attribute, value = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == SIZED:
            payload = info[at : at + value]
            at += value
            if attribute == KPARAM_INFO:
                _, ordinal, offset, packed = struct.unpack("<IHHI", payload)
                pointer = packed >> 8 & 0xF == POINTER_SPACE
                parameters.append(KernelParameter(ordinal, offset, packed >> 18, pointer))
            elif attribute == REQNTID:
                threads = struct.unpack("<III", payload)
    return CubinKernel(tuple(sorted(parameters, key=lambda p: p.ordinal)), threads)
