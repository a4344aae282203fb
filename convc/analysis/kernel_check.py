"""A network kernel by kernel: what each launch leaves in memory against float64, with the fusion as it is.

Before a launch, what its region reads is taken from memory as it is stored; behind it, the region's result is. Three
things are compared:

- **local**: the result with the region's operators in float64 on what was read, within the kernel's own rounding
  (`convc.analysis.rounding`). Only this kernel can be at fault.
- **overwritten**: every tensor that a later launch still reads must be as its own launch left it. A memory plan that
  lets two of them overlap shows at the launch that destroys the other.
- **accumulated**: the result with the float64 evaluation of the whole network up to there; it is told, not judged.
  Behind a step of the host it counts from what the host left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..ir import DType, Kind, Node, Value
from ..ir.plan import Region
from ..program import Plan, Scheduled
from ..runtime.executor import Executor
from ..runtime.network import CompiledNetwork
from .bounds import UNITS
from .comparison import compare
from .placements import in_place, slot
from .rounding import Known, carried, evaluate, stored_bound, widened
from .stepping import Stepper, packed_types, stepper


@dataclass(frozen=True)
class KernelCheck:
    """One launch. max_abs, rel_l2, bound: of the local comparison. overwrites: layers whose results it destroyed though
    they are still needed. accumulated_abs, accumulated_l2: against the whole network in float64."""

    launch: int
    kernel: str
    origins: tuple[str, ...]
    rules: tuple[str, ...]
    max_abs: float
    rel_l2: float
    bound: float
    ok: bool
    overwrites: tuple[str, ...]
    accumulated_abs: float
    accumulated_l2: float

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {name: list(getattr(self, name)) for name in ("origins", "rules", "overwrites")}


BY_HOST = 0.5
"""When the host has its step: so much behind a launch, and in front of the next."""


@dataclass(frozen=True)
class _Check:
    """A result of a region, to be compared after a launch. value: what is compared; concat: the copy into a
    concatenation that it is; last: whether the region is complete then; beside: results of the other regions of the
    launch."""

    region: Region
    value: Value
    concat: tuple[Node, int] | None
    last: bool
    beside: set[Value]

    @property
    def stored(self) -> Value:
        """The tensor that it is stored as."""
        return self.value if self.concat is None else self.region.output


class _Examiner:
    """Goes through the launches of a plan's first target. only: those to compare, without the whole network; None for
    all."""

    def __init__(
        self, plan: Plan, stepper: Stepper, inputs: Mapping[str, np.ndarray], only: Collection[int] | None = None
    ) -> None:
        self.plan, self.stepper, self.only = plan, stepper, only
        self.graph, self.mode = plan.graph, plan.options.dtype
        self.launches = plan.programs[0].launches
        self.exact = {
            Value(node.id): widened(inputs[node.attributes["name"]], node.outputs[0].dtype)
            for node in self.graph.graph_inputs
        }
        self.regions = plan.fused.region_of()
        self.written: dict[Value, np.ndarray] = {}
        self.kept: dict[tuple[int, Value], Known] = {}

    @cached_property
    def by_region(self) -> dict[int, list[int]]:
        """Region → its launches."""
        found: dict[int, list[int]] = {}
        for number, launch in enumerate(self.launches):
            for region in dict.fromkeys(launch.regions):
                found.setdefault(region.id, []).append(number)
        return found

    def run(self) -> Iterator[KernelCheck]:
        """One check for each result of a launch's regions; of a region of several launches that are no copies, one for
        them all."""
        self._take_host(0)
        for number, launch in enumerate(self.launches):
            if self.only is not None and number not in self.only:
                self.stepper.step(number)
                self._keep(number, launch)
                self.stepper.take_host(number + 1)
                continue
            regions = dict.fromkeys(launch.regions)
            checks = [check for region in regions for check in self._checks(number, launch, region)]
            operands = [self._operands(check, made_here=False) for check in checks]
            self.stepper.step(number)
            self._keep(number, launch)
            overwrites = [*self._overwritten(number, launch.regions)]
            results = [self._result(check, before) for check, before in zip(checks, operands, strict=True)]
            overwrites += self._take_host(number + 1)
            for check, (known, found) in zip(checks, results, strict=True):
                yield self._compared(number, launch, check, known, found, tuple(overwrites))

    def _keep(self, number: int, launch: Scheduled) -> None:
        """What regions have read that later launches complete: it may be gone by then."""
        for step in launch.steps:
            region = step.work.region
            if number != self.by_region[region.id][-1]:
                sources = (operand.source for operand in step.work.problem.reads)
                read = {value: self._read(value, {}) for value in sources if isinstance(value, Value)}
                self.kept |= {(region.id, value): known for value, known in read.items()}

    def _result(self, check: _Check, before: Mapping[Value, Known]) -> tuple[Known, np.ndarray]:
        """What a launch should have left, and what it has."""
        known = self._expected(check, {**before, **self._operands(check, made_here=True)})
        found = self.stepper.read(check.stored, check.concat)
        if check.last:
            self.written[check.stored] = self.stepper.read(check.stored)
        return known, found

    def _take_host(self, launches: int) -> list[str]:
        """The steps of the host behind so many launches; the layers whose results they destroyed."""
        steps = [step for before, step in self.plan.programs[0].host_steps if before == launches]
        self.stepper.take_host(launches)
        overwrites = [*self._overwritten(launches - BY_HOST, [step.region for step in steps])] if steps else []
        for value in (value for step in steps for value in step.stores):
            self.written[value] = self.stepper.read(value)
            self.exact[value] = widened(self.written[value], self.graph.type(value).dtype)
        return overwrites

    def _checks(self, number: int, launch: Scheduled, region: Region) -> list[_Check]:
        """What of a region can be compared after a launch: nothing before the last of its launches."""
        last = number == self.by_region[region.id][-1]
        beside = {output for other in launch.regions if other is not region for output in other.outputs}
        node = self.graph.node(region.output.node)
        if node.op == "Concat":
            copied = ((self.graph.inputs(node)[index], index) for index in self._copied(region, node, number))
            return [_Check(region, value, (node, index), last, beside) for value, index in copied]
        return [_Check(region, value, None, last, beside) for value in region.outputs] if last else []

    def _operands(self, check: _Check, made_here: bool) -> dict[Value, Known]:
        """What a region reads, as it is stored now: what its own launch computes, or what existed before."""
        constants = packed_types([self.launches[index] for index in self.by_region[check.region.id]])
        inside = set(check.region.nodes)
        outside = {value for id in inside for value in self.graph.inputs(id) if value.node not in inside}
        if check.concat is not None:
            constants, outside = {}, {check.value}
        chosen = (value for value in outside if self._is_one_of(value, check.beside) == made_here)
        return {value: self.kept.get((check.region.id, value)) or self._read(value, constants) for value in chosen}

    def _is_one_of(self, value: Value, results: set[Value]) -> bool:
        """Whether a value is one of these, or a view or a concatenation of one."""
        node = self.graph.producer(value)
        if value in results:
            return True
        shares = node.kind is Kind.VIEW or node.op == "Concat"
        return shares and any(self._is_one_of(operand, results) for operand in self.graph.inputs(node))

    def _copied(self, region: Region, concat: Node, number: int) -> list[int]:
        """The positions of the operands of a concatenation that a launch copies."""
        layouts = self.plan.layouts
        copied = [
            position
            for position, value in enumerate(self.graph.inputs(concat))
            if not in_place(self.graph, layouts, concat, position) and 0 not in self.graph.type(value).shape
        ]
        copied.sort(key=lambda position: slot(self.graph, layouts, concat, position).offset)
        stored = [
            (step.work.problem.output.offset, launch)
            for launch in self.by_region[region.id]
            for step in self.launches[launch].steps
            if step.work.region.id == region.id
        ]
        return [position for position, (_, launch) in zip(copied, sorted(stored), strict=True) if launch == number]

    def _expected(self, check: _Check, operands: Mapping[Value, Known]) -> Known:
        """The region in float64 on what its operands hold."""
        known = dict(operands)
        for id in check.region.nodes if check.concat is None else ():
            node = self.graph.node(id)
            results = carried(self.graph, node, [known[value] for value in self.graph.inputs(node)], self.mode)
            known |= {
                value: Known(result.value, result.error, UNITS[self.mode])
                for value, result in zip(self.graph.values(node), results, strict=True)
            }
        return known[check.value]

    def _read(self, value: Value, constants: Mapping[int, DType]) -> Known:
        """A value from outside, as it is stored: it has no error, but may be rounded on its way into a product."""
        logical = self.graph.type(value).dtype
        constant = self.graph.constant(value)
        if constant is not None:
            dtype = constants.get(value.node, DType.FP32 if logical.is_float else logical)
            array = constant.astype(dtype.numpy)
        else:
            dtype = self.plan.layouts.placements[value].dtype
            array = self.stepper.read(value)
        rounds = UNITS[self.mode] if dtype is DType.FP32 and self.mode != "fp32" else 0.0
        return Known(widened(array, logical), 0.0, rounds)

    def _overwritten(self, number: float, regions: Sequence[Region]) -> Iterator[str]:
        """Layers whose results were changed by this launch though a later one reads them."""
        for value in list(self.written):
            if self._needed_until(value) <= number:
                del self.written[value]
            elif (
                value not in [output for region in regions for output in region.outputs]
                and self.stepper.read(value).tobytes() != self.written[value].tobytes()
            ):
                del self.written[value]
                yield self.graph.producer(value).label

    def _needed_until(self, value: Value) -> float:
        """The last launch, or step of the host, that reads a tensor, through views and concatenations that share its
        memory too."""
        steps = self.plan.programs[0].host_steps
        last: float = max((before - BY_HOST for before, step in steps if value in step.reads), default=-1)
        for use in self.graph.users(value):
            node = self.graph.node(use.node)
            if node.op == "Output":
                return len(self.launches)
            region = self.plan.graph.node(use.node).region
            launches = [] if region is None else self._readers(region, value)
            shared = node.id in self.plan.layouts.views
            if node.op == "Concat" and Value(node.id) in self.plan.layouts.placements:
                shared = in_place(self.graph, self.plan.layouts, node, use.position)
            last = max(last, self._needed_until(Value(node.id)) if shared else max(launches, default=-1))
        return last

    def _readers(self, region: int, value: Value) -> list[int]:
        """The launches of a region that read a tensor."""
        found = self.by_region.get(region, [])
        return [number for number in found if len(found) == 1 or self._reads(number, region, value)]

    def _reads(self, number: int, region: int, value: Value) -> bool:
        steps = (step for step in self.launches[number].steps if step.work.region.id == region)
        return any(operand.source == value for step in steps for operand in step.work.problem.reads)

    def _compared(
        self,
        number: int,
        launch: Scheduled,
        check: _Check,
        known: Known,
        found: np.ndarray,
        overwrites: tuple[str, ...],
    ) -> KernelCheck:
        region, dtype = check.region, self.plan.layouts.placements[check.stored].dtype
        wide = widened(found, dtype)
        allowed = stored_bound(known, dtype)
        bounded, special = np.isfinite(allowed), ~np.isfinite(known.value)
        bound = float(np.max(allowed[bounded], initial=0.0))
        expected = _saturated(known.value, dtype)
        local = compare(launch.kernel.name, np.where(bounded | special, wide, expected), expected, bound)
        accumulated = np.nan, np.nan
        if self.only is None:
            whole = compare(launch.kernel.name, wide, _saturated(self._wide(check.value), dtype), np.inf)
            accumulated = whole.max_abs, whole.rel_l2
        return KernelCheck(
            launch=number,
            kernel=launch.kernel.name,
            origins=self.plan.origins_of(region),
            rules=region.rules,
            max_abs=local.max_abs,
            rel_l2=local.rel_l2,
            bound=bound,
            ok=local.ok and not overwrites,
            overwrites=overwrites,
            accumulated_abs=accumulated[0],
            accumulated_l2=accumulated[1],
        )

    def _exact(self, value: Value) -> np.ndarray:
        """A value of the whole network in float64; regions are evaluated as they are needed."""
        if value not in self.exact:
            for id in self.regions[value.node].nodes:
                node = self.graph.node(id)
                operands = [self._wide(operand) for operand in self.graph.inputs(node)]
                self.exact |= dict(zip(self.graph.values(node), evaluate(self.graph, node, operands), strict=True))
        return self.exact[value]

    def _wide(self, value: Value) -> np.ndarray:
        constant = self.graph.constant(value)
        return self._exact(value) if constant is None else widened(constant, self.graph.type(value).dtype)


def _saturated(exact: np.ndarray, dtype: DType) -> np.ndarray:
    """Values beyond what a type holds become infinite, as they do where they are stored; others are not rounded."""
    if not dtype.is_float or dtype is DType.FP64:
        return exact
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype.numpy).astype(np.float64)
    return np.where(np.isinf(rounded), rounded, exact)


def check_kernels(
    plan: Plan,
    network: CompiledNetwork,
    device: str | Executor,
    inputs: Mapping[str, np.ndarray],
    only: Collection[int] | None = None,
) -> Iterator[KernelCheck]:
    """The launches of one run, in order, each against float64. Stop iterating to run no further.

    plan: what ``network`` was compiled from, without `l2-slices`: of what a stage keeps, only one part of the batch
    is ever in memory. device: its name, or an executor. inputs: arrays by name. only: launches
    to compare, which is then all that is done: the accumulated figures are NaN. None compares all.

    Raises:
        DeviceError: a device that cannot be looked into between launches, or a kernel that fails.
    """
    with network.engine(device) as engine:
        yield from _Examiner(plan, stepper(plan, engine, inputs), inputs, only).run()
