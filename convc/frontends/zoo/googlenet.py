"""GoogLeNet (Szegedy et al. 2014) as its paper has it: 5x5 branches, local response normalisation, no batch-norm."""

from __future__ import annotations

from ..dsl import Network, Tensor, concat

Module = tuple[int, int, int, int, int, int]
"""Filters of an inception module: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection."""

STAGES: dict[str, dict[str, Module]] = {
    "3": {"a": (64, 96, 128, 16, 32, 32), "b": (128, 128, 192, 32, 96, 64)},
    "4": {
        "a": (192, 96, 208, 16, 48, 64),
        "b": (160, 112, 224, 24, 64, 64),
        "c": (128, 128, 256, 24, 64, 64),
        "d": (112, 144, 288, 32, 64, 64),
        "e": (256, 160, 320, 32, 128, 128),
    },
    "5": {"a": (256, 160, 320, 32, 128, 128), "b": (384, 192, 384, 48, 128, 128)},
}


def googlenet(net: Network, size: int = 224, classes: int = 1000) -> None:
    """The network that is deployed: without the two auxiliary classifiers."""
    x = net.input(3, size, size)
    x = x.conv(64, 7, stride=2, padding=3, name="conv1").relu().max_pool(3, stride=2, ceil=True).lrn()
    x = x.conv(64, 1, gain=1.7, name="conv2_reduce").relu()
    x = x.conv(192, 3, padding=1, name="conv2").relu().lrn().max_pool(3, stride=2, ceil=True)
    for stage, modules in STAGES.items():
        if stage != "3":
            x = x.max_pool(3, stride=2, ceil=True)
        for letter, filters in modules.items():
            x = inception(x, filters, f"inception_{stage}{letter}")
    net.output(x.global_avg_pool().dropout(0.4).dense(classes).softmax())


def inception(x: Tensor, filters: Module, name: str) -> Tensor:
    """Four branches side by side, concatenated along the channels."""
    one, reduce3, three, reduce5, five, projection = filters

    def conv(x: Tensor, filters: int, kernel: int, branch: str) -> Tensor:
        return x.conv(filters, kernel, padding=kernel // 2, name=f"{name}.{branch}").relu()

    return concat(
        [
            conv(x, one, 1, "1x1"),
            conv(conv(x, reduce3, 1, "3x3_reduce"), three, 3, "3x3"),
            conv(conv(x, reduce5, 1, "5x5_reduce"), five, 5, "5x5"),
            conv(x.max_pool(3, stride=1, padding=1, name=f"{name}.pool"), projection, 1, "pool_proj"),
        ],
        name=name,
    )
