"""Residual networks with batch-norm after every convolution: for ImageNet and for CIFAR-10.

ResNet (He et al. 2015), Wide ResNet (Zagoruyko & Komodakis 2016), ResNeXt (Xie et al. 2016), SE-ResNet (Hu et al.
2017).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..dsl import Network, Tensor

IMAGENET: dict[int, tuple[bool, tuple[int, int, int, int]]] = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}
"""Depth → whether its blocks are bottlenecks, and the number of blocks in each stage."""


@dataclass(frozen=True)
class Bottleneck:
    """How a bottleneck differs from the first ResNet's.

    base_width: filters of its 3x3 convolution for each 64 of the stage's, times ``groups``. squeeze: its channels over
    those in the middle of squeeze-and-excitation; 0: none. stride_in_1x1: the stride is in the first 1x1 convolution.
    """

    groups: int = 1
    base_width: int = 64
    squeeze: int = 0
    stride_in_1x1: bool = False

    def __call__(self, x: Tensor, filters: int, stride: int, name: str, gain: float) -> Tensor:
        """1x1, 3x3 and 1x1 convolutions beside a shortcut; ``gain`` scales the branch's last batch-norm."""
        width = filters * self.base_width // 64 * self.groups
        first, second = (stride, 1) if self.stride_in_1x1 else (1, stride)
        y = _conv(x, width, 1, first, f"{name}.a").relu()
        y = _conv(y, width, 3, second, f"{name}.b", groups=self.groups).relu()
        y = _conv(y, 4 * filters, 1, 1, f"{name}.c", gain)
        if self.squeeze:
            y = y.squeeze_excitation(y.channels // self.squeeze, name=f"{name}.se")
        return _projected(x, 4 * filters, stride, name).add(y, name=f"{name}.add").relu()


def resnet(
    net: Network,
    depth: int,
    groups: int = 1,
    base_width: int = 64,
    squeeze: int = 0,
    size: int = 224,
    classes: int = 1000,
    stride_in_1x1: bool = False,
) -> None:
    """ResNet-18, 34, 50, 101 or 152, and what was made of the last three; see `Bottleneck`.

    stride_in_1x1: put the stride of a bottleneck into its first 1x1 convolution, as the paper does, and not into
        the 3x3 one ("v1.5"), as most exporters do.
    """
    bottlenecks, stages = IMAGENET[depth]
    write = Bottleneck(groups, base_width, squeeze, stride_in_1x1) if bottlenecks else basic
    x = net.input(3, size, size)
    x = _conv(x, 64, 7, 2, "stem").relu().max_pool(3, stride=2, padding=1)
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"stage{stage + 1}.block{block + 1}"
            x = write(x, 64 << stage, stride, name, sum(stages) ** -0.5)
    net.output(x.global_avg_pool().dense(classes))


def basic(x: Tensor, filters: int, stride: int, name: str, gain: float) -> Tensor:
    """Two 3x3 convolutions beside a shortcut."""
    y = _conv(x, filters, 3, stride, f"{name}.a").relu()
    y = _conv(y, filters, 3, 1, f"{name}.b", gain)
    return _projected(x, filters, stride, name).add(y, name=f"{name}.add").relu()


def _projected(x: Tensor, filters: int, stride: int, name: str) -> Tensor:
    """The shortcut: the input, or its 1x1 projection where the shape changes (option B)."""
    if stride == 1 and x.channels == filters:
        return x
    return _conv(x, filters, 1, stride, f"{name}.shortcut")


def _conv(x: Tensor, filters: int, kernel: int, stride: int, name: str, gain: float = 1.0, groups: int = 1) -> Tensor:
    y = x.conv(filters, kernel, stride, padding=kernel // 2, groups=groups, bias=False, name=f"{name}.conv")
    return y.batch_norm(gain=gain, name=f"{name}.bn")


def resnet_cifar(net: Network, depth: int, size: int = 32, classes: int = 10) -> None:
    """ResNet-(6n + 2): three stages of n basic blocks with 16, 32 and 64 filters.

    Shortcuts are free of weights (option A): where the shape changes, every second row and column is kept and the new
    channels are zero.
    """
    blocks = (depth - 2) // 6
    x = _conv(net.input(3, size, size), 16, 3, 1, "stem").relu()
    for stage in range(3):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"stage{stage + 1}.block{block + 1}"
            y = _conv(x, 16 << stage, 3, stride, f"{name}.a").relu()
            y = _conv(y, 16 << stage, 3, 1, f"{name}.b", gain=(3 * blocks) ** -0.5)
            shortcut = x if stride == 1 else _widened(x)
            x = shortcut.add(y, name=f"{name}.add").relu()
    net.output(x.global_avg_pool().dense(classes).softmax())


def _widened(x: Tensor) -> Tensor:
    half = x.channels // 2
    return x[:, :, ::2, ::2].pad((0, half, 0, 0, 0, half, 0, 0))
