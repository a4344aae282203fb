"""The cache of compiled kernels: what its keys depend on, and what damage does."""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import tempfile
from pathlib import Path

import msgspec
import pytest

from convc.analysis.machine import look_at_cache
from convc.codegen import pool
from convc.codegen.cache import KernelCache
from convc.codegen.packed import open_cache
from convc.codegen.pool import Job, compile_kernels
from convc.codegen.worker import Compiled, Request, TensorMap
from convc.errors import CompileError
from convc.targets import target
from convc.targets.tuned import tables_of, user_directory
from convc.workers import command

REQUEST = Request("relu", "source", (("x", "*fp16", True), ("n", "i32", False)), 90, 4, 3)
CHANGES = {
    "name": "elu",
    "source": "sourcf",
    "parameters": (("x", "*fp16", False), ("n", "i32", False)),
    "capability": 80,
    "num_warps": 8,
    "num_stages": 2,
}


def compiled() -> Compiled:
    numbers = (field.name for field in msgspec.structs.fields(Compiled) if field.type is int)
    maps = (TensorMap(swizzle=3, elem_size=2, elem_type=6, block_size=(128, 64)),)
    return Compiled(cubin=b"\x7fELF", warnings=("C7515",), tensor_maps=maps, **dict.fromkeys(numbers, 1))


def test_every_field_of_a_request_is_in_the_key() -> None:
    assert set(CHANGES) == set(Request.__struct_fields__), "a field of requests that this test does not know"
    keys = {KernelCache.key(REQUEST, "3.9")} | {
        KernelCache.key(msgspec.structs.replace(REQUEST, **{field: value}), "3.9") for field, value in CHANGES.items()
    }
    assert len(keys) == 1 + len(CHANGES)
    assert KernelCache.key(REQUEST, "3.10") not in keys
    assert KernelCache.key(msgspec.structs.replace(REQUEST), "3.9") in keys


def test_what_was_put_is_found_again(tmp_path: Path) -> None:
    KernelCache(tmp_path).put("ab12", compiled())
    assert KernelCache(tmp_path).get("ab12") == compiled()
    assert KernelCache(tmp_path).get("ab13") is None


@pytest.mark.parametrize("damage", ["one bit", "cut off", "empty", "not messagepack"])
def test_a_damaged_entry_is_dropped(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import hashlib

    cache = KernelCache(tmp_path)
    cache.put("ab12", compiled())
    (entry,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    data = entry.read_bytes()
    bad = {
        "one bit": data[:-1] + bytes([data[-1] ^ 1]),
        "cut off": data[:-4],
        "empty": b"",
        "not messagepack": hashlib.sha256(b"\xc1").digest() + b"\xc1",
    }
    entry.write_bytes(bad[damage])
    with caplog.at_level(logging.WARNING, logger="convc"):
        assert cache.get("ab12") is None
    assert "damaged" in caplog.text and not entry.exists()
    cache.put("ab12", compiled())
    assert cache.get("ab12") == compiled()


def test_a_directory_that_cannot_be_written_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = KernelCache(tmp_path / "file")
    with caplog.at_level(logging.WARNING, logger="convc"):
        cache.put("ab12", compiled())
        cache.put("cd34", compiled())
    assert cache.get("ab12") is None
    assert caplog.text.count("not cached") == 1


BROKEN = "import triton\nimport triton.language as tl\n\n\n@triton.jit\ndef relu(x, n):\n    tl.store(x, undefined)\n"


def test_a_source_that_does_not_compile_names_the_layer(tmp_path: Path) -> None:
    request = msgspec.structs.replace(REQUEST, source=BROKEN)
    with pytest.raises(CompileError, match=r"(?s)block3/relu.*undefined"):
        compile_kernels([Job(request, "block3/relu")], KernelCache(tmp_path))
    assert compile_kernels([], KernelCache(tmp_path)) == []


def test_a_directory_that_may_not_be_entered_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that is too long stands in for it: root may enter any."""
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / ("x" * 300)))
    cache = open_cache()
    assert cache.compiles and cache.get("ab12") is None
    cache.put("ab12", compiled())
    assert tables_of(target("sm_90"), [user_directory()]) == []
    assert "not cached" in caplog.text and "left out the tables" in caplog.text
    assert look_at_cache()["entries"] == 0 and not look_at_cache()["writable"]


def test_entries_are_for_everyone_whom_the_folder_lets_in(tmp_path: Path) -> None:
    """A pack that one user made is read by another."""
    KernelCache(tmp_path).put("ab12", compiled())
    (tmp_path / "plain").write_bytes(b"")
    (entry,) = (path for path in (tmp_path / "ab").iterdir())
    assert entry.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_full_disk_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A limit on the size of files stands in for it."""
    cache, before = KernelCache(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        cache.put("ab12", compiled())
        assert cache.keep_failed(REQUEST) is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "not cached" in caplog.text and not [*(tmp_path / "ab").iterdir()]


def test_a_damaged_entry_that_cannot_be_removed(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path)
    cache.put("ab12", compiled())
    (entry,) = (tmp_path / "ab").iterdir()
    entry.write_bytes(b"damaged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", _read_only)
        assert cache.get("ab12") is None


def _read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "read-only file system")


def test_a_source_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failed" / f"{REQUEST.name}.py").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "failed" / f"{REQUEST.name}.py" / "gone"))
    (tmp_path / "failed" / f"{REQUEST.name}.py" / "gone").write_text("in the way")
    assert KernelCache(tmp_path).keep_failed(REQUEST) is None


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_compiling_process_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel is named, and nothing is left of the processes though the error is kept."""
    made, start = [], pool._Worker.__init__

    def dead(self: pool._Worker, scratch: str) -> None:
        start(self, scratch)
        self.process.kill()
        self.process.wait()
        made.append((self.process, Path(scratch)))

    monkeypatch.setattr(pool._Worker, "__init__", dead)
    with pytest.raises(CompileError, match="ended unexpectedly; its source is kept in"):
        compile_kernels([Job(REQUEST, "layer")], KernelCache(tmp_path))
    ((process, scratch),) = made
    assert process.stdin is not None and process.stdin.closed and not scratch.exists()


def test_files_of_the_current_folder_are_no_modules_of_processes(tmp_path: Path) -> None:
    """Nor does the folder have to be convc's, or convc be installed."""
    (tmp_path / "random.py").write_text("raise RuntimeError")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = {"cwd": tmp_path, "env": environment, "stdin": subprocess.DEVNULL}
    assert subprocess.run(command("convc.codegen.worker"), **run).returncode == 0
