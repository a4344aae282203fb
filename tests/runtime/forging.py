"""Damaged files: how they are made, and refused."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import pytest

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.artifact import ALIGN, HEADER, MAGIC, read


def refused(path: Path, words: str | None = None) -> str:
    """The message with which reading a file is refused, within a second of this process's own time."""
    start = time.process_time()
    with pytest.raises(errors.ArtifactError, match=words) as raised:
        read(path)
    assert time.process_time() - start < 1
    message = str(raised.value)
    assert str(path) in message and "\n" not in message
    return message


VERSION = m.FORMAT_MAJOR << 16 | m.FORMAT_MINOR


def forge(path: Path, manifest: bytes, rest: bytes = b"", version: int = VERSION, length: int | None = None) -> Path:
    """A file with a right header for any manifest, so that what is tested is behind the hash."""
    length = len(manifest) if length is None else length
    head = HEADER.pack(MAGIC, version, length, hashlib.sha256(manifest).digest()) + manifest
    path.write_bytes(head + bytes(-len(head) % ALIGN) * bool(rest) + rest)
    return path


def forged(path: Path, change) -> Path:
    """The file with its manifest, as a dictionary, changed; the hash fits again."""
    data = path.read_bytes()
    length = HEADER.unpack_from(data)[2]
    manifest = json.loads(data[HEADER.size : HEADER.size + length])
    change(manifest)
    start = -(-(HEADER.size + length) // ALIGN) * ALIGN
    return forge(path, json.dumps(manifest).encode(), data[start:])
