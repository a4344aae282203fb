"""Which version of the kernels' texts this is."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

COMPILING = {"cache", "cubin", "fingerprint", "forms", "packed", "pool", "sass", "worker"}
"""Modules that compile texts, or read what was compiled."""


@cache
def fingerprint() -> str:
    """SHA-256 (hexadecimal) of every module and template that writes kernels, and of the definitions of problems and
    operators, whose texts stand in them: while it is the same, so are they."""
    folder, digest = Path(__file__).parents[1], hashlib.sha256()
    codegen = [path for kind in ("*.py", "*.j2") for path in (folder / "codegen").rglob(kind)]
    writing = [path for path in codegen if path.stem not in COMPILING]
    for path in sorted([*writing, *(folder / "ir").rglob("*.py")]):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
