"""The layer table of a model: `convc summary`.

A layer is an operator of the model as it was read, before any pass. Constants and what is computed from them alone
are not layers; inputs are, so that activations add up to what a table of the literature gives.

- Parameters are the weights of the model, biases included, each counted at the first layer that reads it. A batch
  normalisation has two for each channel: running statistics are not trained and do not count.
- Multiply-adds are those of convolutions and matrix products; additions of a bias do not count.
- Activations are what the layers write. A batch normalisation or an elementwise layer of one operand works in place
  where nobody else reads that operand, and views cost nothing: neither has activation bytes of its own.
- A window does not fit where floor((size + padding - span) / stride) leaves a remainder: rows or columns at the end are
  not read. Where that many are padding nothing of the input itself is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from ..ir import Dim, Graph, Kind, Node, Value
from ..runtime.manifest import FOUND_SIZE
from .reach import Reach, reaches, window_of


@dataclass(frozen=True)
class Layer:
    """One row. A size of ``output_shape`` that only the run finds out is -1, and counts no bytes.

    receptive_field: along the axis where it is longest; None where an output sees no axis of an input.
    receptive_fields, jumps: for each axis, in elements of the input; a jump is the product of the strides so far.
    fits: whether the windows read all of the padded input. unread: elements of the input itself that no window reads,
    for each axis. in_place_of: the layer whose output it overwrites.
    """

    name: str
    op: str
    output_shape: tuple[int, ...]
    params: int
    macs: int
    activation_bytes: int
    receptive_field: int | None
    receptive_fields: tuple[int, ...]
    jumps: tuple[float, ...]
    fits: bool
    unread: tuple[int, ...]
    in_place_of: str | None


@dataclass(frozen=True)
class Summary:
    """The table of one model."""

    model: str
    layers: tuple[Layer, ...]

    @property
    def params(self) -> int:
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        return sum(layer.activation_bytes for layer in self.layers)

    def as_json(self) -> dict[str, Any]:
        total = {"params": self.params, "macs": self.macs, "activation_bytes": self.activation_bytes}
        return {"model": self.model, "layers": [asdict(layer) for layer in self.layers], "total": total}

    def __str__(self) -> str:
        from .render import summarised

        return summarised(self.as_json())


def summarise_model(model: str, batch: int | None = None, dims: Mapping[str, int] | None = None) -> Summary:
    """The table of a MODEL of the command line; a symbolic batch is ``batch``, or 1. dims: numbers
    for other open sizes.

    Of a compiled network it is that of the graph that it keeps, whose batch normalisations are folded.

    Raises:
        UsageError: a batch for a model that has a fixed one. Others as `convc.api.graph_of`.
    """
    from . import models

    if models.is_compiled(model):
        from ..runtime.numpy_executor import stored_graph

        models.Choices(batch=batch, dims=dims).refuse(model)
        return summarise(stored_graph(models.load_compiled(model).artifact), model=model)
    if model.startswith("zoo:") and not dims:
        from ..frontends import zoo

        return summarise(zoo.build(model.removeprefix("zoo:"), batch or 1, weights="none").graph, model=model)
    return summarise(models.read_graph(model, batch, dims), batch or 1, model)


def summarise(graph: Graph, batch: int = 1, model: str = "") -> Summary:
    """The table of a graph. Raises `ShapeError` where dimensions other than the batch are symbolic."""
    from ..planner import bind_batch

    bound = bind_batch(graph, batch)
    table = _Table(bound)
    return Summary(model or graph.name, tuple(table.row(node) for node in table.nodes))


class _Table:
    """What rows are made of: the nodes that depend on an input, and the weights that no row has counted yet."""

    def __init__(self, graph: Graph) -> None:
        from ..frontends.dsl import weights

        self.graph = graph
        self.reaches = reaches(graph)
        live = {value.node for value in self.reaches}
        self.nodes = [node for node in graph.nodes() if node.id in live and node.op != "Output"]
        self._live = live
        self._uncounted = {node.id: node.array.size for node in weights(graph)}

    def row(self, node: Node) -> Layer:
        graph = self.graph
        types = [graph.type(value) for value in graph.inputs(node)]
        overwritten = self._overwritten(node)
        free = overwritten is not None or node.kind is Kind.VIEW
        fields, jumps = _seen(self.reaches[Value(node.id)], node.outputs[0].rank)
        spare = _spare(graph, node)
        return Layer(
            name=node.label,
            op=node.op,
            output_shape=tuple(_numbers(node.outputs[0].shape)),
            params=self._params(node),
            macs=_number(node.operator.macs(node.attributes, types, node.outputs)),
            activation_bytes=0 if free else sum(_number(type.nbytes) for type in node.outputs),
            receptive_field=max(fields, default=None),
            receptive_fields=fields,
            jumps=jumps,
            fits=not any(left for left, _ in spare),
            unread=tuple(max(left - padding, 0) for left, padding in spare),
            in_place_of=overwritten,
        )

    def _params(self, node: Node) -> int:
        """Weights that this layer is the first to read, directly or through operators on constants."""
        found, stack = 0, [node.id]
        while stack:
            for value in self.graph.inputs(stack.pop()):
                found += self._uncounted.pop(value.node, 0)
                if value.node not in self._live:
                    stack.append(value.node)
        return found

    def _overwritten(self, node: Node) -> str | None:
        """The layer whose output it can work on in place, by its label."""
        read = [value for value in self.graph.inputs(node) if value.node in self._live]
        if len(read) != 1 or not (node.kind is Kind.ELEMENTWISE or node.op == "BatchNormalization"):
            return None
        source = self.graph.type(read[0])
        alone = len(self.graph.users(read[0])) == 1
        return self.graph.producer(read[0]).label if alone and node.outputs[0].nbytes == source.nbytes else None


def _seen(reach: Reach, rank: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Fields and jumps along the axes of the inputs that are not this value's channels."""
    axes = [reach[key] for key in sorted(reach)]
    shown = [axis for axis in axes if not (rank > 2 and axis.at == 1)]
    return tuple(math.ceil(axis.field) for axis in shown), tuple(_plain(axis.jump) for axis in shown)


def _plain(jump: Fraction) -> float:
    return jump.numerator if jump.denominator == 1 else float(jump)


def _spare(graph: Graph, node: Node) -> list[tuple[int, int]]:
    """For each axis of a window without ceil mode: elements behind the last window, and the padding at that end."""
    if node.op not in ("Conv", "ConvInteger", "MaxPool", "AveragePool") or node.attributes.get("ceil_mode"):
        return []
    given, kernel = node.attributes, window_of(graph, node)
    extents, rank = _numbers(graph.type(graph.inputs(node)[0]).shape[2:]), len(kernel)
    spare = []
    for axis, extent in enumerate(extents):
        begin, end = given["pads"][axis], given["pads"][rank + axis]
        room = extent + begin + end - given["dilations"][axis] * (kernel[axis] - 1) - 1
        spare.append((room % given["strides"][axis], end))
    return spare


def _numbers(shape: Sequence[Any]) -> list[int]:
    return [_number(dim, FOUND_SIZE) for dim in shape]


def _number(dim: Any, found: int = 0) -> int:
    """A size as a number; ``found`` for one that only the run finds out."""
    return found if isinstance(dim, Dim) else int(dim)
