"""Which version of the kernels' texts this is."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

COMPILING = {"cache", "cubin", "fingerprint", "forms", "packed", "pool", "sass", "worker"}
"""Modules that compile texts, or read what was compiled."""


@cache
def fingerprint() -> str:
    """SHA-256 (hexadecimal) of every module and template that writes kernels: while it is the same, so are they."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    writing = (path for path in [*folder.rglob("*.py"), *folder.rglob("*.j2")] if path.stem not in COMPILING)
    for path in sorted(writing):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
