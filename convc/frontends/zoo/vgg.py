"""VGG (Simonyan & Zisserman 2014): 3x3 convolutions of stride 1 and 2x2 max pooling."""

from __future__ import annotations

from ..dsl import Network, Tensor

CONFIGURATIONS: dict[str, tuple[int, int, int, int, int]] = {
    "A": (1, 1, 2, 2, 2),
    "A-LRN": (1, 1, 2, 2, 2),
    "B": (2, 2, 2, 2, 2),
    "C": (2, 2, 3, 3, 3),
    "D": (2, 2, 3, 3, 3),
    "E": (2, 2, 4, 4, 4),
}
"""Convolutions in each of the five stages, by the paper's letter; A has 11 layers, D 16, E 19."""


def vgg(net: Network, configuration: str, size: int = 224, classes: int = 1000) -> None:
    """One configuration of the paper's table 1."""
    x = features(net.input(3, size, size), configuration)[-1]
    x = x.dense(4096).relu().dropout().dense(4096).relu().dropout()
    net.output(x.dense(classes).softmax())


def features(x: Tensor, configuration: str = "D", last_pool: bool = True) -> list[Tensor]:
    """What the five stages give, each behind its pooling; ``last_pool``: the last one too."""
    found: list[Tensor] = []
    for stage, depth in enumerate(CONFIGURATIONS[configuration]):
        x = _stage(x, configuration, stage, depth)
        if last_pool or stage < 4:
            x = x.max_pool(2, name=f"pool{stage + 1}")
        found.append(x)
    return found


def _stage(x: Tensor, configuration: str, stage: int, depth: int) -> Tensor:
    filters = min(64 << stage, 512)
    for layer in range(depth):
        pointwise = configuration == "C" and layer == 2
        kernel, padding = (1, 0) if pointwise else (3, 1)
        x = x.conv(filters, kernel, padding=padding, name=f"conv{stage + 1}_{layer + 1}").relu()
    return x.lrn() if configuration == "A-LRN" and stage == 0 else x
