"""EfficientNet-B0 (Tan & Le 2019), as torchvision defines it: inverted residuals with squeeze-and-excitation."""

from __future__ import annotations

from ..dsl import Network, Tensor

STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
"""Expansion, kernel, stride, filters and repetitions of each stage."""

LINEAR_INPUT = 0.6
"""Gain of a convolution whose input was not rectified, and so has a larger variance."""

GATED_INPUT = 2.0
"""Gain of a convolution whose input was multiplied by a sigmoid, which is about a half."""


def efficientnet_b0(net: Network, size: int = 224, classes: int = 1000) -> None:
    x = _conv(net.input(3, size, size), 32, 3, 2, "stem", gain=LINEAR_INPUT).silu()
    index = 0
    for expansion, kernel, stride, filters, repetitions in STAGES:
        for repetition in range(repetitions):
            index += 1
            x = mbconv(x, expansion, kernel, 1 if repetition else stride, filters, f"block{index}")
    x = _conv(x, 1280, 1, 1, "head", gain=LINEAR_INPUT).silu()
    net.output(x.global_avg_pool().dropout(0.2).dense(classes))


def mbconv(x: Tensor, expansion: int, kernel: int, stride: int, filters: int, name: str) -> Tensor:
    """Expansion, depthwise convolution, squeeze-and-excitation, projection; a shortcut where the shape is kept."""
    y = x
    if expansion != 1:
        y = _conv(y, expansion * x.channels, 1, 1, f"{name}.expand", gain=LINEAR_INPUT).silu()
    y = y.depthwise(kernel, stride, kernel // 2, bias=False, name=f"{name}.dw").batch_norm(name=f"{name}.dw.bn").silu()
    y = y.squeeze_excitation(max(1, x.channels // 4), "silu", name=f"{name}.se")
    keeps_shape = stride == 1 and x.channels == filters
    y = _conv(y, filters, 1, 1, f"{name}.project", gain=GATED_INPUT * (0.5 if keeps_shape else 1))
    return x.add(y, name=f"{name}.add") if keeps_shape else y


def _conv(x: Tensor, filters: int, kernel: int, stride: int, name: str, gain: float) -> Tensor:
    y = x.conv(filters, kernel, stride, padding=kernel // 2, bias=False, gain=gain, name=f"{name}.conv")
    return y.batch_norm(name=f"{name}.bn")
