"""What the engine asks of an executor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .artifact import Artifact
from .manifest import ProgramSpec


class Executor(Protocol):
    """Runs one program of one artifact. The engine calls it from one thread at a time.

    An executor may also have:

    - ``choose(artifact, target) -> ProgramSpec | None``: which program it runs, where it is not the engine's choice.
      ``target`` is the user's wish or None. Raises `DeviceError` where no program fits.
    - ``name``: what its engine says of where it runs, by default its class.
    - ``gpu``: the ordinal of its GPU. ``run`` then also takes `DeviceView` objects, and answers with device arrays.
    - ``pipeline()``: batches whose copies overlap; see `convc.runtime.pipeline.Pipeline`.
    - ``profile(inputs)`` and ``measure(inputs, repeats)``: see `Engine`.
    """

    def prepare(self, artifact: Artifact, program: ProgramSpec | None) -> None:
        """Get ready to run ``program`` (None: the artifact holds none). Called once. Raises `DeviceError`."""

    def run(self, inputs: list[Any]) -> Sequence[Any]:
        """The outputs, in the manifest's order, for C-contiguous arrays of the manifest's shapes and dtypes."""

    def close(self) -> None:
        """Give everything back. May be called twice, and before ``prepare``."""
