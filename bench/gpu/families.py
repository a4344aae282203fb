"""Small networks and one graph for each kind of kernel: those of the tests (`tests/small_networks.py`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convc.codegen.cache import KernelCache
from convc.ir import Graph
from convc.passes import Switches
from convc.planner import make_plan
from convc.program import Options, Plan

from .cases import TARGET, VARIANTS

TESTS = Path(__file__).resolve().parents[2] / "tests"
VARIED = ("unfused", "pointers", "masked", "im2col", "early-launch")
MODES = ("fp16", "bf16", "tf32", "fp32")


@dataclass(frozen=True)
class Family:
    """A small graph under a numeric mode and a variant."""

    graph: str
    dtype: str
    variant: str

    @property
    def name(self) -> str:
        return f"{self.graph}-{self.dtype}-{self.variant}"

    def plan(self, cache: KernelCache | None = None) -> Plan:
        """Its plan for the kernels of a cache, by default the user's; nothing is cut into parts of the batch, so that
        every tensor is in memory as a whole."""
        variant = VARIANTS[self.variant]
        switches = Switches.parse(variant.opt, (*variant.disable, "l2-slices"), None, variant.enable)
        return make_plan(build(self.graph), Options((TARGET,), self.dtype, 1, switches), cache)


def graphs() -> list[str]:
    """Names of the graphs."""
    tests = _tests()
    return [*tests.NETWORKS, *tests.KERNELS]


def build(name: str) -> Graph:
    """The graph of a name."""
    tests = _tests()
    return tests.NETWORKS[name]() if name in tests.NETWORKS else tests.kernel_case(name).graph


def all_families() -> Iterator[Family]:
    """Every graph in every numeric mode as users get it, and in fp16 in every other variant."""
    for graph in graphs():
        for dtype in MODES:
            yield Family(graph, dtype, "fused")
        for variant in VARIED:
            yield Family(graph, "fp16", variant)


def _tests():  # type: ignore[no-untyped-def]
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    import small_networks

    return small_networks
