"""DenseNet-121, 161, 169 and 201 (Huang et al. 2016), as torchvision defines them."""

from __future__ import annotations

from ..dsl import Network, Tensor, concat

CONFIGURATIONS: dict[int, tuple[int, tuple[int, int, int, int]]] = {
    121: (32, (6, 12, 24, 16)),
    161: (48, (6, 12, 36, 24)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
}
"""Depth → channels that a layer adds (the growth), and the number of layers in each block."""


def densenet(net: Network, depth: int, size: int = 224, classes: int = 1000) -> None:
    """The network of that many layers; the stem has twice the growth in filters."""
    growth, blocks = CONFIGURATIONS[depth]
    x = net.input(3, size, size).conv(2 * growth, 7, stride=2, padding=3, bias=False, name="stem")
    x = x.batch_norm(name="stem.bn").relu().max_pool(3, stride=2, padding=1)
    for index, layers in enumerate(blocks):
        for layer in range(layers):
            x = dense_layer(x, growth, f"block{index + 1}.layer{layer + 1}")
        if index + 1 < len(blocks):
            x = _activated(x, f"transition{index + 1}").conv(x.channels // 2, 1, bias=False, gain=2**0.5).avg_pool(2)
    net.output(_activated(x, "final").global_avg_pool().dense(classes))


def dense_layer(x: Tensor, growth: int, name: str) -> Tensor:
    """Batch-norm, ReLU, 1x1 and the same with 3x3, concatenated to the input."""
    y = _activated(x, f"{name}.a").conv(4 * growth, 1, bias=False, name=f"{name}.a.conv")
    y = _activated(y, f"{name}.b").conv(growth, 3, padding=1, bias=False, name=f"{name}.b.conv")
    return concat([x, y], name=name)


def _activated(x: Tensor, name: str) -> Tensor:
    return x.batch_norm(name=f"{name}.bn").relu()
