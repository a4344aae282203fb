"""Steps of the host, evaluated: the operators' own definitions in NumPy, on values as a graph's text types them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .. import errors
from ..ir import DType, Graph, Node, TensorType, Value
from .artifact import Artifact
from .dtypes import numpy_dtype
from .host_steps import HostSteps, Memory, strided
from .manifest import HostStepSpec, HostTensor, ProgramSpec, is_found
from .numpy_executor import STORED, Sizes, rounded, stored_graph


@dataclass
class Kept:
    """What the steps of one run share: values that are in no buffer, and the sizes that symbols turned out to have."""

    values: dict[Value, np.ndarray] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)


class HostProgram(HostSteps):
    """The steps of a program. Raises `ArtifactError` where they do not fit the graph.

    Attributes:
        steps: all, in order.
        found: position of every output of the network whose size a run finds out → its value.
    """

    def __init__(self, artifact: Artifact, program: ProgramSpec) -> None:
        super().__init__(program.host_steps)
        self.steps: list[HostStep] = []
        self.found: dict[int, Value] = {}
        self._kept = Kept()
        try:
            self._prepare(artifact, program)
        except (IndexError, KeyError, ValueError) as error:
            what = f"the steps of the host do not fit it: {error}"
            raise errors.damaged(artifact.manifest.graph, what, artifact.file) from error

    def _prepare(self, artifact: Artifact, program: ProgramSpec) -> None:
        manifest, graph = artifact.manifest, stored_graph(artifact)
        known: set[Value] = set()
        for spec in program.host_steps:
            step = HostStep(graph, spec, known, STORED.get(manifest.dtype))
            self.steps.append(step)
            known |= step.kept
        for index, (output, node) in enumerate(zip(manifest.outputs, graph.graph_outputs, strict=True)):
            if is_found(output):
                self.found[index] = graph.inputs(node)[0]
                _require(self.found[index] in known, f"the host does not make the output {output.name!r}")
                type = graph.type(self.found[index])
                fits = (type.dtype.value, len(type.shape)) == (output.dtype, len(output.shape))
                _require(fits, f"the output {output.name!r} is {output.dtype}{list(output.shape)}, the host's {type}")

    def take(self, number: int, memory: Memory) -> None:
        self.steps[number].run(memory, self._kept)

    def begin(self) -> None:
        self._kept = Kept()

    def output(self, index: int) -> np.ndarray:
        return np.array(self._kept.values[self.found[index]], order="C")


@dataclass(frozen=True)
class _Evaluated:
    """A node with the values that it reads and makes, and the types of these."""

    node: Node
    operands: tuple[Value, ...]
    results: tuple[Value, ...]


class HostStep:
    """One step: nodes of the graph with the constants that they read.

    Attributes:
        kept: the values that stay with the host for the steps after it.
    """

    def __init__(self, graph: Graph, spec: HostStepSpec, known: set[Value], stored: DType | None) -> None:
        """known: the values that the steps before it have kept. Raises ``ValueError`` and ``KeyError`` where the step
        does not fit the graph."""
        self.spec = spec
        self._stored = stored
        self._reads = {Value(tensor.node, tensor.output): tensor for tensor in spec.reads}
        self._writes = {Value(tensor.node, tensor.output): tensor for tensor in spec.writes}
        self._nodes = [self._evaluated(graph, id) for id in spec.nodes]
        made = {value: graph.type(value) for entry in self._nodes for value in entry.results}
        leaving = {value for value in made if any(use.node not in spec.nodes for use in graph.users(value))}
        self.kept = frozenset(leaving - self._writes.keys())
        self._narrowed = {value for value in self.kept if rounded(graph, value, _ONE, stored) is not _ONE}
        operands = {value for entry in self._nodes for value in entry.operands}
        self._types = {value: graph.type(value) for value in (*operands, *made, *self._reads)}
        self._constants = {v: np.array(graph.constant(v)) for v in operands if graph.constant(v) is not None}
        self._check(made, known)

    def _evaluated(self, graph: Graph, id: int) -> _Evaluated:
        node = graph.node(id)
        return _Evaluated(node, tuple(graph.inputs(node)), tuple(graph.values(node)))

    def _check(self, made: Mapping[Value, TensorType], known: set[Value]) -> None:
        """Every operand exists when it is read, and tensors in buffers are those of the graph."""
        at_hand = {*self._reads, *self._constants, *known}
        for entry in self._nodes:
            for value in entry.operands:
                _require(value in at_hand, f"%{entry.node.id} reads %{value.node}, which the host does not have")
            at_hand |= {*entry.results}
        for value, tensor in (*self._reads.items(), *self._writes.items()):
            type, count = self._types[value], int(np.prod(tensor.extents, dtype=object))
            fits = type.is_static and count == type.size and _holds(type, tensor)
            _require(fits, f"{tensor.dtype}{list(tensor.extents)} for %{value.node}, which is {type}")
        for value in self._writes:
            _require(value in made, f"%{value.node} is put into a buffer by a step that does not make it")

    def run(self, memory: Memory, kept: Kept) -> None:
        """Evaluate the nodes. Raises what the operators raise, and `DeviceError` for anything unforeseen."""
        try:
            with np.errstate(all="ignore"):
                values = self._evaluate(memory, kept)
        except errors.ConvcError:
            raise
        except Exception as error:  # whatever a definition raises on values that a user gave
            raise errors.host_step_failed(self.spec.origins, error) from error
        for value, tensor in self._writes.items():
            self._put(value, tensor, values[value], memory(tensor))
        for value in self.kept:
            array = values[value]
            if value in self._narrowed:
                assert self._stored is not None
                array = array.astype(self._stored.numpy)
            kept.values[value] = np.array(array, self._types[value].dtype.numpy)

    def _evaluate(self, memory: Memory, kept: Kept) -> dict[Value, np.ndarray]:
        values = {**kept.values, **self._constants}
        values |= {value: self._taken(value, tensor, memory(tensor)) for value, tensor in self._reads.items()}
        for value in self._reads:
            kept.sizes.measure(self._types[value], values[value])
        for entry in self._nodes:
            attributes = kept.sizes.bind(entry.node.attributes)
            results = entry.node.operator.evaluate(attributes, [values[value] for value in entry.operands])
            for value, result in zip(entry.results, results, strict=True):
                kept.sizes.measure(self._types[value], result)
                values[value] = result
        return values

    def _taken(self, value: Value, tensor: HostTensor, data: np.ndarray) -> np.ndarray:
        """A copy of a tensor in a buffer, dense and in its own type."""
        type = self._types[value]
        shape = tuple(int(dim) for dim in type.shape)  # type: ignore[arg-type]
        return np.array(strided(tensor, data).reshape(shape), type.dtype.numpy)

    def _put(self, value: Value, tensor: HostTensor, result: np.ndarray, data: np.ndarray) -> None:
        shape = tuple(int(dim) for dim in self._types[value].shape)  # type: ignore[arg-type]
        if result.shape != shape:
            raise errors.host_step_failed(
                self.spec.origins, f"expected a result of shape {shape}, found {result.shape}"
            )
        with np.errstate(all="ignore"):
            strided(tensor, data)[...] = result.reshape(tensor.extents).astype(numpy_dtype(tensor.dtype))


_ONE = np.ones(1, np.float32)


def _holds(type: TensorType, tensor: HostTensor) -> bool:
    """Whether a tensor of the graph may be stored as one in a buffer is: only fp32 is ever narrowed."""
    return tensor.dtype == type.dtype.value or (type.dtype is DType.FP32 and tensor.dtype in ("fp16", "bf16"))


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)
