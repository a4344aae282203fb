"""Opening the file of a network: a compiled one needs the runtime alone, one whose sizes are open the compiler."""

from __future__ import annotations

import os

from . import errors
from .runtime.artifact import read
from .runtime.network import CompiledNetwork


def load(
    path: str | os.PathLike[str], device: str = "auto", target: str | None = None, *, verify: bool = True
) -> CompiledNetwork:
    """A compiled network from a file.

    The file holds machine code: load only what you trust. device, target: where it runs; see `CompiledNetwork.engine`.
    verify: compare the hash of every section. A network whose sizes are open is an `OpenNetwork`.

    Raises:
        ArtifactError: a file that is damaged, of another version, or not one.
        CompileError: a network whose sizes are open, where convc's compiler is not installed.
    """
    artifact = read(path, verify)
    if artifact.manifest.open is None:
        return CompiledNetwork(artifact, device, target)
    try:
        from .specialise import OpenNetwork
    except ImportError as error:
        raise errors.no_compiler_for_sizes(os.fspath(path), error) from error
    return OpenNetwork(artifact, device, target)
