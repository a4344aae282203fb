"""The DSL, `convc.nn`: networks written as Python.

    net = nn.Network("small")
    x = net.input(3, 32, 32)
    x = x.conv(16, 5, padding=2).relu().max_pool(2)
    net.output(x.dense(10).softmax())

Building is eager: each call adds its operators to the graph, so a layer that does not fit raises on the line that
wrote it. Shapes are in ONNX order (N, C, spatial ...). Every layer takes ``name``; a layer without one is called after
what it does (``conv1``, ``relu3``), and that name follows it into kernels, profiles and error messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import errors
from ..ir import ops  # noqa: F401  (defines the operators)
from ..ir.dims import Dim, DimLike
from ..ir.graph import Graph, Node, Value
from ..ir.types import DType, Shape, TensorType
from .layers import Tensor
from .weights import SOURCES

__all__ = ["Network", "Tensor", "concat", "multiply_accumulates", "parameters", "weights"]


class Network:
    """A network under construction; ``graph`` is what it has become so far.

    batch: the default batch of its inputs, a number or the name of a symbol (``"N"``).
    seed: of the weights that are not given; see `convc.frontends.weights`.
    strict: refuse convolutions and poolings whose windows leave rows or columns unread.
    weights: ``"random"``, or ``"none"`` for shapes and counts alone (zeros that occupy no memory).
    dtype: element type of inputs and weights.
    """

    def __init__(
        self,
        name: str = "network",
        *,
        batch: int | str = 1,
        seed: int = 0,
        strict: bool = False,
        weights: str = "random",
        dtype: str | DType = DType.FP32,
    ) -> None:
        if weights not in SOURCES:
            raise errors.one_of(weights, SOURCES, "source of weights")
        if dtype not in list(DType):
            raise errors.one_of(dtype, DType, "dtype")
        self.graph = Graph(name)
        self.batch = batch
        self.strict = strict
        self.dtype = DType(dtype)
        self.weights = SOURCES[weights](seed)
        self.layers: list[Tensor] = []
        self._names: set[str] = set()
        self._counters: dict[str, int] = {}

    @property
    def name(self) -> str:
        return self.graph.name

    @property
    def input_shape(self) -> Shape:
        """Shape of the first input, batch included."""
        return self.graph.graph_inputs[0].outputs[0].shape

    @property
    def params(self) -> int:
        """Number of weights; see `parameters`."""
        return parameters(self.graph)

    @property
    def macs(self) -> DimLike:
        """Multiply-accumulates of one run; symbolic where the batch is."""
        return multiply_accumulates(self.graph)

    def input(
        self, *dims: DimLike | str, batch: DimLike | str | None = None, channels_last: bool = False, name: str = "input"
    ) -> Tensor:
        """An input of shape [batch, *dims]; strings are symbols. Raises `UsageError` for anything that is no size.

        channels_last: the caller's arrays are [batch, H, W, C], as Keras has them; the tensor is [batch, C, H, W] all
        the same, and which of both lies in memory costs nothing.
        """
        whole = (self.batch if batch is None else batch, *dims)
        for dim in whole:
            natural = isinstance(dim, int) and not isinstance(dim, bool) and dim >= 0
            if not natural and not isinstance(dim, Dim) and not (isinstance(dim, str) and dim):
                raise errors.bad_dim(f"of input {name!r}", dim)
        shape = tuple(Dim.symbol(dim) if isinstance(dim, str) else dim for dim in whole)
        value = self.graph.add_input(self.unique("input", name), TensorType(self.dtype, shape))
        tensor = Tensor(self, value, name)
        if not channels_last:
            return tensor
        return tensor.transpose(0, len(shape) - 1, *range(1, len(shape) - 1), name=f"{name}.channels_first")

    def output(self, tensor: Tensor, name: str = "output") -> Network:
        """Makes ``tensor`` an output; returns the network."""
        self.graph.add_output(self.unique("output", name), tensor.value)
        return self

    def __repr__(self) -> str:
        return f"Network({self.name!r}, {len(self.layers)} layers)"

    # -- for layers ---------------------------------------------------------------------------------------------------
    def add(
        self, op: str, inputs: Sequence[Value], attributes: Mapping[str, Any] | None = None, *, name: str
    ) -> Tensor:
        """Adds one operator as the layer ``name``.

        Raises:
            ShapeError: inputs that do not fit; it names the layer and their shapes.
        """
        try:
            value = self.graph.add(op, inputs, attributes, origins=[name])
        except errors.ShapeError as error:
            raise errors.at_layer(error, name, [self.graph.type(value).shape for value in inputs]) from None
        self.layers.append(Tensor(self, value, name))
        return self.layers[-1]

    def unique(self, kind: str, name: str | None) -> str:
        """``name``, or the next free default name for this ``kind`` of layer, taken from now on."""
        if name is None:
            number = self._counters.get(kind, 0) + 1
            while f"{kind}{number}" in self._names:
                number += 1
            self._counters[kind] = number
            name = f"{kind}{number}"
        if name in self._names:
            raise errors.duplicate_layer(name, self.name)
        self._names.add(name)
        return name

    def constant(self, array: np.ndarray, name: str) -> Value:
        """A constant in the network's element type."""
        return self.graph.add_constant(np.asarray(array).astype(self.dtype.numpy, copy=False), origins=[name])

    def given(
        self, array: np.ndarray | None, name: str, shape: Sequence[int], draw: Callable[[], np.ndarray], layer: str
    ) -> Value:
        """The constant ``name``: ``array`` if there is one, of this ``shape``; else what ``draw`` returns."""
        if array is not None and np.shape(array) != tuple(shape):
            raise errors.weight_misfit(layer, name.rpartition(".")[2], shape, np.shape(array))
        return self.constant(draw() if array is None else array, name)

    def filters(self, array: np.ndarray | None, layer: str, shape: Sequence[int], gain: float) -> Value:
        """The weight of a layer, shape [K, fan-in ...]."""
        name = f"{layer}.weight"
        return self.given(array, name, shape, lambda: self.weights.filters(name, shape, gain), layer)

    def shift(self, bias: bool | np.ndarray, layer: str, shape: Sequence[int]) -> list[Value]:
        """The bias of a layer as a list of one value, or of none for False."""
        if bias is False:
            return []
        name = f"{layer}.bias"
        array = None if isinstance(bias, bool) else bias
        return [self.given(array, name, shape, lambda: self.weights.normal(name, shape, 0.1), layer)]


