"""LeNet-5 (LeCun et al. 1998) and the ConvNetJS demonstration network for CIFAR-10."""

from __future__ import annotations

from ..dsl import Network


def lenet5(net: Network, size: int = 32, classes: int = 10) -> None:
    """LeNet-5 for digits of 32x32, or of 28x28 with the first convolution padded.

    Subsampling is average pooling, C3 is connected to all maps of S2, and the output layer is dense.
    """
    x = net.input(1, size, size)
    x = x.conv(6, 5, padding=2 if size == 28 else 0, name="C1").tanh().avg_pool(2, name="S2")
    x = x.conv(16, 5, gain=2, name="C3").tanh().avg_pool(2, name="S4")
    x = x.conv(120, 5, gain=2, name="C5").tanh()
    net.output(x.dense(84, name="F6").tanh().dense(classes).softmax())


def convnetjs_cifar10(net: Network, size: int = 32, classes: int = 10) -> None:
    """Three times convolution, ReLU and 2x2 max pooling, as in ConvNetJS's CIFAR-10 demonstration."""
    x = net.input(3, size, size)
    for filters in (16, 20, 20):
        x = x.conv(filters, 5, padding=2).relu().max_pool(2)
    net.output(x.dense(classes).softmax())
