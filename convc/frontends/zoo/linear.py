"""What comes before convolutional networks: a perceptron, a linear classifier, and two layers of units."""

from __future__ import annotations

from ..dsl import Network


def perceptron(net: Network, size: int = 32) -> None:
    """One unit over all pixels of an image, with a sigmoid for Rosenblatt's threshold (1958)."""
    net.output(net.input(3, size, size).dense(1).sigmoid())


def linear_classifier(net: Network, size: int = 32, classes: int = 10) -> None:
    """f = Wx + b over the 3,072 values of a CIFAR-10 image."""
    net.output(net.input(3, size, size).dense(classes))


def two_layer(net: Network, size: int = 32, units: int = 100, classes: int = 10) -> None:
    """f = W₂ max(0, W₁x + b₁) + b₂."""
    net.output(net.input(3, size, size).dense(units).relu().dense(classes))
