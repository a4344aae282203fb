"""The nine CNNs that the onnx package ships for its backend tests, with weights that tell right from wrong; mutants.

As shipped every weight is one constant, so that nearly every wrong network gives the right answer, too. Here weights
are drawn from seeds (convolutions and matrix products as He et al. (2015) initialise them, scales and variances in
[0.5, 1.5]) and the softmax at the end, which flattens differences, is taken off.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
NAMES = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)


# -- weights ----------------------------------------------------------------------------------------------------------
def reweighted(name: str) -> ModelProto:
    """The network with seeded weights, its last softmax taken off."""
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    _without_softmax(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in _take(model, "ConstantOfShape"):
        arrays[node.output[0]] = np.zeros(arrays.pop(node.input[0]), np.float32)
    roles = _roles(model)
    drawn = {
        tensor: _draw(f"{name}/{tensor}", array, *roles[tensor]) for tensor, array in arrays.items() if tensor in roles
    }
    kept = [info for info in model.graph.input if not info.name.endswith("__SHAPE") and info.name not in arrays]
    del model.graph.initializer[:], model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(numpy_helper.from_array(array, tensor) for tensor, array in drawn.items())
    return model


def _take(model: ModelProto, op: str) -> list[NodeProto]:
    """Takes all nodes of an operator out of the model."""
    taken = [node for node in model.graph.node if node.op_type == op]
    kept = [node for node in model.graph.node if node.op_type != op]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return taken


def _without_softmax(model: ModelProto) -> None:
    if model.graph.node[-1].op_type == "Softmax":
        model.graph.output[0].name = model.graph.node[-1].input[0]
        model.graph.output[0].type.tensor_type.ClearField("shape")
        del model.graph.node[-1]


def _roles(model: ModelProto) -> dict[str, tuple[str, int]]:
    """What each tensor is to the operator that reads it, through the Unsqueeze between them."""
    roles = {name: (node.op_type, place) for node in model.graph.node for place, name in enumerate(node.input)}
    for node in model.graph.node:
        if node.op_type == "Unsqueeze":
            roles[node.input[0]] = roles[node.output[0]]
    return roles


def _draw(key: str, array: np.ndarray, op: str, place: int) -> np.ndarray:
    """Weights for a tensor of that role; shapes and the like stay."""
    if array.dtype != np.float32:
        return array
    random = np.random.default_rng(zlib.crc32(key.encode()))
    if op in ("Conv", "Gemm") and place == 1:
        return random.standard_normal(array.shape, np.float32) * np.float32(math.sqrt(2 / math.prod(array.shape[1:])))
    if (op, place) in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
        return random.uniform(0.5, 1.5, array.shape).astype(np.float32)
    return random.standard_normal(array.shape, np.float32) * np.float32(0.1)


# -- mutations --------------------------------------------------------------------------------------------------------
def _of(model: ModelProto, *ops: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type in ops]


def _attribute(node: NodeProto, name: str, default: object) -> object:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _set(node: NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _dropped(nodes: list[NodeProto]) -> bool:
    """Makes nodes hand on their first input."""
    for node in nodes:
        node.op_type = "Identity"
        del node.input[1:], node.output[1:], node.attribute[:]
    return bool(nodes)


def drop_relus(model: ModelProto) -> bool:
    return _dropped(_of(model, "Relu"))


def drop_residuals(model: ModelProto) -> bool:
    return _dropped(_of(model, "Sum"))


def drop_response_normalisation(model: ModelProto) -> bool:
    return _dropped(_of(model, "LRN"))


def drop_channel_shuffles(model: ModelProto) -> bool:
    return _dropped(_of(model, "Transpose"))


def drop_biases(model: ModelProto) -> bool:
    biased = [node for node in _of(model, "Conv") if len(node.input) == 3]
    for node in biased:
        del node.input[2]
    return bool(biased)


def shift_pads(model: ModelProto) -> bool:
    """Every padded convolution one pixel down and to the right."""
    padded = [node for node in _of(model, "Conv") if any(_attribute(node, "pads", []))]
    for node in padded:
        top, left, bottom, right = _attribute(node, "pads", [])
        _set(node, "pads", [top + 1, left + 1, bottom - 1, right - 1])
    return bool(padded)


def reverse_concatenations(model: ModelProto) -> bool:
    for node in _of(model, "Concat"):
        node.input[:] = list(reversed(node.input))
    return bool(_of(model, "Concat"))


def swap_gamma_and_beta(model: ModelProto) -> bool:
    return _swapped(model, 1, 2)


def swap_mean_and_gamma(model: ModelProto) -> bool:
    return _swapped(model, 1, 3)


def _swapped(model: ModelProto, a: int, b: int) -> bool:
    nodes = _of(model, "BatchNormalization")
    for node in nodes:
        node.input[a], node.input[b] = node.input[b], node.input[a]
    return bool(nodes)


def average_instead_of_maximum(model: ModelProto) -> bool:
    nodes = _of(model, "MaxPool")
    for node in nodes:
        node.op_type = "AveragePool"
    return bool(nodes)


def average_over_padding(model: ModelProto) -> bool:
    nodes = [node for node in _of(model, "AveragePool") if any(_attribute(node, "pads", []))]
    for node in nodes:
        _set(node, "count_include_pad", 1)
    return bool(nodes)


def flip_filters(model: ModelProto) -> bool:
    """Convolution as mathematicians define it."""
    weights = {node.input[1] for node in _of(model, "Conv")}
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            flipped = np.ascontiguousarray(numpy_helper.to_array(tensor)[..., ::-1, ::-1])
            tensor.CopyFrom(numpy_helper.from_array(flipped, tensor.name))
    return bool(weights)


Mutation = Callable[[ModelProto], bool]
"""Changes a model; False where it has nothing to change."""

MUTATIONS: tuple[Mutation, ...] = (
    drop_relus,
    drop_residuals,
    drop_response_normalisation,
    drop_channel_shuffles,
    drop_biases,
    shift_pads,
    reverse_concatenations,
    swap_gamma_and_beta,
    swap_mean_and_gamma,
    average_instead_of_maximum,
    average_over_padding,
    flip_filters,
)


def mutants(model: ModelProto) -> Iterator[tuple[str, ModelProto]]:
    """The mutations that a network can have, by name."""
    for mutate in MUTATIONS:
        mutant = ModelProto()
        mutant.CopyFrom(model)
        if mutate(mutant):
            yield mutate.__name__, mutant
