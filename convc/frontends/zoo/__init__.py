"""The zoo, `convc.zoo`: networks of the literature written in the DSL, with weights drawn from a seed.

    net = zoo.build("resnet50", batch=8)

Networks that a paper ends in a softmax end in one here; those that follow torchvision's definitions end in logits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from ... import errors
from ..dsl import Network
from .alexnet import alexnet, zfnet
from .alphago import alphago_policy
from .classical import classical
from .densenet import CONFIGURATIONS as DENSENETS
from .densenet import densenet
from .efficientnet import efficientnet_b0
from .espcn import espcn
from .googlenet import googlenet
from .inception import inception_v3
from .lenet import convnetjs_cifar10, lenet5
from .linear import linear_classifier, perceptron, two_layer
from .mobilenet import mobilenet_v1, mobilenet_v2, mobilenet_v3
from .nasnet import nasnet_mobile
from .openpose import openpose
from .resnet import resnet, resnet_cifar
from .rpn import faster_rcnn_rpn
from .segmentation import fcn8s, unet
from .squeezenet import squeezenet
from .vgg import vgg
from .yolo import tiny_yolo_v2, yolo_v3_tiny

__all__ = ["build", "classical", "describe", "names"]

NETWORKS: dict[str, Callable[..., None]] = {
    "perceptron": perceptron,
    "linear_classifier": linear_classifier,
    "two_layer": two_layer,
    "lenet5": lenet5,
    "convnetjs_cifar10": convnetjs_cifar10,
    "alexnet": alexnet,
    "zfnet": zfnet,
    "vgg11": partial(vgg, configuration="A"),
    "vgg11_lrn": partial(vgg, configuration="A-LRN"),
    "vgg13": partial(vgg, configuration="B"),
    "vgg16_c": partial(vgg, configuration="C"),
    "vgg16": partial(vgg, configuration="D"),
    "vgg19": partial(vgg, configuration="E"),
    "googlenet": googlenet,
    "inception_v3": inception_v3,
    **{f"resnet{depth}": partial(resnet, depth=depth) for depth in (18, 34, 50, 101, 152)},
    "wide_resnet50": partial(resnet, depth=50, base_width=128),
    "wide_resnet101": partial(resnet, depth=101, base_width=128),
    "resnext50": partial(resnet, depth=50, groups=32, base_width=4),
    "resnext101": partial(resnet, depth=101, groups=32, base_width=8),
    "se_resnet50": partial(resnet, depth=50, squeeze=16),
    **{f"resnet{depth}": partial(resnet_cifar, depth=depth) for depth in (20, 32, 44, 56, 110)},
    **{f"densenet{depth}": partial(densenet, depth=depth) for depth in DENSENETS},
    "squeezenet1_0": partial(squeezenet, version="1_0"),
    "squeezenet1_1": partial(squeezenet, version="1_1"),
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "mobilenet_v3_large": partial(mobilenet_v3, version="large"),
    "mobilenet_v3_small": partial(mobilenet_v3, version="small"),
    "efficientnet_b0": efficientnet_b0,
    "nasnet_mobile": nasnet_mobile,
    "unet": unet,
    "fcn8s": fcn8s,
    "tiny_yolo_v2": tiny_yolo_v2,
    "yolo_v3_tiny": yolo_v3_tiny,
    "faster_rcnn_rpn": faster_rcnn_rpn,
    "openpose": openpose,
    "espcn": espcn,
    "alphago_policy": alphago_policy,
}
"""Name → what writes it into an empty network."""


def names() -> list[str]:
    """Names of all networks."""
    return list(NETWORKS)


def build(name: str, batch: int | str = 1, *, seed: int = 0, weights: str = "random", **options: Any) -> Network:
    """The network ``name``.

    batch: a number, or the name of a symbol. seed, weights: see `Network`. options: of the network's
    definition, such as ``size`` (side of the input), ``classes`` or ResNet's ``stride_in_1x1``.

    Raises:
        UsageError: a name or an option that does not exist.
    """
    if name not in NETWORKS:
        raise errors.one_of(name, NETWORKS, "network")
    write = NETWORKS[name]
    for option in options:
        if option not in _options(write):
            raise errors.one_of(option, _options(write), f"option of {name}:")
    net = Network(name, batch=batch, seed=seed, weights=weights)
    write(net, **options)
    return net


def _options(write: Callable[..., None]) -> list[str]:
    fixed = {"net", *(write.keywords if isinstance(write, partial) else ())}
    return [parameter for parameter in inspect.signature(write).parameters if parameter not in fixed]


def describe() -> list[dict[str, Any]]:
    """One row for each network: ``name``, ``input_shape``, ``params`` and ``macs`` at batch 1. Draws no weights."""
    networks = [build(name, weights="none") for name in NETWORKS]
    return [
        {"name": net.name, "input_shape": list(net.input_shape), "params": net.params, "macs": net.macs}
        for net in networks
    ]
