"""MobileNet v1 (Howard et al. 2017) and v2 (Sandler et al. 2018): depthwise and pointwise convolutions."""

from __future__ import annotations

from ..dsl import Network, Tensor

V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Filters and stride of each separable convolution."""

V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, filters, repetitions and stride of each group of inverted residuals."""

LINEAR_INPUT = 0.6
"""Gain of a convolution whose input was not rectified, and so has a larger variance."""


def mobilenet_v1(net: Network, size: int = 224, classes: int = 1000) -> None:
    x = net.input(3, size, size)
    x = _normalised(x.conv(32, 3, 2, padding=1, bias=False, name="stem"), "stem").relu()
    for index, (filters, stride) in enumerate(V1):
        name = f"block{index + 1}"
        x = _normalised(x.depthwise(3, stride, 1, bias=False, name=f"{name}.dw"), f"{name}.dw").relu()
        x = _normalised(x.conv(filters, 1, bias=False, name=f"{name}.pw"), f"{name}.pw").relu()
    net.output(x.global_avg_pool().dense(classes))


def mobilenet_v2(net: Network, size: int = 224, classes: int = 1000) -> None:
    """As torchvision defines it."""
    x = net.input(3, size, size)
    x = _normalised(x.conv(32, 3, 2, padding=1, bias=False, name="stem"), "stem").relu6()
    index = 0
    for expansion, filters, repetitions, stride in V2:
        for repetition in range(repetitions):
            index += 1
            x = inverted_residual(x, expansion, filters, 1 if repetition else stride, f"block{index}")
    x = _normalised(x.conv(1280, 1, bias=False, gain=LINEAR_INPUT, name="head"), "head").relu6()
    net.output(x.global_avg_pool().dropout(0.2).dense(classes))


def inverted_residual(x: Tensor, expansion: int, filters: int, stride: int, name: str) -> Tensor:
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection; a shortcut where the shape is kept."""
    y = x
    if expansion != 1:
        y = y.conv(expansion * x.channels, 1, bias=False, gain=LINEAR_INPUT, name=f"{name}.expand")
        y = _normalised(y, f"{name}.expand").relu6()
    y = _normalised(y.depthwise(3, stride, 1, bias=False, name=f"{name}.dw"), f"{name}.dw").relu6()
    y = _normalised(y.conv(filters, 1, bias=False, name=f"{name}.project"), f"{name}.project")
    return x.add(y, name=f"{name}.add") if stride == 1 and x.channels == filters else y


def _normalised(x: Tensor, name: str) -> Tensor:
    return x.batch_norm(name=f"{name}.bn")
