"""What a cubin says about its kernels, read from the ELF file: parameters, threads, shared memory, code, architecture.

Every kernel has a section ``.text.NAME`` with its code, and ``.nv.info.NAME`` of records: a format byte, an attribute
byte, and 16 bits that are the value itself, or for format 4 the length of the value that follows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

SIZED, PARAM_CBANK, KPARAM_INFO, REQNTID = 4, 0x0A, 0x17, 0x10
POINTER_SPACE = 4
NOBITS = 8
"""Type of a section that takes memory but stands in no file."""
RESERVED_SHARED = 1024
INFO = ".nv.info."


@dataclass(frozen=True)
class KernelParameter:
    """Position, byte offset in the parameter block, size in bytes, and whether the compiler calls it a pointer."""

    ordinal: int
    offset: int
    size: int
    pointer: bool


@dataclass(frozen=True)
class CubinKernel:
    """threads: of a block, along x, y and z. static_shared_bytes: what the kernel takes besides the dynamic part; the
    1 KiB that the system reserves from sm_90 on is not counted. code: the instructions. parameter_base: byte of the
    constant memory at which the parameter block begins; alignments of parameters count from its beginning."""

    parameters: tuple[KernelParameter, ...]
    threads: tuple[int, int, int] | None
    static_shared_bytes: int
    code: bytes
    parameter_base: int = 0


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
    sections = _sections(image)
    names = [name.removeprefix(INFO) for name in sections if name.startswith(INFO)]
    return Cubin(sm, {name: _kernel(name, sections, sm) for name in names})


@dataclass(frozen=True)
class _Section:
    """nbytes: what it takes on the GPU, which of shared memory is more than what stands in the file."""

    data: bytes
    nbytes: int


def _sections(image: bytes) -> dict[str, _Section]:
    start = struct.unpack_from("<Q", image, 40)[0]
    size, count, names_index = struct.unpack_from("<HHH", image, 58)
    if start + size * count > len(image):
        raise ValueError("the section headers are cut off")
    headers = [struct.unpack_from("<IIQQQQ", image, start + i * size) for i in range(count)]
    names = headers[names_index][4]
    found = {}
    for name, kind, _, _, offset, nbytes in headers:
        text = image[names + name : image.index(b"\0", names + name)].decode()
        found[text] = _Section(b"" if kind == NOBITS else image[offset : offset + nbytes], nbytes)
    return found


def _kernel(name: str, sections: dict[str, _Section], sm: int) -> CubinKernel:
    parameters, threads, base = _attributes(sections[INFO + name].data)
    none = _Section(b"", 0)
    shared = sections.get(f".nv.shared.{name}", none).nbytes
    reserved = RESERVED_SHARED if sm >= 90 else 0
    code = sections.get(f".text.{name}", none).data
    return CubinKernel(parameters, threads, max(0, shared - reserved), code, base)


def _attributes(info: bytes) -> tuple[tuple[KernelParameter, ...], tuple[int, int, int] | None, int]:
    """Parameters in order, the threads of a block, and where the parameter block begins."""
    parameters, threads, base, at = [], None, 0, 0
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
            elif attribute == PARAM_CBANK:
                base = struct.unpack("<IHH", payload)[1]
            elif attribute == REQNTID:
                threads = struct.unpack("<III", payload)
    return tuple(sorted(parameters, key=lambda p: p.ordinal)), threads, base
