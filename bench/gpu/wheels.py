"""Python packages that the suite needs on the GPU machine beside NumPy, torch and cuda-bindings, as wheels for it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

WHEELS = "wheels"
"""The folder of a pack."""
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
PACKAGES = ("jinja2", "markupsafe", "ml_dtypes", "msgspec", "networkx", "platformdirs", "safetensors")
"""What planning and running import. convc itself is run from the sources; onnx, rich and click are not imported."""


def download_wheels(folder: Path) -> list[Path]:
    """Wheels for the GPU machine's Python, of the versions that are installed here."""
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]
    platforms = [option for name in PLATFORMS for option in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms, "-d", str(folder), *wanted]
    subprocess.run(command, check=True)
    return sorted(folder.glob("*.whl"))


def installed_wheels(folder: Path, scratch: Path) -> Path:
    """A folder for `sys.path` with the wheels unpacked, once. A wheel is an archive of what belongs there; nothing is
    run."""
    wheels = sorted(folder.glob("*.whl"))
    digest = hashlib.sha256(" ".join(wheel.name for wheel in wheels).encode()).hexdigest()
    site = scratch / f"site-{digest[:12]}"
    if not site.exists():
        beside = site.with_name(f"{site.name}.{os.getpid()}")
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(beside)
        beside.rename(site)
    return site
