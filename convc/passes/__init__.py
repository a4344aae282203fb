"""Passes: canonicalisation, fusion, layout, lowering, tiling and the memory plan."""

from .canonical import passes as canonical_passes
from .fusion import fuse
from .launches import Launch, Step, arrange
from .layout import place
from .lowering import Work, has_kernel, lower
from .memory import Arena, plan_arena
from .pipeline import Context, Pass, run_passes
from .rules import RULES
from .switches import Switches
from .traffic import Traffic, traffic

__all__ = [
    "Arena",
    "Context",
    "Launch",
    "Pass",
    "RULES",
    "Step",
    "Switches",
    "Traffic",
    "Work",
    "arrange",
    "canonical_passes",
    "fuse",
    "has_kernel",
    "lower",
    "place",
    "plan_arena",
    "run_passes",
    "traffic",
]
