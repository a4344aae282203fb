"""Compiled networks of the suite's cases, made from a pack on the GPU machine by processes in the background.

They lie in a folder that is named after the sources and the pack: a later call finds those of an earlier one, and never
those of other sources.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec

import convc
from convc import errors
from convc.codegen.cache import KernelCache
from convc.codegen.packed import LABEL, PackedKernels, open_cache
from convc.compiler import compile_plan
from convc.runtime.artifact import Artifact, read

from .cases import Case

ARCHIVE, OLDER = "kernels.tar.xz", "kernels-ptxas.tar.xz"
POLL_S = 0.05
MAKING = "making"
"""File with the number of the process that makes artifacts in the background."""


def workshop(scratch: Path, pack: Path | None) -> Path:
    """The folder for what is made of these sources and this pack (None: kernels are compiled here)."""
    digest = hashlib.sha256()
    for path in sorted(Path(convc.__file__).parent.rglob("*")):
        if path.suffix in (".py", ".j2"):
            digest.update(path.read_bytes())
    for name in (ARCHIVE, OLDER):
        if pack is not None and (pack / name).exists():
            digest.update((pack / name).read_bytes())
    folder = scratch / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unpacked(pack: Path, folder: Path, archive: str = ARCHIVE) -> Path:
    """The directory of a pack's kernels, unpacked once, whoever comes first."""
    kernels = folder / archive.split(".")[0]
    if not (kernels / LABEL).exists():
        beside = kernels.with_name(f"{kernels.name}.{os.getpid()}")
        with tarfile.open(pack / archive) as files:
            files.extractall(beside, filter="data")
        try:
            beside.rename(kernels)
        except OSError:  # another process was faster
            shutil.rmtree(beside)
    return kernels


def use_pack(pack: Path | None, folder: Path) -> None:
    """Makes a pack the kernel cache of this process and of those that it starts: plans are made for the version of
    Triton that made its kernels, without what somebody has measured on this machine."""
    if pack is not None:
        os.environ["CONVC_CACHE_DIR"] = str(unpacked(pack, folder))


def kernels_of(pack: Path | None, folder: Path) -> KernelCache:
    """The pack's kernels; without a pack the cache of this machine, where Triton compiles."""
    use_pack(pack, folder)
    return open_cache() if pack is None else PackedKernels(unpacked(pack, folder))


def make(case: Case, kernels: KernelCache, folder: Path) -> Path:
    """Compiles a case into the folder. What cannot be compiled leaves a file that says why."""
    file = file_of(case, folder)
    if not file.exists() and not failure_of(case, folder).exists():
        try:
            compile_plan(case.plan(cache=kernels), kernels).save(file)
        except errors.ConvcError as error:
            failure_of(case, folder).write_text(str(error), encoding="utf-8")
    return file


def file_of(case: Case, folder: Path) -> Path:
    return folder / f"{case.name}.convc"


def failure_of(case: Case, folder: Path) -> Path:
    return folder / f"{case.name}.failed"


def make_all(cases: Sequence[Case], pack: Path | None, folder: Path, processes: int) -> None:
    """Compiles many cases, the first ones first."""
    use_pack(pack, folder)
    mark = folder / MAKING
    mark.write_text(str(os.getpid()), encoding="utf-8")
    try:
        with ProcessPoolExecutor(processes) as pool:
            list(pool.map(_make_one, cases, [pack] * len(cases), [folder] * len(cases)))
    finally:
        mark.unlink()


def _are_being_made(folder: Path) -> bool:
    """Whether a process is at work in the background that has said so."""
    try:
        os.kill(int((folder / MAKING).read_text(encoding="utf-8")), 0)
    except (OSError, ValueError):
        return False
    return True


def _make_one(case: Case, pack: Path | None, folder: Path) -> None:
    make(case, kernels_of(pack, folder), folder)


def opened(case: Case, pack: Path | None, folder: Path, wait_s: float) -> Artifact:
    """The artifact of a case: one that is being made in the background is waited for, then it is made here.

    Raises:
        CompileError: what compiling it said.
    """
    end = time.monotonic() + wait_s
    file, failure = file_of(case, folder), failure_of(case, folder)
    while not file.exists() and not failure.exists() and time.monotonic() < end and _are_being_made(folder):
        time.sleep(POLL_S)
    if not file.exists() and not failure.exists():
        make(case, kernels_of(pack, folder), folder)
    if failure.exists():
        raise errors.CompileError(failure.read_text(encoding="utf-8"))
    return read(file, verify=False)


def fingerprint(artifact: Artifact) -> str:
    """Equal for artifacts that launch equal kernels in the same way: variants that change nothing for a network."""
    (program,) = artifact.manifest.programs
    launches = [(program.kernels[launch.kernel].name, launch.grid, launch.arguments) for launch in program.launches]
    return hashlib.sha256(msgspec.json.encode(launches)).hexdigest()


def schedule(artifact: Artifact) -> list[tuple[object, ...]]:
    """Grids and tiles of the launches: what decides in which order an artifact adds."""
    (program,) = artifact.manifest.programs
    return [(launch.grid, launch.tile) for launch in program.launches]


def distinct(artifacts: Iterable[tuple[str, Artifact]]) -> tuple[dict[str, Artifact], dict[str, str]]:
    """Artifacts by name without those that equal an earlier one, and the names of these with what they equal."""
    kept: dict[str, Artifact] = {}
    first: dict[str, str] = {}
    equal: dict[str, str] = {}
    for name, artifact in artifacts:
        known = first.setdefault(fingerprint(artifact), name)
        if known == name:
            kept[name] = artifact
        else:
            equal[name] = known
    return kept, equal
