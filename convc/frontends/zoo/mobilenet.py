"""MobileNet v1 (Howard et al. 2017), v2 (Sandler et al. 2018) and v3 (Howard et al. 2019): depthwise and pointwise."""

from __future__ import annotations

from ..dsl import Network, Tensor

V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""Filters and stride of each separable convolution."""

V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, filters, repetitions and stride of each group of inverted residuals."""

Row = tuple[int, int, int, bool, bool, int]
"""Kernel, expanded channels, filters, whether squeeze-and-excitation and hard-swish, stride."""

V3_LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    *((5, 120, 40, True, False, 1),) * 2,
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    *((3, 184, 80, False, True, 1),) * 2,
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    *((5, 960, 160, True, True, 1),) * 2,
)
V3_SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    *((5, 240, 40, True, True, 1),) * 2,
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    *((5, 576, 96, True, True, 1),) * 2,
)
V3: dict[str, tuple[tuple[Row, ...], int]] = {"large": (V3_LARGE, 1280), "small": (V3_SMALL, 1024)}
"""Tables 1 and 2 of the paper, and the units of the layer in front of the last."""

LINEAR_INPUT = 0.6
"""Gain of a convolution whose input was not rectified, and so has a larger variance."""

GATED_INPUT = 2.0
"""Gain of a convolution whose input was multiplied by a gate, which is about a half."""


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


def mobilenet_v3(net: Network, version: str, size: int = 224, classes: int = 1000) -> None:
    """As torchvision defines it."""
    rows, units = V3[version]
    x = _normalised(
        net.input(3, size, size).conv(16, 3, 2, padding=1, bias=False, name="stem"), "stem", 1e-3
    ).hard_swish()
    for index, row in enumerate(rows):
        x = bneck(x, row, f"block{index + 1}")
    x = x.conv(6 * x.channels, 1, bias=False, gain=LINEAR_INPUT, name="head")
    x = _normalised(x, "head", 1e-3).hard_swish().global_avg_pool()
    net.output(x.dense(units).hard_swish().dropout(0.2).dense(classes))


def bneck(x: Tensor, row: Row, name: str) -> Tensor:
    """An inverted residual with an activation and a gate of its own."""
    kernel, expanded, filters, gated, swish, stride = row

    def activated(y: Tensor) -> Tensor:
        return y.hard_swish() if swish else y.relu()

    y = x
    if expanded != x.channels:
        y = y.conv(expanded, 1, bias=False, gain=LINEAR_INPUT, name=f"{name}.expand")
        y = activated(_normalised(y, f"{name}.expand", 1e-3))
    y = y.depthwise(kernel, stride, kernel // 2, bias=False, name=f"{name}.dw")
    y = activated(_normalised(y, f"{name}.dw", 1e-3))
    if gated:
        y = y.squeeze_excitation(_divisible(expanded // 4), gate="hard_sigmoid", name=f"{name}.se")
    keeps_shape = stride == 1 and x.channels == filters
    gain = (GATED_INPUT if gated else 1.0) * (0.5 if keeps_shape else 1.0)
    y = _normalised(y.conv(filters, 1, bias=False, gain=gain, name=f"{name}.project"), f"{name}.project", 1e-3)
    return x.add(y, name=f"{name}.add") if keeps_shape else y


def _divisible(channels: int) -> int:
    """The nearest multiple of 8 that is not more than a tenth smaller."""
    nearest = max(8, (channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _normalised(x: Tensor, name: str, epsilon: float = 1e-5) -> Tensor:
    return x.batch_norm(epsilon=epsilon, name=f"{name}.bn")
