"""Receptive fields: how much of the network's input one element of a value depends on.

Walking from the inputs, a window of k taps with dilation d and stride s turns a field of r elements and a jump of j
(elements of the input between neighbours) into r + d·(k - 1)·j and j·s. That is the lectures' rule; for L stacked
KxK convolutions of stride 1 it gives 1 + L·(K - 1). Branches that meet take the larger of both. Fields
are not cut at the edges of the input: padding counts as input.

Operators that mix a whole axis (dense layers, global pooling, matrix products, softmax along it) are a window over all
of it. An operator without a rule here counts as mixing everything: a field may be too large and is never too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from ..ir import Graph, Kind, Node, Value, operators

Reach = Mapping[tuple[int, int], "Axis"]
"""(node of a graph input, its axis) → what an element of a value sees along it. Batches and constants have none."""


@dataclass(frozen=True)
class Axis:
    """One axis of a graph input, seen from a value.

    at: the value's axis that walks along it; None once it was merged into another. extent: elements of the value along
    it. field: elements of the input that one element sees. jump: elements of the input between neighbours.
    """

    at: int | None
    extent: int
    field: Fraction = Fraction(1)
    jump: Fraction = Fraction(1)

    def through(self, taps: int, stride: Fraction | int = 1, dilation: int = 1) -> Axis:
        """Behind a window."""
        return replace(self, field=self.field + dilation * (taps - 1) * self.jump, jump=self.jump * stride)

    def mixed(self) -> Axis:
        """Behind an operator that reads all of it."""
        return replace(self.through(self.extent), extent=1)


def reaches(graph: Graph) -> dict[Value, Reach]:
    """The reach of every value that depends on an input; all dimensions must be numbers."""
    found: dict[Value, Reach] = {}
    for node in graph.nodes():
        if node.op == "Input":
            extents = enumerate(node.outputs[0].shape[1:], start=1)
            found[Value(node.id)] = {(node.id, axis): Axis(axis, int(extent)) for axis, extent in extents}  # type: ignore[arg-type]
            continue
        sources = [(value, found[value]) for value in graph.inputs(node) if value in found]
        if sources:
            rule = RULES.get(node.op, _aligned if node.kind is Kind.ELEMENTWISE else _everything)
            reach = _union([rule(graph, node, value, reach) for value, reach in sources])
            found |= {value: _measured(reach, graph, value) for value in graph.values(node)}
    return found


def _union(branches: Sequence[Reach]) -> Reach:
    """Where branches meet: the larger field and jump of each axis."""
    union: dict[tuple[int, int], Axis] = {}
    for key, axis in (item for branch in branches for item in branch.items()):
        other = union.get(key, axis)
        at = other.at if axis.at is None else axis.at
        union[key] = Axis(at, max(axis.extent, other.extent), max(axis.field, other.field), max(axis.jump, other.jump))
    return union


def _measured(reach: Reach, graph: Graph, value: Value) -> Reach:
    """With the extents that the value has."""
    shape = graph.type(value).shape
    return {
        key: axis if axis.at is None else replace(axis, extent=int(shape[axis.at]))  # type: ignore[arg-type]
        for key, axis in reach.items()
    }


# -- rules: (graph, node, one of its inputs, its reach) → reach of the output ----------------------------------------
def _everything(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    return {key: replace(axis.mixed(), at=None) for key, axis in reach.items()}


def _kept(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    return reach


def _aligned(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    """Broadcasting: axes are counted from the end."""
    shift = node.outputs[0].rank - graph.type(value).rank
    return {k: axis if axis.at is None else replace(axis, at=axis.at + shift) for k, axis in reach.items()}


def _window(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    """Convolution reads all channels, and what walked along them is forgotten; pooling reads none beside its own."""
    kernel = window_of(graph, node)
    seen: dict[tuple[int, int], Axis] = {}
    for key, axis in reach.items():
        if axis.at is not None and axis.at >= 2:
            place = axis.at - 2
            dilation = node.attributes["dilations"][place]
            seen[key] = axis.through(kernel[place], node.attributes["strides"][place], dilation)
        elif axis.at is None or node.kind is Kind.WINDOW:
            seen[key] = axis
    return seen


def _spread(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    """A transposed convolution: of k taps, stride apart, at most ceil(span / stride) reach one output."""
    kernel = window_of(graph, node)
    seen: dict[tuple[int, int], Axis] = {}
    for key, axis in reach.items():
        if axis.at is not None and axis.at >= 2:
            place = axis.at - 2
            stride, dilation = node.attributes["strides"][place], node.attributes["dilations"][place]
            taps = -(-(dilation * (kernel[place] - 1) + 1) // stride)
            seen[key] = axis.through(taps, Fraction(1, stride))
        elif axis.at is None:
            seen[key] = axis
    return seen


def _resized(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    """Resampling: as many neighbours as the kernel of the interpolation reaches to both sides."""
    half = {"nearest": 0, "linear": 1, "cubic": 2}[node.attributes["mode"]]
    seen: dict[tuple[int, int], Axis] = {}
    for key, axis in reach.items():
        if axis.at is not None:
            step = Fraction(axis.extent, max(node.attributes["sizes"][axis.at], 1))
            stretch = max(step, Fraction(1)) if node.attributes["antialias"] else Fraction(1)
            axis = axis.through(max(2 * math.ceil(half * stretch), 1), step) if step != 1 else axis
        seen[key] = axis
    return seen


def window_of(graph: Graph, node: Node) -> tuple[int, ...]:
    """The kernel of a convolution or pooling, one number for each spatial axis."""
    given = node.attributes.get("kernel_shape")
    return tuple(given if given is not None else graph.type(graph.inputs(node)[1]).shape[2:])


def _reduced(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    axes, keepdims = node.attributes["axes"], node.attributes["keepdims"]

    def seen(axis: Axis) -> Axis:
        if axis.at is None:
            return axis
        behind = axis.mixed() if axis.at in axes else axis
        if keepdims:
            return behind
        return replace(behind, at=None if axis.at in axes else axis.at - sum(gone < axis.at for gone in axes))

    return {key: seen(axis) for key, axis in reach.items()}


def _along_axis(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    """Softmax: every element sees all of its axis."""
    mixed = node.attributes["axis"]
    return {key: axis.mixed() if axis.at == mixed else axis for key, axis in reach.items()}


def _product(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    """A matrix product with a constant mixes the last axis and what was merged before."""
    if sum(graph.producer(source).op != "Constant" for source in graph.inputs(node)) > 1:
        return _everything(graph, node, value, reach)
    last = graph.type(value).rank - 1
    return {key: replace(axis.mixed(), at=None) if axis.at in (None, last) else axis for key, axis in reach.items()}


def _transposed(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    perm = node.attributes["perm"]
    return {k: axis if axis.at is None else replace(axis, at=perm.index(axis.at)) for k, axis in reach.items()}


def _reshaped(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    """An axis survives where one of its extent has as many elements behind it as before."""
    before, after = graph.type(value).shape, node.outputs[0].shape
    places = {_place(after, axis): axis for axis in reversed(range(len(after)))}
    return {
        key: axis if axis.at is None else replace(axis, at=places.get(_place(before, axis.at)))
        for key, axis in reach.items()
    }


def _place(shape: Sequence[Any], axis: int) -> tuple[int, int]:
    return int(shape[axis]), math.prod(int(dim) for dim in shape[axis + 1 :])


def _sliced(graph: Graph, node: Node, value: Value, reach: Reach) -> Reach:
    steps = node.attributes["steps"]
    return {k: a if a.at is None else replace(a, jump=a.jump * abs(steps[a.at])) for k, a in reach.items()}


RULES: dict[str, Callable[[Graph, Node, Value, Reach], Reach]] = {
    **dict.fromkeys(("Conv", "ConvInteger", "MaxPool", "AveragePool"), _window),
    "ConvTranspose": _spread,
    "Resize": _resized,
    **{name: _reduced for name in operators() if name.startswith("Reduce")},
    **dict.fromkeys(("Softmax", "LogSoftmax"), _along_axis),
    **dict.fromkeys(("Gemm", "MatMul", "MatMulInteger"), _product),
    **dict.fromkeys(("BatchNormalization", "LRN", "Concat", "Pad", "Output"), _kept),
    "Expand": _aligned,
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "Slice": _sliced,
}