def concat(tensors: Sequence[Tensor], axis: int = 1, *, name: str | None = None) -> Tensor:
    """The tensors one after the other along ``axis``."""
    if not tensors:
        raise errors.nothing_to_concatenate()
    first = tensors[0]
    name = first.network.unique("concat", name)
    inputs = [first._operand(tensor, name) for tensor in tensors]
    return first.network.add("Concat", inputs, {"axis": first._axis(axis, name)}, name=name)


def parameters(graph: Graph) -> int:
    """Number of weights of a graph; the running statistics of batch normalisations do not count."""
    return sum(node.array.size for node in weights(graph))


def weights(graph: Graph) -> list[Node]:
    """The constants that count as weights: arrays of floats but for running statistics, and matrices of bytes.

    Single numbers, such as an epsilon, do not; nor do integers that are shapes and indices.
    """
    nodes = _unordered(graph)
    statistics = {v.node for node in nodes if node.op == "BatchNormalization" for v in graph.inputs(node)[3:5]}
    return [node for node in nodes if node.op == "Constant" and node.id not in statistics and _is_weight(node)]


def _is_weight(constant: Node) -> bool:
    type = constant.outputs[0]
    return type.rank >= (1 if type.dtype.is_float else 2) and (type.dtype.is_float or type.dtype in BYTES)


BYTES = (DType.INT8, DType.UINT8)


def multiply_accumulates(graph: Graph) -> DimLike:
    """Multiply-accumulates of one run of a graph."""
    total: DimLike = 0
    for node in _unordered(graph):
        types = [graph.type(value) for value in graph.inputs(node)]
        total = total + node.operator.macs(node.attributes, types, node.outputs)
    return total


def _unordered(graph: Graph) -> list[Node]:
    """All nodes; sorting them takes longer than the sums here."""
    return [node for _, node in graph.networkx.nodes(data="node")]
