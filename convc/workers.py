"""What the child processes of convc share: how they start, messages over pipes, and functions from source text.

A message is MessagePack behind its length in four bytes, little-endian.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import IO, Any

import msgspec


def command(module: str) -> list[str]:
    """What runs ``main`` of a module of convc in a process of its own: of this convc, wherever it lies, and whatever
    files the current folder holds."""
    root = str(Path(__file__).absolute().parents[1])
    return [sys.executable, "-P", "-c", f"import sys; sys.path.append({root!r}); from {module} import main; main()"]


def write_message(stream: IO[bytes], message: Any) -> None:
    """One message, at once."""
    data = msgspec.msgpack.encode(message)
    stream.write(len(data).to_bytes(4, "little") + data)
    stream.flush()


def read_message(stream: IO[bytes], kind: Any) -> Any | None:
    """The next message, or None at the end of the stream, be it in the middle of one."""
    head = stream.read(4)
    nbytes = int.from_bytes(head, "little")
    data = stream.read(nbytes)
    return msgspec.msgpack.decode(data, type=kind) if len(head) == 4 and len(data) == nbytes else None


def load_function(path: Path, source: str, name: str) -> Any:
    """A function from source text. Triton reads the text again, so it is written to a file."""
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)
