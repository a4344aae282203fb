"""DenseNet-121 (Huang et al. 2016), as torchvision defines it."""

from __future__ import annotations

from ..dsl import Network, Tensor, concat

BLOCKS = (6, 12, 24, 16)
GROWTH = 32


def densenet121(net: Network, size: int = 224, classes: int = 1000) -> None:
    x = net.input(3, size, size).conv(64, 7, stride=2, padding=3, bias=False, name="stem")
    x = x.batch_norm(name="stem.bn").relu().max_pool(3, stride=2, padding=1)
    for index, layers in enumerate(BLOCKS):
        for layer in range(layers):
            x = dense_layer(x, f"block{index + 1}.layer{layer + 1}")
        if index + 1 < len(BLOCKS):
            x = _activated(x, f"transition{index + 1}").conv(x.channels // 2, 1, bias=False, gain=2**0.5).avg_pool(2)
    net.output(_activated(x, "final").global_avg_pool().dense(classes))


def dense_layer(x: Tensor, name: str) -> Tensor:
    """Batch-norm, ReLU, 1x1 and the same with 3x3, concatenated to the input."""
    y = _activated(x, f"{name}.a").conv(4 * GROWTH, 1, bias=False, name=f"{name}.a.conv")
    y = _activated(y, f"{name}.b").conv(GROWTH, 3, padding=1, bias=False, name=f"{name}.b.conv")
    return concat([x, y], name=name)


def _activated(x: Tensor, name: str) -> Tensor:
    return x.batch_norm(name=f"{name}.bn").relu()
