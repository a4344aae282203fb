"""A compiled network in one file: a manifest and the sections that it lists.

Layout, little-endian: magic (8 bytes), format version (u32: 65536 * major + minor), length of the manifest (u64),
SHA-256 of the manifest (32 bytes), the manifest (JSON), then the sections in the manifest's order, each at the next
multiple of 64, with zeros between them and nothing after the last. See docs/artifact.md.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import stat
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from .. import errors
from . import manifest as records
from .check import Inconsistent, check_manifest
from .manifest import FORMAT_MAJOR, FORMAT_MINOR, HOST_STEPS_MAJOR, Manifest, SectionSpec
from .weights import SECTION, align, check_weights, load_weights, pack_weights

__all__ = ["Artifact", "build", "load_weights", "pack_weights", "read", "write"]

MAGIC = b"\x89CONVC\r\n"
HEADER = struct.Struct("<8sIQ32s")
ALIGN = 64
MANIFEST_LIMIT = 16 << 20
READ_MAJORS = (FORMAT_MAJOR, HOST_STEPS_MAJOR)


class Closable(Protocol):
    def close(self) -> None: ...


class Artifact:
    """A manifest with its sections, from a file or from memory.

    Attributes:
        manifest: the typed manifest.
        file: the path it was read from, None in memory.
    """

    def __init__(
        self,
        manifest: Manifest,
        sections: Mapping[str, memoryview],
        file: str | None = None,
        owner: Closable | None = None,
    ) -> None:
        self.manifest = manifest
        self.file = file
        self._sections = dict(sections)
        self._owner = owner

    def section(self, name: str) -> memoryview:
        """The read-only bytes of a section. Raises `ArtifactError` where there is none of that name."""
        try:
            return self._sections[name]
        except KeyError:
            raise errors.damaged(name, "there is no such section", self.file) from None

    def text(self, name: str) -> str:
        """A section as text. Raises `ArtifactError` where it is not UTF-8."""
        try:
            return str(self.section(name), "utf-8")
        except UnicodeDecodeError as error:
            raise errors.damaged(name, f"not text: {error.reason}", self.file) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file: it appears whole or not at all. Raises `OutputError`."""
        encoded = _encoded(self.manifest, self.file)
        gap = bytes(align(HEADER.size + len(encoded), ALIGN) - HEADER.size - len(encoded))
        version = self.manifest.format[0] << 16 | self.manifest.format[1]
        digest = hashlib.sha256(encoded).digest()
        pieces: list[bytes | memoryview] = [HEADER.pack(MAGIC, version, len(encoded), digest), encoded]
        for spec in self.manifest.sections:
            pieces += [gap, self.section(spec.name)]
            gap = bytes(-spec.nbytes % ALIGN)
        write_file(Path(path), pieces)

    def close(self) -> None:
        """Let go of the file. Views that are still in use keep it mapped until they are gone."""
        self._sections.clear()
        if self._owner is not None:
            with suppress(BufferError):
                self._owner.close()

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build(manifest: Manifest, blobs: Mapping[str, Any]) -> Artifact:
    """An artifact in memory: ``manifest`` with its sections filled from ``blobs`` (name → bytes-like).

    The same content gives the same bytes. Raises `ArtifactError` where the manifest does not hold together.
    """
    views = {name: memoryview(blobs[name]).cast("B").toreadonly() for name in sorted(blobs)}
    sections, offset = [], 0
    for name, view in views.items():
        sections.append(SectionSpec(name, offset, view.nbytes, hashlib.sha256(view).hexdigest()))
        offset = align(offset + view.nbytes, ALIGN)
    filled = msgspec.structs.replace(manifest, format=_format_of(manifest), sections=tuple(sections))
    # The manifest goes through its own encoding, so that a network in memory is what a reader of the file would get.
    manifest = _decoded(_encoded(filled, None), None)
    _check_weights(manifest, views, None)
    return Artifact(manifest, views)


def _format_of(manifest: Manifest) -> tuple[int, int]:
    """The lowest version whose readers know all that is in a manifest."""
    hosted = any(program.host_steps for program in manifest.programs)
    return (HOST_STEPS_MAJOR if hosted else FORMAT_MAJOR), FORMAT_MINOR


def write(path: str | os.PathLike[str], manifest: Manifest, blobs: Mapping[str, Any]) -> None:
    """Build and save. Raises `ArtifactError` and `OutputError`; a failure leaves nothing behind."""
    build(manifest, blobs).save(path)


def read(path: str | os.PathLike[str], verify: bool = True) -> Artifact:
    """Open a file and check all of it. Raises `ArtifactError` naming the section that is wrong.

    verify: compare the hash of every section (about a second per gigabyte); the manifest's is always compared.
    """
    file = os.fspath(path)
    mapped = _mapped(file)
    try:
        return _parsed(mapped, file, verify)
    except BaseException:
        with suppress(BufferError):
            mapped.close()
        raise


