"""Compiled kernels on disk, by content.

A key is the hash of everything that decides the code: source, parameters, target, schedule and versions. An entry
holds the hash of its own bytes: a damaged one is dropped and compiled again. A cache that cannot be written is done
without.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from .. import errors
from ..version import __version__
from .worker import Compiled, Request

LOG = logging.getLogger("convc")


def default_directory() -> Path:
    """``$CONVC_CACHE_DIR``, or the user's cache directory."""
    import platformdirs

    given = os.environ.get("CONVC_CACHE_DIR")
    return Path(given) if given else Path(platformdirs.user_cache_dir("convc")) / "kernels"


class KernelCache:
    """Compiled kernels below ``directory``; safe for several processes, since entries appear by renaming."""

    compiles = True
    """Whether a kernel that is not there may be compiled and kept."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or default_directory()
        self._complained = False

    @property
    def triton(self) -> str:
        """The version of Triton that makes the kernels. Raises `CompileError` where there is none."""
        try:
            return importlib.metadata.version("triton")
        except importlib.metadata.PackageNotFoundError:
            raise errors.no_compiler() from None

    @staticmethod
    def key(request: Request, triton_version: str) -> str:
        """Hash of a request, of Triton's version and of convc's, and of what is known of compiled kernels."""
        content = (__version__, triton_version, Compiled.__struct_fields__, request)
        return hashlib.sha256(msgspec.msgpack.encode(content)).hexdigest()

    def get(self, key: str) -> Compiled | None:
        """The kernel of that key, if it is there and whole."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            try:
                return msgspec.msgpack.decode(data[32:], type=Compiled)
            except msgspec.DecodeError:
                pass
        LOG.warning("dropped a damaged entry of the kernel cache: %s", path.name)
        with suppress(OSError):
            path.unlink()
        return None

    def put(self, key: str, compiled: Compiled) -> None:
        """Keeps a kernel; says once if it cannot."""
        path = self._path(key)
        data = msgspec.msgpack.encode(compiled)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".new-{secrets.token_hex(8)}")
            try:
                with beside.open("xb") as stream:
                    stream.write(hashlib.sha256(data).digest() + data)
                beside.replace(path)
            except BaseException:
                beside.unlink(missing_ok=True)
                raise
        except OSError as error:
            if not self._complained:
                LOG.warning("kernels are not cached: %s: %s", self.directory, error.strerror or error)
            self._complained = True

    def keep_failed(self, request: Request) -> Path | None:
        """Writes the source of a kernel that did not compile, for whoever looks into it; returns the file, None where
        it cannot be written."""
        for folder in (self.directory / "failed", Path(tempfile.gettempdir())):
            path = folder / f"{request.name}.py"
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(request.source, encoding="utf-8")
                return path
        return None

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key
