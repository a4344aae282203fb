"""Passes: canonicalisation, fusion, layout, lowering, tiling and the memory plan."""

from .canonical import PASSES as CANONICAL_PASSES
from .fusion import fuse
from .layout import place
from .lowering import Work, lower
from .memory import Arena, plan_arena
from .pipeline import Context, Pass, run_passes
from .rules import RULES, Switches
from .tiling import choose
from .traffic import Traffic, traffic

__all__ = [
    "Arena",
    "CANONICAL_PASSES",
    "Context",
    "Pass",
    "RULES",
    "Switches",
    "Traffic",
    "Work",
    "choose",
    "fuse",
    "lower",
    "place",
    "plan_arena",
    "run_passes",
    "traffic",
]
