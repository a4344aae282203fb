"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016), as torchvision defines them."""

from __future__ import annotations

from ..dsl import Network, Tensor, concat

Stage = tuple[int, ...]
"""Squeeze filters of the fire modules between two poolings; each expands to four times as many, twice."""

VERSIONS: dict[str, tuple[int, int, tuple[Stage, ...]]] = {
    "1_0": (96, 7, ((16, 16, 32), (32, 48, 48, 64), (64,))),
    "1_1": (64, 3, ((16, 16), (32, 32), (48, 48, 64, 64))),
}
"""Filters and kernel of the stem, then the fire modules."""


def squeezenet(net: Network, version: str, size: int = 224, classes: int = 1000) -> None:
    filters, kernel, stages = VERSIONS[version]
    x = net.input(3, size, size).conv(filters, kernel, stride=2, name="stem").relu()
    index = 1
    for stage in stages:
        x = x.max_pool(3, stride=2, ceil=True)
        for squeeze in stage:
            index += 1
            x = fire(x, squeeze, f"fire{index}")
    x = x.dropout().conv(classes, 1, name="classifier").relu()
    net.output(x.global_avg_pool().flatten())


def fire(x: Tensor, squeeze: int, name: str) -> Tensor:
    """A 1x1 convolution that squeezes, then 1x1 and 3x3 convolutions side by side."""
    x = x.conv(squeeze, 1, name=f"{name}.squeeze").relu()
    one = x.conv(4 * squeeze, 1, name=f"{name}.expand1x1").relu()
    three = x.conv(4 * squeeze, 3, padding=1, name=f"{name}.expand3x3").relu()
    return concat([one, three], name=name)