def _mapped(file: str) -> mmap.mmap:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise errors.not_an_artifact(getattr(error, "strerror", None) or str(error), file) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise errors.not_an_artifact("not a regular file", file)
        if status.st_size < HEADER.size:
            raise errors.not_an_artifact(f"{status.st_size} bytes are less than its header", file)
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise errors.not_an_artifact(str(error.strerror), file) from error
    finally:
        os.close(descriptor)


def _parsed(mapped: mmap.mmap, file: str, verify: bool) -> Artifact:
    data = memoryview(mapped)
    magic, version, length, digest = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise errors.not_an_artifact("it does not begin as one", file)
    found = (version >> 16, version & 0xFFFF)
    if found[0] not in READ_MAJORS:
        raise errors.format_version(found, READ_MAJORS, file)
    if length > min(MANIFEST_LIMIT, len(data) - HEADER.size):
        raise errors.damaged("manifest", f"its length is {length} bytes in a file of {len(data)}", file)
    end = HEADER.size + length
    encoded = bytes(data[HEADER.size : end])
    if hashlib.sha256(encoded).digest() != digest:
        raise errors.damaged("manifest", "its SHA-256 does not match", file)
    manifest = _decoded(encoded, file)
    if tuple(manifest.format) != found:
        raise errors.damaged("manifest", f"it says format {manifest.format}, the header {found}", file)
    sections = _laid_out(data, end, manifest.sections, file)
    if verify:
        _verify(manifest.sections, sections, file)
    _check_weights(manifest, sections, file)
    return Artifact(manifest, sections, file, mapped)


def _decoded(encoded: bytes, file: str | None) -> Manifest:
    try:
        json.loads(encoded, object_pairs_hook=_unique)
        manifest = records.decode(encoded)
        check_manifest(manifest, newer=manifest.format[1] > FORMAT_MINOR)
    except (ValueError, RecursionError, Inconsistent, msgspec.MsgspecError) as error:
        raise errors.damaged("manifest", str(error), file) from error
    return manifest


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _encoded(manifest: Manifest, file: str | None) -> bytes:
    encoded = records.encode(manifest)
    if len(encoded) > MANIFEST_LIMIT:
        raise errors.damaged("manifest", f"{len(encoded)} bytes are more than {MANIFEST_LIMIT}", file)
    return encoded


def _laid_out(data: memoryview, start: int, specs: Sequence[SectionSpec], file: str) -> dict[str, memoryview]:
    """The sections as views. They lie in order, each at the next multiple of 64, so none can overlap another."""
    base, views, end, previous = align(start, ALIGN), {}, start, "manifest"
    for spec in specs:
        begin = align(end, ALIGN)
        if base + spec.offset != begin:
            raise errors.damaged(spec.name, f"it is at offset {spec.offset}, expected {begin - base}", file)
        if begin + spec.nbytes > len(data):
            raise errors.damaged(spec.name, f"{spec.nbytes} bytes reach past the end of the file", file)
        if any(data[end:begin]):
            raise errors.damaged(previous, "the padding after it is not zero", file)
        views[spec.name] = data[begin : begin + spec.nbytes]
        end, previous = begin + spec.nbytes, spec.name
    if end != len(data):
        raise errors.damaged(previous, f"{len(data) - end} bytes follow after the last section", file)
    return views


def _verify(specs: Sequence[SectionSpec], sections: Mapping[str, memoryview], file: str) -> None:
    for spec in specs:
        if hashlib.sha256(sections[spec.name]).hexdigest() != spec.sha256:
            raise errors.damaged(spec.name, "its SHA-256 does not match", file)


def _check_weights(manifest: Manifest, sections: Mapping[str, memoryview], file: str | None) -> None:
    if manifest.weights:
        try:
            check_weights(sections[SECTION], manifest.weights)
        except (ValueError, RecursionError) as error:
            raise errors.damaged(SECTION, str(error), file) from error


def write_file(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    """Write beside the path, then rename: a reader sees the old file or the new one. Raises `OutputError`."""
    # Names have 255 bytes at most.
    name = os.fsdecode(os.fsencode(path.name)[:200])
    beside = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp") if path.name else path
    try:
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with os.fdopen(descriptor, "wb") as stream:
                stream.writelines(pieces)
                stream.flush()
                os.fsync(descriptor)
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except (OSError, ValueError) as error:
        raise errors.not_written(path, getattr(error, "strerror", None) or error) from error


def _sync_folder(folder: Path) -> None:
    """Make the rename last through a power cut, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
