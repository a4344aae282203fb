"""Networks that label every pixel: U-Net (Ronneberger et al. 2015) and FCN-8s (Long et al. 2014)."""

from __future__ import annotations

import numpy as np

from ..dsl import Network, Tensor, concat
from .vgg import features

DEPTH = 4


def unet(net: Network, size: int = 572, channels: int = 1, classes: int = 2, filters: int = 64) -> None:
    """The paper's figure 1: convolutions without padding, so that 572 x 572 pixels give labels for 388 x 388."""
    x = net.input(channels, size, size)
    across = []
    for level in range(DEPTH):
        x = _twice(x, filters << level, f"down{level + 1}")
        across.append(x)
        x = x.max_pool(2)
    x = _twice(x, filters << DEPTH, "bottom")
    for level in reversed(range(DEPTH)):
        x = x.conv_transpose(filters << level, 2, 2, name=f"up{level + 1}.conv").relu()
        x = _twice(concat([_cropped(across[level], x), x]), filters << level, f"up{level + 1}")
    net.output(x.conv(classes, 1, name="labels"))


def _twice(x: Tensor, filters: int, name: str) -> Tensor:
    for step in (1, 2):
        x = x.conv(filters, 3, name=f"{name}.{step}").relu()
    return x


def _cropped(x: Tensor, like: Tensor) -> Tensor:
    """The middle of ``x``, as large as ``like``."""
    cuts = [(int(have) - int(want)) // 2 for have, want in zip(x.shape[2:], like.shape[2:], strict=True)]  # type: ignore[arg-type]
    rows, columns = (slice(cut, cut + int(want)) for cut, want in zip(cuts, like.shape[2:], strict=True))  # type: ignore[arg-type]
    return x[:, :, rows, columns]


def fcn8s(net: Network, size: int = 224, classes: int = 21) -> None:
    """VGG-16 with its dense layers as convolutions; scores of three scales are enlarged bilinearly and added.

    Padded such that every enlargement is exact; the paper's own model pads the image by 100 pixels and crops instead.
    """
    *_, third, fourth, x = features(net.input(3, size, size))
    x = x.conv(4096, 7, padding=3, name="fc6").relu().conv(4096, 1, name="fc7").relu()
    x = enlarged(x.conv(classes, 1, name="score"), 2, "score2")
    x = enlarged(x.add(fourth.conv(classes, 1, name="score_pool4")), 2, "score4")
    x = x.add(third.conv(classes, 1, name="score_pool3"))
    net.output(enlarged(x, 8, "labels"))


def enlarged(x: Tensor, scale: int, name: str) -> Tensor:
    """A transposed convolution that interpolates each class by itself, as training begins with it."""
    line = 1 - np.abs(np.arange(2 * scale) - scale + 0.5) / scale
    weight = np.eye(x.channels)[:, :, None, None] * np.outer(line, line)
    return x.conv_transpose(x.channels, 2 * scale, scale, scale // 2, bias=False, weight=weight, name=name)
