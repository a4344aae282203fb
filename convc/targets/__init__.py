"""What convc knows about the machines that it compiles for."""

from .device import TARGETS, Target, of_capability, target

__all__ = ["TARGETS", "Target", "of_capability", "target"]
