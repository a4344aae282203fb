"""What this machine can do: versions, GPUs, the kernel cache, and what follows from them. Looking never fails."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import errors
from ..version import __version__

PACKAGES = ("triton", "cuda-bindings", "onnx", "onnxruntime", "numpy", "networkx", "msgspec", "safetensors")
BLACKWELL = 100
"""Compute capability × 10 from which Triton calls its second assembler."""


def examine() -> dict[str, Any]:
    """The findings as JSON: ``python``, ``packages``, ``ptxas``, ``driver``, ``gpus``, ``cache``, ``tuned`` and
    ``works``."""
    packages = {name: version(name) for name in PACKAGES}
    driver, gpus, problem = look_for_gpus()
    assemblers = find_assemblers()
    return {
        "convc": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": packages,
        "ptxas": assemblers,
        "driver": driver,
        "gpus": gpus,
        "gpu_problem": problem,
        "cache": look_at_cache(),
        "tuned": look_at_tables(),
        "works": conclusions(packages, assemblers, gpus, problem),
    }


def version(package: str) -> str | None:
    """The version of an installed package, None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def look_for_gpus() -> tuple[str | None, list[dict[str, Any]], str | None]:
    """The CUDA version of the driver, the GPUs, and why there are none."""
    from ..runtime.driver import Driver

    try:
        driver = Driver()
        gpus = [describe_gpu(driver, ordinal) for ordinal in range(driver.device_count())]
    except errors.ConvcError as error:
        return None, [], str(error)
    return f"{driver.version // 1000}.{driver.version % 1000 // 10}", gpus, None if gpus else "the driver sees no GPU"


def describe_gpu(driver: Any, ordinal: int) -> dict[str, Any]:
    """Name, architecture and multiprocessors of a GPU, and whether convc compiles for it. Makes no context."""
    from ..targets import TARGETS

    device = driver.device(ordinal)
    major, minor = (driver.attribute(f"COMPUTE_CAPABILITY_{part}", device) for part in ("MAJOR", "MINOR"))
    architecture = f"sm_{major}{minor}"
    return {
        "ordinal": ordinal,
        "name": driver.device_name(device),
        "architecture": architecture,
        "multiprocessors": driver.attribute("MULTIPROCESSOR_COUNT", device),
        "target": architecture if architecture in TARGETS else None,
    }


def find_assemblers() -> dict[str, str]:
    """Version of each assembler that Triton brings, by file name; those that run."""
    spec = find_spec("triton")
    if spec is None or not spec.origin:
        return {}
    folder = Path(spec.origin).parent / "backends" / "nvidia" / "bin"
    found = {path.name: _assembler_version(path) for path in sorted(folder.glob("ptxas*"))}
    return {name: text for name, text in found.items() if text}


def _assembler_version(path: Path) -> str | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"\bV(\d+[\d.]*)", said)
    return match[1] if match else None


def look_at_cache() -> dict[str, Any]:
    """Path, entries, bytes and writability of the kernel cache."""
    from ..codegen.cache import default_directory

    directory = default_directory()
    sizes = []
    with suppress(OSError):  # it may not be entered
        for path in directory.glob("??/*"):
            with suppress(OSError):  # another process may have dropped it
                sizes.append(path.stat().st_size)
    return {"path": str(directory), "entries": len(sizes), "bytes": sum(sizes), "writable": _is_writable(directory)}


def look_at_tables() -> list[dict[str, Any]]:
    """The tables of measured tiles, and whether they are of the versions of now."""
    from ..codegen.fingerprint import fingerprint
    from ..targets import TARGETS
    from ..targets.tuned import tables_of

    now = version("triton"), fingerprint()
    return [
        {
            "target": table.target,
            "gpu": table.gpu,
            "problems": len(table.entries),
            "used": table.is_of(*now),
        }
        for target in TARGETS.values()
        for table in tables_of(target)
    ]


def _is_writable(directory: Path) -> bool:
    """Whether files can be made there, or in the nearest folder above that exists."""
    try:
        existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            return True
    except (OSError, StopIteration):
        return False


def conclusions(
    packages: dict[str, str | None], assemblers: dict[str, str], gpus: list[dict[str, Any]], problem: str | None
) -> dict[str, Any]:
    """What works here: targets to compile for, devices to run on, verification; and why not, where not."""
    targets = compilable(packages, assemblers)
    runnable = [f"cuda:{gpu['ordinal']}" for gpu in gpus]
    missing = []
    if packages["triton"] is None:
        missing.append("compiling needs Triton: pip install triton")
    if not gpus:
        missing.append(f"running on a GPU: {problem}")
    if packages["onnxruntime"] is None:
        missing.append("verification needs ONNX Runtime: pip install 'convc[verify]'")
    return {
        "compile": targets,
        "run": [*runnable, *(["interpreter"] if packages["triton"] else []), "numpy"],
        "verify": packages["onnxruntime"] is not None and packages["onnx"] is not None,
        "missing": missing,
    }


def compilable(packages: dict[str, str | None], assemblers: dict[str, str]) -> list[str]:
    """Targets whose assembler is there; kernels for the interpreter need none."""
    from ..targets import TARGETS

    def fits(capability: int) -> bool:
        if capability == 0:
            return packages["triton"] is not None
        return ("ptxas-blackwell" if capability >= BLACKWELL else "ptxas") in assemblers and sys.platform == "linux"

    return [target.name for target in TARGETS.values() if fits(target.capability)]
