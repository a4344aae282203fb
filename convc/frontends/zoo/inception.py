"""Inception-v3 (Szegedy et al. 2015), as torchvision defines it: factored convolutions, no auxiliary head."""

from __future__ import annotations

from ..dsl import Network, Tensor, concat

Step = tuple[int, int | tuple[int, int]]
"""Filters and kernel of a convolution of stride 1 that keeps the size."""


def inception_v3(net: Network, size: int = 299, classes: int = 1000) -> None:
    x = net.input(3, size, size)
    x = _conv(x, 32, 3, "stem1", stride=2)
    x = _conv(x, 32, 3, "stem2")
    x = _conv(x, 64, 3, "stem3", padding=1).max_pool(3, stride=2)
    x = _conv(_conv(x, 80, 1, "stem4"), 192, 3, "stem5").max_pool(3, stride=2)
    for index, projection in enumerate((32, 64, 64)):
        x = _module_35(x, projection, f"mixed_5{'bcd'[index]}")
    x = _reduction_35(x, "mixed_6a")
    for index, middle in enumerate((128, 160, 160, 192)):
        x = _module_17(x, middle, f"mixed_6{'bcde'[index]}")
    x = _reduction_17(x, "mixed_7a")
    for letter in "bc":
        x = _module_8(x, f"mixed_7{letter}")
    net.output(x.global_avg_pool().dropout().dense(classes))


def _module_35(x: Tensor, projection: int, name: str) -> Tensor:
    """Figure 5 of the paper: a 5x5 branch, and one of two 3x3."""
    branches = [
        _chain(x, [(64, 1)], f"{name}.1x1"),
        _chain(x, [(48, 1), (64, 5)], f"{name}.5x5"),
        _chain(x, [(64, 1), (96, 3), (96, 3)], f"{name}.double3x3"),
        _projection(x, projection, name),
    ]
    return concat(branches, name=name)


def _reduction_35(x: Tensor, name: str) -> Tensor:
    double = _chain(x, [(64, 1), (96, 3)], f"{name}.double3x3")
    branches = [
        _conv(x, 384, 3, f"{name}.3x3", stride=2),
        _conv(double, 96, 3, f"{name}.double3x3.last", stride=2),
        x.max_pool(3, stride=2, name=f"{name}.pool"),
    ]
    return concat(branches, name=name)


def _module_17(x: Tensor, middle: int, name: str) -> Tensor:
    """Figure 6: 7x7 as 1x7 and 7x1."""
    row, column = (1, 7), (7, 1)
    branches = [
        _chain(x, [(192, 1)], f"{name}.1x1"),
        _chain(x, [(middle, 1), (middle, row), (192, column)], f"{name}.7x7"),
        _chain(x, [(middle, 1), (middle, column), (middle, row), (middle, column), (192, row)], f"{name}.double7x7"),
        _projection(x, 192, name),
    ]
    return concat(branches, name=name)


def _reduction_17(x: Tensor, name: str) -> Tensor:
    three, seven = (
        _chain(x, [(192, 1)], f"{name}.3x3"),
        _chain(x, [(192, 1), (192, (1, 7)), (192, (7, 1))], f"{name}.7x7"),
    )
    branches = [
        _conv(three, 320, 3, f"{name}.3x3.last", stride=2),
        _conv(seven, 192, 3, f"{name}.7x7.last", stride=2),
        x.max_pool(3, stride=2, name=f"{name}.pool"),
    ]
    return concat(branches, name=name)


def _module_8(x: Tensor, name: str) -> Tensor:
    """Figure 7: 1x3 and 3x1 side by side."""
    three, double = _chain(x, [(384, 1)], f"{name}.3x3"), _chain(x, [(448, 1), (384, 3)], f"{name}.double3x3")
    branches = [
        _chain(x, [(320, 1)], f"{name}.1x1"),
        *(
            _chain(y, [(384, kernel)], f"{y.name}.{kernel[0]}x{kernel[1]}")
            for y in (three, double)
            for kernel in ((1, 3), (3, 1))
        ),
        _projection(x, 192, name),
    ]
    return concat(branches, name=name)


def _projection(x: Tensor, filters: int, name: str) -> Tensor:
    """Means of 3x3 windows, the padding included as PyTorch does, then 1x1."""
    return _conv(x.avg_pool(3, 1, 1, count_include_pad=True, name=f"{name}.pool"), filters, 1, f"{name}.pool_proj")


def _chain(x: Tensor, steps: list[Step], name: str) -> Tensor:
    for index, (filters, kernel) in enumerate(steps):
        x = _conv(x, filters, kernel, f"{name}.{index + 1}", padding="same")
    return x


def _conv(
    x: Tensor, filters: int, kernel: int | tuple[int, int], name: str, stride: int = 1, padding: int | str = 0
) -> Tensor:
    y = x.conv(filters, kernel, stride, padding, bias=False, name=f"{name}.conv")
    return y.batch_norm(epsilon=1e-3, name=f"{name}.bn").relu(name=name)
