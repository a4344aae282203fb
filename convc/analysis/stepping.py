"""Runs that stop between launches, where the tensors of a plan can be read as they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from .. import errors
from ..ir import DType, Graph, Node, Payload, Value
from ..ir.plan import PackedWeight
from ..program import Plan, Scheduled
from ..runtime.engine import Engine
from ..runtime.numpy_executor import GraphRunner
from .placements import slot, strided


class Stepper(Protocol):
    """A run that can be looked into between launches."""

    def step(self, launch: int) -> None:
        """Runs one launch."""

    def take_host(self, launches: int) -> None:
        """Runs the steps of the host behind so many launches."""

    def read(self, value: Value, concat: tuple[Node, int] | None = None) -> np.ndarray:
        """A copy of a tensor as it is stored now; ``concat``: of that operand's slice of a concatenation instead."""


@runtime_checkable
class Inspectable(Protocol):
    """An executor that runs launch by launch, and whose buffers can be read: Triton's interpreter, and CUDA."""

    def load(self, inputs: Sequence[np.ndarray]) -> None: ...

    def advance(self, first: int, last: int, host: bool) -> object: ...

    def take_host(self, launches: int) -> None: ...

    def buffer(self, name: str) -> np.ndarray: ...


class _InMemory:
    """The emitted kernels, one after the other; a buffer is fetched once between two launches."""

    def __init__(self, plan: Plan, executor: Inspectable, inputs: Sequence[np.ndarray]) -> None:
        self._plan, self._executor = plan, executor
        self._fetched: dict[str, np.ndarray] = {}
        executor.load(inputs)

    def step(self, launch: int) -> None:
        self._executor.advance(launch, launch + 1, host=False)
        self._fetched.clear()

    def take_host(self, launches: int) -> None:
        self._executor.take_host(launches)
        self._fetched.clear()

    def read(self, value: Value, concat: tuple[Node, int] | None = None) -> np.ndarray:
        layouts = self._plan.layouts
        placed = slot(self._plan.graph, layouts, *concat) if concat else layouts.placements[value]
        block = layouts.blocks[placed.block]
        base = self._plan.programs[0].arena.offsets.get(block.id, 0) if block.buffer == "arena" else 0
        if block.buffer not in self._fetched:
            self._fetched[block.buffer] = self._executor.buffer(block.buffer)
        return strided(self._fetched[block.buffer], placed, base).copy()


class _ByDefinition:
    """NumPy: every operator by its definition, rounded where a kernel stores; everything is computed at once."""

    def __init__(self, plan: Plan, inputs: Mapping[str, np.ndarray]) -> None:
        self._graph = _with_stored_constants(plan)
        self._found = {Value(node.id): inputs[node.attributes["name"]] for node in self._graph.graph_inputs}
        self._placements = plan.layouts.placements
        GraphRunner(self._graph, None, self._stored).run(dict(inputs))

    def _stored(self, node: Node, array: np.ndarray) -> np.ndarray:
        """A kernel's result as the plan stores it, which may be as a slice of an output: in full precision."""
        value = Value(node.id)
        if value in self._placements and array.dtype.kind == "f":
            with np.errstate(all="ignore"):
                array = array.astype(self._placements[value].dtype.numpy).astype(array.dtype)
        self._found[value] = array
        return array

    def step(self, launch: int) -> None:
        """Nothing is left to do."""

    def take_host(self, launches: int) -> None:
        """Nothing is left to do."""

    def read(self, value: Value, concat: tuple[Node, int] | None = None) -> np.ndarray:
        graph = self._graph
        if concat:
            return self.read(graph.inputs(concat[0])[concat[1]])
        if (constant := graph.constant(value)) is not None:
            return constant
        if value not in self._found:  # a view: the runner tells of what kernels store
            node = graph.producer(value)
            results = node.operator.evaluate(node.attributes, [self.read(operand) for operand in graph.inputs(node)])
            self._found |= dict(zip(graph.values(node), results, strict=True))
        return self._found[value]


def _with_stored_constants(plan: Plan) -> Graph:
    graph = plan.graph.copy()
    for source, dtype in packed_types(plan.programs[0].launches).items():
        node = graph.node(source)
        array = node.array.astype(dtype.numpy).astype(node.array.dtype)
        graph.update(node, payload=Payload(array))
    return graph


def packed_types(launches: Sequence[Scheduled]) -> dict[int, DType]:
    """Constant → the type that these launches read it in."""
    reads = (operand.source for launch in launches for problem in launch.problems for operand in problem.reads)
    return {source.source: source.dtype for source in reads if isinstance(source, PackedWeight)}


def stepper(plan: Plan, engine: Engine, inputs: Mapping[str, np.ndarray]) -> Stepper:
    """The run of an engine. Raises `DeviceError` for a device that cannot be looked into between launches."""
    if engine.device == "numpy":
        return _ByDefinition(plan, inputs)
    if isinstance(engine.executor, Inspectable):
        return _InMemory(plan, engine.executor, [inputs[spec.name] for spec in engine.inputs])
    raise errors.no_stepping(engine.device)
