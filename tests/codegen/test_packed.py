"""Packs of compiled kernels: a machine without Triton gets the same artifact, and is told what a pack does not hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convc import errors
from convc.api import plan
from convc.codegen.cache import KernelCache
from convc.codegen.packed import LABEL, PackedKernels, PackWriter, open_cache
from convc.compiler import compile_plan, compile_programs
from convc.frontends import zoo

WITHOUT_TRITON = """
import importlib.metadata, sys
sys.modules["triton"] = None
found = importlib.metadata.version
def version(name):
    if name == "triton":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version
import convc
from convc import ConvcError
try:
    convc.compile(sys.argv[1], target="sm_90", batch=int(sys.argv[2])).save(sys.argv[3])
except ConvcError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of LeNet-5 for sm_90, as a pack."""
    pytest.importorskip("triton", reason="the kernels of these tests are compiled with Triton")
    folder = tmp_path_factory.mktemp("pack")
    compile_programs(plan(zoo.build("lenet5").graph), PackWriter(folder))
    return folder


def without_triton(cache: Path, file: Path, batch: int = 1, name: str = "lenet5") -> str:
    """What compiling a network of the zoo says where Triton cannot be imported."""
    command = [sys.executable, "-c", WITHOUT_TRITON, f"zoo:{name}", str(batch), str(file)]
    environment = os.environ | {"CONVC_CACHE_DIR": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_pack_gives_the_same_artifact_without_triton(pack: Path, tmp_path: Path) -> None:
    assert without_triton(pack, tmp_path / "packed.convc") == ""
    compile_plan(plan(zoo.build("lenet5").graph), KernelCache()).save(tmp_path / "compiled.convc")
    assert (tmp_path / "packed.convc").read_bytes() == (tmp_path / "compiled.convc").read_bytes()


def test_a_missing_kernel_is_named(pack: Path, tmp_path: Path) -> None:
    said = without_triton(pack, tmp_path / "m.convc", batch=256)
    assert "for sm_90 is not among the compiled kernels" in said and "pack again" in said
    assert said.startswith("node '") and not (tmp_path / "m.convc").exists()


def test_without_pack_and_triton_the_remedy_is_said(tmp_path: Path) -> None:
    assert "pip install triton" in without_triton(tmp_path, tmp_path / "m.convc")


def test_a_pack_is_recognised_and_never_written(pack: Path, tmp_path: Path) -> None:
    assert isinstance(open_cache(pack), PackedKernels) and type(open_cache(tmp_path)) is KernelCache
    before = sorted(pack.rglob("*"))
    cache = open_cache(pack)
    entry = next(path for path in before if path.is_file() and path.name != LABEL)
    kernel = cache.get(entry.name)
    assert kernel is not None and kernel.cubin[:4] == b"\x7fELF"
    cache.put("ab" * 32, kernel)
    assert sorted(pack.rglob("*")) == before


def test_packs_of_other_versions_and_damaged_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="no pack of compiled kernels"):
        PackedKernels(tmp_path)
    (tmp_path / LABEL).write_text('{"convc": "0.0.0", "triton": "3.9.0"}')
    with pytest.raises(errors.UsageError, match=r"packed by convc 0\.0\.0"):
        open_cache(tmp_path)
    (tmp_path / LABEL).write_text("{")
    with pytest.raises(errors.UsageError, match="no pack of compiled kernels"):
        open_cache(tmp_path)
