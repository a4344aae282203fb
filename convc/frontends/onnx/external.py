"""External tensor data, opened so that a model can read nothing but files beside it.

Every component of the location is opened relative to its parent, without following links, and the file must be a
regular one with a single name, so neither ``..`` nor a symbolic or hard link leads out of the model's folder.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from onnx import TensorProto

from convc import errors

KEYS = {"location", "offset", "length", "checksum", "basepath"}
_LARGEST = 2**63 - 1


def read_external(tensor: TensorProto, base: Path | None, expected: int) -> bytearray:
    """The ``expected`` bytes of a tensor whose data lie outside the model.

    Raises:
        LoadError: no model file to lie beside, a location that is refused, or a file that does not fit.
    """
    if base is None:
        raise errors.external_in_memory(tensor.name)
    entries = _entries(tensor)
    location = entries.get("location", "")
    offset = _number(tensor, entries, "offset", 0)
    length = _number(tensor, entries, "length", expected)
    if length != expected:
        raise errors.payload_length(tensor.name, length, expected, "bytes")
    descriptor = _open(tensor.name, base, _components(tensor.name, location))
    try:
        return _read(tensor.name, descriptor, offset, length)
    finally:
        os.close(descriptor)


def _entries(tensor: TensorProto) -> dict[str, str]:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if entry.key not in KEYS or entry.key in entries:
            raise errors.external_key(tensor.name, entry.key)
        entries[entry.key] = entry.value
    return entries


def _number(tensor: TensorProto, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 20 or int(text) > _LARGEST:
        raise errors.external_number(tensor.name, key, text)
    return int(text)


def _components(name: str, location: str) -> list[str]:
    parts = location.split("/")
    foreign = any(character in location for character in "\\\0:")
    if foreign or any(part in ("", "..") for part in parts):
        raise errors.external_location(name, location)
    kept = [part for part in parts if part != "."]
    if not kept:
        raise errors.external_location(name, location)
    return kept


def _open(name: str, base: Path, parts: list[str]) -> int:
    common = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    held = -1
    try:
        held = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            inner = os.open(part, common if last else common | os.O_DIRECTORY, dir_fd=held)
            os.close(held)
            held = inner
        return held
    except OSError as error:
        if held >= 0:
            os.close(held)
        raise errors.external_refused(name, "/".join(parts), error.strerror or str(error)) from None


def _read(name: str, descriptor: int, offset: int, length: int) -> bytearray:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise errors.external_not_plain(name)
    if offset + length > status.st_size:
        raise errors.external_ends(name, offset + length, status.st_size)
    buffer = bytearray(length)
    view, done = memoryview(buffer), 0
    while done < length:
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise errors.external_ends(name, offset + length, offset + done)
        done += count
    return buffer
