"""Running compiled networks: the artifact, the engine, and its executors.

Nothing here needs the compiler; an executor's own needs (the CUDA bindings, Triton) are imported when it is made.
"""

from __future__ import annotations

from .artifact import Artifact, build, pack_weights, read, write
from .engine import Engine
from .executor import Executor
from .network import CompiledNetwork, Kernel

__all__ = [
    "Artifact",
    "CompiledNetwork",
    "Engine",
    "Executor",
    "Kernel",
    "build",
    "pack_weights",
    "read",
    "write",
]
