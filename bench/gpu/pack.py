"""`make gpu-pack`: everything that the suite needs on a machine without a compiler and without a network.

A folder with the compiled kernels (one archive), the Python packages that may be missing there, and a file that says
what is in it. It is made on any machine with Triton; no GPU is needed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import triton

from convc.analysis.tune import compile_candidates
from convc.codegen.cache import KernelCache, default_directory
from convc.codegen.packed import PackWriter
from convc.codegen.pool import Job, compile_kernels
from convc.compiler import compile_programs
from convc.program import Plan

from .artifacts import ARCHIVE, OLDER
from .cases import BATCHES, NETWORKS, TUNED, Case, all_cases
from .families import Family, all_families
from .probes import PROBES
from .tuning import candidates
from .wheels import WHEELS, download_wheels

LIMIT_BYTES = 60 << 20
LABEL = "pack.json"
ASSEMBLER = "TRITON_PTXAS_BLACKWELL_PATH"


@dataclass(frozen=True)
class Contents:
    """What goes into a pack. tuned: networks and batch sizes with all candidates of their tiles. older_ptxas: compile
    everything with the older of Triton's two assemblers."""

    cases: tuple[Case, ...]
    families: tuple[Family, ...]
    tuned: tuple[tuple[str, int], ...] = ()
    wheels: bool = True
    older_ptxas: bool = False


def everything(networks: tuple[str, ...] = NETWORKS, batches: tuple[int, ...] = BATCHES, **options: bool) -> Contents:
    """What a whole run asks for, of some networks and batch sizes."""
    tuned = tuple(each for each in TUNED if each[0] in networks and each[1] in batches)
    return Contents(tuple(all_cases(networks, batches)), tuple(all_families()), tuned, **options)


def make_pack(folder: Path, contents: Contents) -> dict[str, object]:
    """Fills the folder anew and returns what its label says.

    Raises:
        SystemExit: the pack is larger than may travel.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        writer = _compiled(contents, Path(scratch, "kernels"))
        _archive(folder / ARCHIVE, writer.directory)
        with assembler(older=True) as source:
            other = PackWriter(Path(scratch, "older"), source, ptxas="older")
            compile_kernels([Job(probe.request, probe.name) for probe in PROBES.values()], other)
        _archive(folder / OLDER, other.directory)
    if contents.wheels:
        download_wheels(folder / WHEELS)
    label = {
        "commit": _commit(),
        "triton": writer.triton,
        "older_ptxas": contents.older_ptxas,
        "kernels": len(writer.keys),
        "cases": [case.name for case in contents.cases],
        "families": [family.name for family in contents.families],
        "tuned": [f"{network}-b{batch}" for network, batch in contents.tuned],
        "seconds": round(time.monotonic() - started),
        "bytes": {str(path.relative_to(folder)): path.stat().st_size for path in _files(folder)},
    }
    (folder / LABEL).write_text(json.dumps(label, indent=1) + "\n", encoding="utf-8")
    total = sum(path.stat().st_size for path in _files(folder))
    print(f"{folder}: {len(writer.keys)} kernels, {total / 2**20:.1f} MiB, {label['seconds']} s")
    if total > LIMIT_BYTES:
        raise SystemExit(
            f"the pack has {total / 2**20:.1f} MiB, more than {LIMIT_BYTES >> 20} may travel: name fewer networks"
        )
    return label


def _compiled(contents: Contents, directory: Path) -> PackWriter:
    """Everything compiled into a new pack. It is what plans are made for: nobody's measured tiles decide."""
    with assembler(contents.older_ptxas) as source:
        writer = PackWriter(directory, source, ptxas="older" if contents.older_ptxas else "")
        with variable("CONVC_CACHE_DIR", str(directory)):
            for number, (name, plan) in enumerate(_plans(contents), 1):
                compile_programs(plan, writer)
                print(f"{number:5} {len(writer.keys):6} kernels  {name}", flush=True)
            for network, batch in contents.tuned:
                compile_candidates(*candidates(network, batch), writer)
                print(f"      {len(writer.keys):6} kernels  tiles of {network}-b{batch}", flush=True)
            compile_kernels([Job(probe.request, probe.name) for probe in PROBES.values()], writer)
    return writer


def _plans(contents: Contents) -> Iterator[tuple[str, Plan]]:
    for case in contents.cases:
        yield case.name, case.plan("none")
    for family in contents.families:
        yield family.name, family.plan()


@contextmanager
def assembler(older: bool) -> Iterator[KernelCache]:
    """A cache of kernels of one of Triton's assemblers: its own choice, or the older one for all targets."""
    usual = default_directory()
    if not older:
        yield KernelCache(usual)
        return
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with variable(ASSEMBLER, str(tool)):
        yield KernelCache(usual.with_name(f"{usual.name}-older-ptxas"))


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """An environment variable for a while, for this process and those that it starts."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _archive(file: Path, folder: Path) -> None:
    """The files of a folder, in order, without times and owners: equal kernels give equal archives."""
    with tarfile.open(file, "w:xz", preset=6) as archive:
        for path in _files(folder):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            entry.size = path.stat().st_size
            with path.open("rb") as stream:
                archive.addfile(entry, stream)


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _commit() -> str:
    """The commit that the sources are at, with a plus sign where they were changed; empty where git does not say."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "convc"], capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changed else "")
