"""What the launches of a plan or of a compiled network ask of a machine, and the least time that it could take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.chained import ChainedContraction
from ..ir.expansion import ExpandedWindow
from ..ir.plan import Tile
from ..ir.problem import Axis, AxisReduction, Contraction, Problem, WindowReduction, steps_of
from ..ir.separable import SeparableContraction
from ..passes import chained_tiles
from ..passes.traffic import touched
from ..program import Plan, Scheduled, TargetPlan
from ..runtime.manifest import ProgramSpec
from ..targets import Target

RATES = {"fp16": 1.0, "bf16": 1.0, "tf32": 0.5}
"""Tensor-core rate by numeric mode, as a fraction of the fp16 rate; NVIDIA's data sheets give tf32 one half."""


@dataclass(frozen=True)
class Launch:
    """One launch: its kernel, the user's layers in it, multiply-adds, bytes of activations and weights (each distinct
    byte once), and the time that the cost model predicts, in microseconds."""

    kernel: str
    origins: tuple[str, ...]
    macs: int
    nbytes: int
    predicted_us: float
    regions: tuple[int, ...] = ()


def planned(plan: Plan, program: TargetPlan) -> list[Launch]:
    """The launches of a plan for one target, in order."""
    return [
        Launch(
            launch.kernel.name,
            plan.origins(launch),
            launch.macs,
            launch.traffic.activations + launch.traffic.weights,
            launch.predicted_us,
            tuple(region.id for region in launch.regions),
        )
        for launch in program.launches
    ]


def stored(program: ProgramSpec) -> list[Launch]:
    """The launches of a compiled program, in order."""
    return [
        Launch(
            program.kernels[launch.kernel].name,
            tuple(launch.origins),
            launch.macs,
            launch.activation_bytes + launch.weight_bytes,
            launch.predicted_us,
            launch.regions,
        )
        for launch in program.launches
    ]


def peak_flops(target: Target, dtype: str) -> float:
    """Most floating-point operations per second on a target in a numeric mode."""
    return target.tensor_flops * RATES[dtype] if dtype in RATES else target.fp32_flops


def roofline_us(launch: Launch, target: Target, dtype: str) -> float:
    """The least microseconds that a launch could take: its arithmetic at the peak rate, or its bytes from DRAM."""
    return 1e6 * max(2 * launch.macs / peak_flops(target, dtype), launch.nbytes / target.dram_bytes_per_s)


def roofline_fraction(launches: Sequence[Launch], target: Target, dtype: str, microseconds: float) -> float:
    """The sum of the launches' least times over the time that they took; 1 is the roofline itself."""
    return sum(roofline_us(launch, target, dtype) for launch in launches) / microseconds


def operations(problem: Problem) -> int:
    """Arithmetic operations of a kernel: two a multiply-add, one for each element that a window or a reduction takes
    in, one for each elementwise operator and element, and one where it is pooled."""
    outputs = math.prod(dim.extent for dim in problem.dims)
    taken = problem.window_elements if isinstance(problem, SeparableContraction) and not problem.window_macs else 0
    if isinstance(problem, (WindowReduction, AxisReduction)) and not problem.macs:
        sizes = [tap.size for tap in getattr(problem, "taps", ())]
        taken = outputs * math.prod([*sizes, *(extent for extent, _ in getattr(problem, "reduced", ()))])
    if isinstance(problem, ChainedContraction):
        taken = problem.extent(Axis.ROW) * problem.middle * len(problem.first.statements)
    return 2 * problem.macs + taken + outputs * (len(problem.statements) + (problem.pool is not None))


def asked_bytes(launch: Scheduled) -> int:
    """Bytes that the loads of a kernel's loops ask for, as often as they ask: every tile its operands, every window
    position its input. Caches serve what is asked for again; `Traffic` counts each distinct byte once."""
    return sum(_asked(step.work.problem, step.tile) for step in launch.steps)


def _asked(problem: Problem, tile: Tile) -> int:
    if isinstance(problem, ChainedContraction):
        return chained_tiles.asked_elements(problem, tile) * problem.first.compute.itemsize
    if isinstance(problem, Contraction):
        separable = isinstance(problem, SeparableContraction)  # its steps cover the channels, each with all taps
        total = math.ceil(problem.depth / tile.depth) if separable else steps_of(problem).total(tile.depth)
        steps = math.ceil(total / tile.split_k)
        x_elements = tile.rows * tile.depth * (problem.tap_count if separable else 1)
        if isinstance(problem, SeparableContraction) and problem.expansion:
            x_elements = problem.expansion.inputs * (tile.rows * problem.tap_count + tile.depth)
        return problem.programs(tile) * steps * (x_elements + tile.depth * tile.cols) * problem.compute.itemsize
    x = getattr(problem, "x", None)
    if x is None:
        return 0
    if isinstance(problem, ExpandedWindow):
        columns = math.ceil(problem.extent(Axis.COL) / tile.cols)
        places = problem.extent(Axis.GROUP) * problem.extent(Axis.ROW)
        return columns * places * problem.tap_count * problem.expansion.inputs * x.dtype.itemsize
    outputs = math.prod(dim.extent for dim in problem.dims)
    sizes = [tap.size for tap in getattr(problem, "taps", ())]
    return outputs * math.prod([*sizes, *(extent for extent, _ in getattr(problem, "reduced", ()))]) * x.dtype.itemsize


def loop_bytes(problem: Problem) -> int:
    """Distinct bytes of the operands that `asked_bytes` counts: what the loop reads, each byte once."""
    if isinstance(problem, ChainedContraction):
        return loop_bytes(problem.first) + touched(problem, problem.w) * problem.w.dtype.itemsize
    named = [getattr(problem, name, None) for name in (("x", "w") if isinstance(problem, Contraction) else ("x",))]
    return sum(touched(problem, operand) * operand.dtype.itemsize for operand in named if operand is not None)
