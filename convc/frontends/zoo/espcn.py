"""ESPCN (Shi et al. 2016): super-resolution of a luminance image by a sub-pixel convolution."""

from __future__ import annotations

from ..dsl import Network


def espcn(net: Network, scale: int = 3, size: int = 64) -> None:
    """[N, 1, size, size] → [N, 1, scale · size, scale · size]."""
    x = net.input(1, size, size)
    x = x.conv(64, 5, padding=2).tanh().conv(32, 3, padding=1, gain=2).tanh()
    net.output(x.conv(scale**2, 3, padding=1, gain=2).depth_to_space(scale, "CRD"))
