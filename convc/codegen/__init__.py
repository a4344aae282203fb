"""Code generation: problems and tiles to Triton source, and source to machine code ahead of time."""

from .emit import EmittedKernel, emit

__all__ = ["EmittedKernel", "emit"]
