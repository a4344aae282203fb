"""A network of the zoo as a torch module with the same weights: the peers run what convc runs.

Each operator becomes the module or function that a user of torch would write, so that torch's own passes (folding
of batch normalisation, Inductor) recognise them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from convc.ir import Graph, Node, Value


def module_of(graph: Graph) -> fx.GraphModule:
    """The fp32 evaluation-mode module of a graph with one input and one output.

    Raises:
        NotImplementedError: an operator, or a form of one, that has no counterpart here.
    """
    return _Builder(graph).build()


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A copy of an array as a tensor, bfloat16 included."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


class _Builder:
    """Walks the graph in order. modules: by name, in the order of the graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.modules: dict[str, nn.Module] = {}
        self.made: dict[Value, fx.Node] = {}
        self.result = fx.Graph()

    def build(self) -> fx.GraphModule:
        for node in self.graph.nodes():
            if node.op == "Input":
                self.made[Value(node.id)] = self.result.placeholder("images")
            elif node.op == "Output":
                self.result.output(self.made[self.graph.inputs(node)[0]])
            elif node.op == "Cast":  # images come in the type that the module computes in
                self.made[Value(node.id)] = self.made[self.graph.inputs(node)[0]]
            elif node.op != "Constant":
                self.made[Value(node.id)] = self._operator(node)
        root = nn.Module()
        for name, module in self.modules.items():
            root.add_module(name, module)
        return fx.GraphModule(root, self.result, self.graph.name).eval().requires_grad_(False)

    def _operator(self, node: Node) -> fx.Node:
        if node.op in LAYERS:
            return self._layer(node)
        if node.op not in FUNCTIONS:
            raise NotImplementedError(f"{node.op} has no counterpart in torch here")
        operands = [self.made[value] for value in self.graph.inputs(node)]
        function, arguments, named = FUNCTIONS[node.op](node, operands, self._is_fresh(node))
        return self.result.call_function(function, arguments, named)

    def _layer(self, node: Node) -> fx.Node:
        """A module with weights, which are constants of the graph."""
        x, *weights = self.graph.inputs(node)
        arrays = [self.graph.constant(value) for value in weights]
        if any(array is None for array in arrays):
            raise NotImplementedError(f"{node.label}: weights that are computed")
        name = f"{node.op.lower()}{len(self.modules)}"
        self.modules[name] = LAYERS[node.op](node, [as_tensor(array).float() for array in arrays if array is not None])
        return self.result.call_module(name, (self.made[x],))

    def _is_fresh(self, node: Node) -> bool:
        """Whether the first operand is a new tensor that nobody else reads, so that it may be overwritten."""
        value = self.graph.inputs(node)[0]
        producer = self.graph.producer(value)
        return producer.op in ("Conv", "BatchNormalization", "Gemm", "Add") and len(self.graph.users(value)) == 1


# -- layers with weights ----------------------------------------------------------------------------------------------
def _conv(node: Node, weights: Sequence[torch.Tensor]) -> nn.Module:
    weight, bias = weights[0], weights[1] if len(weights) > 1 else None
    groups = node.attributes["groups"]
    made = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        node.attributes["strides"],
        _symmetric(node),
        node.attributes["dilations"],
        groups,
        bias is not None,
    )
    return _filled(made, weight=weight, bias=bias)


def _batch_norm(node: Node, weights: Sequence[torch.Tensor]) -> nn.Module:
    scale, shift, mean, variance = weights
    made = nn.BatchNorm2d(len(scale), eps=node.attributes["epsilon"])
    return _filled(made, weight=scale, bias=shift, running_mean=mean, running_var=variance)


def _linear(node: Node, weights: Sequence[torch.Tensor]) -> nn.Module:
    given = node.attributes
    if given.get("trans_a") or given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0:
        raise NotImplementedError(f"{node.label}: a Gemm that is no linear layer")
    weight = weights[0] if given.get("trans_b") else weights[0].T.contiguous()
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=len(weights) > 1)
    return _filled(made, weight=weight, bias=weights[1] if len(weights) > 1 else None)


