"""Passes: canonicalisation, fusion, layout, lowering, tiling and the memory plan."""

from .canonical import PASSES as CANONICAL_PASSES
from .fusion import fuse
from .launches import Launch, Step, arrange
from .layout import place
from .lowering import Work, lower
from .memory import Arena, plan_arena
from .pipeline import Context, Pass, run_passes
from .rules import RULES, Switches
from .traffic import Traffic, traffic

__all__ = [
    "Arena",
    "CANONICAL_PASSES",
    "Context",
    "Launch",
    "Pass",
    "RULES",
    "Step",
    "Switches",
    "Traffic",
    "Work",
    "arrange",
    "fuse",
    "lower",
    "place",
    "plan_arena",
    "run_passes",
    "traffic",
]
