"""AlphaGo's policy network (Silver et al. 2016)."""

from __future__ import annotations

from ..dsl import Network


def alphago_policy(net: Network, filters: int = 192, size: int = 19, planes: int = 48) -> None:
    """Probabilities of the next move over 19 x 19 points, from 48 feature planes.

    One 5x5 and eleven 3x3 convolutions, then a 1x1 convolution with one filter, a bias of its own for each
    point, and a softmax.
    """
    x = net.input(planes, size, size)
    x = x.conv(filters, 5, padding=2).relu()
    for _ in range(11):
        x = x.conv(filters, 3, padding=1).relu()
    net.output(x.conv(1, 1, bias=False).bias().flatten().softmax())
