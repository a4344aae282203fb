"""Kernels that were compiled on another machine, for one without a compiler or with another version of it.

A pack is a directory as the kernel cache lays it out, beside a file that says which versions of convc and Triton made
it. Where the cache directory is a pack, its kernels are used as they are: Triton is not needed, and a kernel that is
not there is an error.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from .. import errors
from ..version import __version__
from .cache import KernelCache, default_directory
from .worker import Compiled

LABEL = "pack.json"


class Label(msgspec.Struct):
    """What made the kernels of a pack: versions of convc, of Triton and, where it is not Triton's own, of ptxas."""

    convc: str
    triton: str
    ptxas: str = ""


class PackedKernels(KernelCache):
    """The kernels of a pack; nothing is added to them. Raises `UsageError` for a directory that is no pack."""

    compiles = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        try:
            self.label = msgspec.json.decode((directory / LABEL).read_bytes(), type=Label)
        except (OSError, msgspec.DecodeError) as error:
            raise errors.not_a_pack(directory, getattr(error, "strerror", None) or error) from error
        if self.label.convc != __version__:
            raise errors.other_pack(directory, self.label.convc, __version__)

    @property
    def triton(self) -> str:
        return self.label.triton

    def put(self, key: str, compiled: Compiled) -> None:
        """Nothing is compiled, so there is nothing to keep."""


class PackWriter(KernelCache):
    """Compiles as usual with the cache ``source``, and keeps every kernel that was asked for in a new pack."""

    def __init__(self, directory: Path, source: KernelCache | None = None, ptxas: str = "") -> None:
        super().__init__(directory)
        self.source = source or KernelCache()
        self.keys: set[str] = set()
        directory.mkdir(parents=True, exist_ok=True)
        label = Label(__version__, self.source.triton, ptxas)
        (directory / LABEL).write_bytes(msgspec.json.encode(label))

    def get(self, key: str) -> Compiled | None:
        found = super().get(key) if key in self.keys else self.source.get(key)
        if found is not None and key not in self.keys:
            self._keep(key, found)
        return found

    def put(self, key: str, compiled: Compiled) -> None:
        self.source.put(key, compiled)
        self._keep(key, compiled)

    def _keep(self, key: str, compiled: Compiled) -> None:
        super().put(key, compiled)
        self.keys.add(key)


def open_cache(directory: Path | None = None) -> KernelCache:
    """The cache at a directory, by default the user's: a pack where there is one."""
    directory = directory or default_directory()
    try:
        return PackedKernels(directory) if (directory / LABEL).exists() else KernelCache(directory)
    except OSError:  # one that may not be entered is done without
        return KernelCache(directory)
