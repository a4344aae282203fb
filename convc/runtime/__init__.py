"""Running compiled networks: the artifact, the engine, and its executors.

Nothing here needs the compiler; an executor's own needs (the CUDA bindings, Triton) are imported when it is made.
"""

from __future__ import annotations

from .artifact import Artifact, build, pack_weights, read, write
from .engine import Engine, load
from .executor import Executor

__all__ = ["Artifact", "Engine", "Executor", "build", "load", "pack_weights", "read", "write"]
