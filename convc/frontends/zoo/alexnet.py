"""AlexNet (Krizhevsky et al. 2012) in a single column, and ZFNet (Zeiler & Fergus 2013)."""

from __future__ import annotations

from ..dsl import Network


def alexnet(net: Network, size: int = 227, classes: int = 1000) -> None:
    """AlexNet without its two columns: sides 55, 27, 27, 13, 13, 13, 13, 13, 6 for an input of 227."""
    x = net.input(3, size, size)
    x = x.conv(96, 11, stride=4).relu().max_pool(3, stride=2).lrn()
    x = x.conv(256, 5, padding=2, gain=1.7).relu().max_pool(3, stride=2).lrn()
    x = x.conv(384, 3, padding=1, gain=1.7).relu()
    x = x.conv(384, 3, padding=1).relu()
    x = x.conv(256, 3, padding=1).relu().max_pool(3, stride=2)
    x = x.dense(4096).relu().dropout().dense(4096).relu().dropout()
    net.output(x.dense(classes).softmax())


def zfnet(net: Network, size: int = 225, classes: int = 1000) -> None:
    """ZFNet: AlexNet with a first convolution of 7x7/2, a second one of stride 2, and wider later layers."""
    x = net.input(3, size, size)
    x = x.conv(96, 7, stride=2, padding=1).relu().max_pool(3, stride=2, padding=1).lrn()
    x = x.conv(256, 5, stride=2, gain=1.7).relu().max_pool(3, stride=2, padding=1).lrn()
    x = x.conv(512, 3, padding=1, gain=1.7).relu()
    x = x.conv(1024, 3, padding=1).relu()
    x = x.conv(512, 3, padding=1).relu().max_pool(3, stride=2)
    x = x.dense(4096).relu().dropout().dense(4096).relu().dropout()
    net.output(x.dense(classes).softmax())
