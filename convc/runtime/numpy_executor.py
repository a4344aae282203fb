"""The numpy executor: every operator by its own definition, with the plan's storage precision between kernels.

It needs the graph's text and the weights of an artifact, and nothing that was compiled. Values are computed in the
precision of the network's own types; a value that leaves a kernel is rounded to how the plan stores it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import errors
from ..ir import Dim, DType, Graph, Kind, Node, TensorType, Value, parse_graph
from ..ir.graph import bind_attributes
from .artifact import Artifact, load_weights
from .batch import images_of, shape_of
from .manifest import ProgramSpec, TensorSpec, ViewSpec, written_sizes

STORED = {"fp16": DType.FP16, "bf16": DType.BF16}
"""Numeric modes that store fp32 values in fewer bits."""


class NumpyExecutor:
    """Runs a network's graph in NumPy; see `convc.runtime.executor.Executor`."""

    def prepare(self, artifact: Artifact, program: ProgramSpec | None) -> None:
        """Parses the graph and views the weights as its constants. Raises `ArtifactError`."""
        graph, manifest = stored_graph(artifact), artifact.manifest
        for role, nodes, specs in (
            ("inputs", graph.graph_inputs, manifest.inputs),
            ("outputs", graph.graph_outputs, manifest.outputs),
        ):
            if [_described(node) for node in nodes] != [(spec.name, spec.dtype, tuple(spec.shape)) for spec in specs]:
                raise errors.damaged(manifest.graph, f"its {role} are not those of the manifest", artifact.file)
        self._runner = GraphRunner(graph, STORED.get(manifest.dtype))
        self._inputs, self._outputs = manifest.inputs, manifest.outputs

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for arrays of the manifest's shapes and dtypes.

        Where the batch is dynamic the graph is that of the largest one: images that are not given are zeros.
        """
        pairs = list(zip(self._inputs, inputs, strict=True))
        whole = {spec.name: _filled_up(array, spec) if spec.images else array for spec, array in pairs}
        images = images_of(self._inputs, inputs)
        shapes = [shape_of(spec, images) for spec in self._outputs]
        found = self._runner.run(whole)
        return [
            array[: shape[0]] if spec.images else array
            for spec, shape, array in zip(self._outputs, shapes, found, strict=True)
        ]

    def close(self) -> None:
        """Nothing to give back."""


def _described(node: Node) -> tuple[str, str, tuple[int, ...]]:
    """Name, dtype and shape of an input or output of a graph, as the manifest has them."""
    type = node.outputs[0]
    return node.attributes["name"], type.dtype.value, written_sizes(type.shape)


def _filled_up(array: np.ndarray, spec: TensorSpec) -> np.ndarray:
    whole = np.zeros(spec.shape, array.dtype)
    whole[: len(array)] = array
    return whole


def stored_graph(artifact: Artifact) -> Graph:
    """The graph of an artifact, with the packed weights as its constants. Raises `ArtifactError`."""
    manifest = artifact.manifest
    buffer = bytearray(max(manifest.weights_bytes, 1))
    if manifest.weights:
        load_weights(artifact, memoryview(buffer))
    offsets = {spec.name: spec.offset for spec in manifest.weights}
    views = {digest: _view(buffer, offsets[view.weight], view) for digest, view in manifest.constants.items()}
    try:
        return _with_logical_constants(parse_graph(artifact.text(manifest.graph), views))
    except (errors.LoadError, KeyError, TypeError, ValueError) as error:
        raise errors.damaged(manifest.graph, str(error), artifact.file) from error


def _view(buffer: bytearray, offset: int, view: ViewSpec) -> np.ndarray:
    dtype = DType(view.dtype).numpy
    flat = np.frombuffer(buffer, f"u{dtype.itemsize}", offset=offset, count=_span(view))
    strides = tuple(stride * dtype.itemsize for stride in view.strides)
    return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False).view(dtype)


def _span(view: ViewSpec) -> int:
    if 0 in view.shape:
        return 0
    return 1 + sum((extent - 1) * stride for extent, stride in zip(view.shape, view.strides, strict=True))


def _with_logical_constants(graph: Graph) -> Graph:
    """Constants in the shapes and dtypes of the graph, instead of as they are packed."""
    from ..ir import Payload

    for node in graph.of_kind("Constant"):
        type = node.outputs[0]
        shape: list[int] = [int(dim) for dim in type.shape]  # type: ignore[arg-type, misc]
        graph.update(node, payload=Payload(node.array.reshape(shape).astype(type.dtype.numpy, copy=False)))
    return graph


class Sizes:
    """The sizes that symbols turn out to have in one run; ``found`` holds them by name."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def measure(self, type: TensorType, array: np.ndarray) -> None:
        """Takes the values of symbols from the sizes of an array."""
        for dim, size in zip(type.shape, array.shape, strict=True):
            if isinstance(dim, Dim) and dim.is_symbol:
                self.found.setdefault(str(dim), size)

    def bind(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Attributes with numbers for symbols."""
        return bind_attributes(attributes, self.found) if self.found else attributes


def rounded(graph: Graph, value: Value, array: np.ndarray, stored: DType | None) -> np.ndarray:
    """A value that leaves a region, in the precision that it is stored in (None: its own); outputs keep theirs."""
    if stored is None or graph.type(value).dtype is not DType.FP32:
        return array
    if any(graph.node(use.node).op == "Output" for use in graph.users(value)):
        return array
    with np.errstate(all="ignore"):
        return array.astype(stored.numpy).astype(np.float32)


class GraphRunner:
    """Evaluates a graph on arrays.

    stored: rounds fp32 values to this type where they leave a fused region (None: nowhere). observe: called with every
    value that leaves a region; what it returns is used instead.

    Attributes:
        sizes: what symbols were in the last run.
    """

    def __init__(
        self,
        graph: Graph,
        stored: DType | None = None,
        observe: Callable[[Node, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.graph = graph
        self._stored = stored
        self._observe = observe
        self._nodes = graph.nodes()
        self._last_use = self._last_uses()
        self._is_static = not graph.symbols
        self.sizes = Sizes()

    def _last_uses(self) -> dict[Value, int]:
        return {value: index for index, node in enumerate(self._nodes) for value in self.graph.inputs(node)}

    def run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in the order of the graph, as new arrays; arrays by input name.

        Sizes that are symbols become what the arrays have. Raises what the operators raise, and `DeviceError` for
        anything unforeseen.
        """
        self.sizes = Sizes()
        values: dict[Value, np.ndarray] = {}
        outputs: dict[int, np.ndarray] = {}
        for index, node in enumerate(self._nodes):
            operands = self.graph.inputs(node)
            if node.op == "Input":
                values[Value(node.id)] = inputs[node.attributes["name"]]
                self._measure(node.outputs[0], inputs[node.attributes["name"]])
            elif node.op == "Constant":
                values[Value(node.id)] = node.array
            elif node.op == "Output":
                outputs[node.id] = np.array(values[operands[0]], order="C")
            else:
                self._evaluate(node, [values[value] for value in operands], values)
            for value in operands:
                if self._last_use[value] == index:
                    values.pop(value, None)
        return [outputs[node.id] for node in self.graph.graph_outputs]

    def _evaluate(self, node: Node, operands: list[np.ndarray], values: dict[Value, np.ndarray]) -> None:
        try:
            with np.errstate(all="ignore"):
                results = node.operator.evaluate(self.sizes.bind(node.attributes), operands)
            for value, result in zip(self.graph.values(node), results, strict=True):
                self._measure(self.graph.type(value), result)
        except (errors.ConvcError, MemoryError):
            raise
        except Exception as error:  # whatever a definition raises on values that a user gave
            raise errors.host_step_failed(node.origins, error) from error
        for value, result in zip(self.graph.values(node), results, strict=True):
            if node.kind is not Kind.VIEW and self._leaves_region(value, node):
                result = rounded(self.graph, value, result, self._stored)
                if self._observe is not None:
                    result = self._observe(node, result)
            values[value] = result

    def _measure(self, type: TensorType, array: np.ndarray) -> None:
        if not self._is_static:
            self.sizes.measure(type, array)

    def _leaves_region(self, value: Value, node: Node) -> bool:
        users = [self.graph.node(use.node) for use in self.graph.users(value)]
        return node.region is None or any(user.region != node.region for user in users)
