"""A network with tiles to choose from, its plans, and tables that were never measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from compiled import Builder, conv, integers

from convc.codegen.fingerprint import fingerprint
from convc.codegen.packed import open_cache
from convc.ir.digest import problem_digest
from convc.passes import Switches
from convc.passes.slices import GROUPING
from convc.passes.tiling import ranked
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.targets import target
from convc.targets.tuned import Entry, Table, schedule_of

APART = Switches(disable=(*GROUPING, "conv-pool", "pool-conv", "zero-borders"))
POOL = {"kernel_shape": (2, 2), "strides": (1, 1), "pads": (0, 0, 1, 1), "dilations": (1, 1), "ceil_mode": False}


def network(seed: int = 0, filters: int = 32, extra: bool = False, op: str = "Relu") -> Builder:
    """Two equal convolutions between poolings, and in front of them what may change the nodes' numbers."""
    random = np.random.default_rng(seed)
    b = Builder(f"network{seed}")
    x = b.input(integers(random, (1, 32, 8, 8), 1), "image")
    if extra:
        x = b.add("MaxPool", x, **POOL)
    x = b.add("MaxPool", x, **POOL)
    for _ in range(2):
        channels = x_channels(b, x)
        x = conv(b, x, integers(random, (filters, channels, 3, 3), 1), integers(random, (filters,)), pads=(1,) * 4)
        x = b.add(op, x)
    b.output(b.add("MaxPool", x, **POOL))
    return b


def x_channels(b: Builder, x: Any) -> int:
    return int(b.graph.type(x).shape[1])


def planned(b: Builder, machine: str = "sm_90", **options: Any) -> Plan:
    return make_plan(b.graph, Options((machine,), "fp16", switches=APART, **{"tuned": False, **options}))


def convolutions(plan: Plan) -> list[Any]:
    return [problem for problem in plan.programs[0].problems if problem.family == "contraction"]


def table_for(problem: Any, number: int = 1, machine: str = "sm_90", **changes: Any) -> Table:
    """A table in which candidate ``number`` of a problem is the fastest."""
    tile = ranked(problem, target(machine))[number]
    values = {"target": machine, "gpu": "NVIDIA H200", "triton": open_cache().triton, "templates": fingerprint()}
    return Table(**values | changes, entries={problem_digest(problem): Entry(schedule_of(tile), 2.5, 5.0, 8)})


def write(folder: Path, table: Table) -> Path:
    import msgspec

    path = folder / table.file_name
    path.write_bytes(msgspec.json.encode(table))
    return path