def _filled(module: nn.Module, **tensors: torch.Tensor | None) -> nn.Module:
    """The module with these parameters and buffers."""
    for name, tensor in tensors.items():
        if tensor is not None:
            getattr(module, name).data.copy_(tensor)
    return module


def _symmetric(node: Node) -> tuple[int, ...]:
    """Padding that is the same on both sides, once for each axis."""
    pads = node.attributes["pads"]
    half = len(pads) // 2
    if pads[:half] != pads[half:]:
        raise NotImplementedError(f"{node.label}: padding that differs between two sides")
    return tuple(pads[:half])


LAYERS: dict[str, Callable[[Node, Sequence[torch.Tensor]], nn.Module]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Gemm": _linear,
}

# -- functions --------------------------------------------------------------------------------------------------------
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _max_pool(node: Node, operands: Sequence[fx.Node], fresh: bool) -> Call:
    given = node.attributes
    named = {"stride": given["strides"], "padding": _symmetric(node), "dilation": given["dilations"]}
    return F.max_pool2d, (operands[0], given["kernel_shape"]), {**named, "ceil_mode": given["ceil_mode"]}


def _average_pool(node: Node, operands: Sequence[fx.Node], fresh: bool) -> Call:
    given = node.attributes
    if any(step != 1 for step in given["dilations"]):
        raise NotImplementedError(f"{node.label}: a dilated average")
    named = {"stride": given["strides"], "padding": _symmetric(node), "ceil_mode": given["ceil_mode"]}
    named["count_include_pad"] = given["count_include_pad"]
    return F.avg_pool2d, (operands[0], given["kernel_shape"]), named


def _mean(node: Node, operands: Sequence[fx.Node], fresh: bool) -> Call:
    given = node.attributes
    if tuple(given["axes"]) == (2, 3) and given["keepdims"]:
        return F.adaptive_avg_pool2d, (operands[0], 1), {}
    return torch.mean, (operands[0], tuple(given["axes"]), given["keepdims"]), {}


def _reshape(node: Node, operands: Sequence[fx.Node], fresh: bool) -> Call:
    if len(node.outputs[0].shape) != 2:
        raise NotImplementedError(f"{node.label}: a reshape that does not flatten images")
    return torch.flatten, (operands[0], 1), {}


def _clip(node: Node, operands: Sequence[fx.Node], fresh: bool) -> Call:
    given = node.attributes
    if (given["min"], given["max"]) == (0.0, 6.0):
        return F.relu6, (operands[0],), {"inplace": fresh}
    return torch.clamp, (operands[0], given["min"], given["max"]), {}


def _local_response_norm(node: Node, operands: Sequence[fx.Node], fresh: bool) -> Call:
    given = node.attributes
    return F.local_response_norm, (operands[0], given["size"], given["alpha"], given["beta"], given["bias"]), {}


FUNCTIONS: dict[str, Callable[[Node, Sequence[fx.Node], bool], Call]] = {
    "Relu": lambda node, operands, fresh: (F.relu, (operands[0],), {"inplace": fresh}),
    "Silu": lambda node, operands, fresh: (F.silu, (operands[0],), {"inplace": fresh}),
    "Sigmoid": lambda node, operands, fresh: (torch.sigmoid, (operands[0],), {}),
    "Add": lambda node, operands, fresh: (torch.add, tuple(operands), {}),
    "Mul": lambda node, operands, fresh: (torch.mul, tuple(operands), {}),
    "Concat": lambda node, operands, fresh: (torch.cat, (list(operands), node.attributes["axis"]), {}),
    "Softmax": lambda node, operands, fresh: (torch.softmax, (operands[0], node.attributes["axis"]), {}),
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "ReduceMean": _mean,
    "Reshape": _reshape,
    "Clip": _clip,
    "LRN": _local_response_norm,
}
