"""What convc knows about the machines that it compiles for."""

from .device import GPUS, TARGETS, Target, of_capability, target

__all__ = ["GPUS", "TARGETS", "Target", "of_capability", "target"]
