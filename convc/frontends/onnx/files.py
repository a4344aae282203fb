"""From a path to a parsed model: what is not an ONNX file is refused in one clear line."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from convc import errors

from . import limits, wire


@dataclass(frozen=True)
class Source:
    """A parsed model and where its weights are.

    model: the protobuf message. raw: raw data that was left out of it, by position in ``graph.initializer``.
    path: the file; None for a model that was given in memory, which may have no external data.
    """

    model: onnx.ModelProto
    raw: dict[int, memoryview] = field(default_factory=dict)
    path: Path | None = None

    @property
    def name(self) -> str | None:
        return str(self.path) if self.path else None


SIGNATURES: list[tuple[bytes, str]] = [
    (b"version https://git-lfs", "git-lfs"),
    (b"<!doctype", "html"),
    (b"<html", "html"),
    (b"<?xml", "xml"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"\x80\x02", "pickle"),
    (b"\x80\x03", "pickle"),
    (b"\x80\x04", "pickle"),
    (b"\x80\x05", "pickle"),
    (b"\x89HDF", "hdf5"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstandard"),
]
"""First bytes of files that are mistaken for models; the kinds are keys of `errors.FOREIGN_FILES`."""


def open_source(source: str | os.PathLike[str] | onnx.ModelProto) -> Source:
    """The model behind a path, or the given message itself.

    Raises:
        LoadError: a file that is missing, empty, not a regular file, of another kind, or damaged.
        LimitError: a file past `limits.FILE_BYTES`.
    """
    if isinstance(source, onnx.ModelProto):
        return Source(source)
    path = Path(source)
    data = _read(path)
    _recognise(path, bytes(data[:64]))
    head, raw = wire.split(data)
    model = parsed(bytes(head))
    if model is None:
        raise errors.file_not_onnx(str(path), "unknown")
    return Source(model, raw, path)


def parsed(data: bytes) -> onnx.ModelProto | None:
    """The model that bytes are; None where they are none."""
    try:
        return onnx.ModelProto.FromString(data)
    except DecodeError:
        return None


def _read(path: Path) -> memoryview:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise errors.file_unreadable(str(path), why) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise errors.file_not_regular(str(path), stat.S_ISDIR(status.st_mode))
        if status.st_size > limits.FILE_BYTES:
            raise errors.file_too_large(str(path), status.st_size, limits.FILE_BYTES)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limits.FILE_BYTES)
    finally:
        os.close(descriptor)
    if not data:
        raise errors.file_empty(str(path))
    return memoryview(data)


def _recognise(path: Path, head: bytes) -> None:
    start = head.lstrip()[:32]
    for signature, kind in SIGNATURES:
        if head.startswith(signature) or start.lower().startswith(signature):
            raise errors.file_not_onnx(str(path), kind)
