"""OpenPose's network for the 18 key points of COCO (Cao et al. 2016): VGG features, then stages of two branches."""

from __future__ import annotations

from ..dsl import Network, Tensor, concat

LIMBS, PARTS = 38, 19
"""Channels of the two branches: x and y of 19 part affinity fields, and 18 confidence maps with the background."""


def openpose(net: Network, stages: int = 2, size: int = 368) -> None:
    """Both branches' maps at an eighth of the size; the published network has six stages."""
    x = net.input(3, size, size)
    for stage, (filters, depth) in enumerate(((64, 2), (128, 2), (256, 4))):
        for layer in range(depth):
            x = _conv(x, filters, 3, f"conv{stage + 1}_{layer + 1}")
        x = x.max_pool(2)
    for layer, filters in enumerate((512, 512, 256, 128)):
        x = _conv(x, filters, 3, f"conv4_{layer + 1}")
    features = x
    for stage in range(stages):
        limbs, parts = (_branch(x, channels, not stage, f"stage{stage + 1}.{branch}") for branch, channels in BRANCHES)
        x = concat([limbs, parts, features], name=f"stage{stage + 1}.maps") if stage + 1 < stages else x
    net.output(limbs, "limbs")
    net.output(parts, "parts")


BRANCHES = (("limbs", LIMBS), ("parts", PARTS))


def _branch(x: Tensor, channels: int, first: bool, name: str) -> Tensor:
    """Three 3x3 convolutions in the first stage, five 7x7 in the others, then two 1x1."""
    for layer in range(3 if first else 5):
        x = _conv(x, 128, 3 if first else 7, f"{name}.{layer + 1}")
    x = _conv(x, 512 if first else 128, 1, f"{name}.wide")
    return x.conv(channels, 1, name=name)


def _conv(x: Tensor, filters: int, kernel: int, name: str) -> Tensor:
    return x.conv(filters, kernel, padding=kernel // 2, name=f"{name}.conv").relu(name=name)
