"""Random convolutional networks made of the blocks that fusion rules are about, over small whole numbers.

A network is a list of blocks and a seed; each block draws from a generator of its own, so that leaving one out, as
hypothesis does when it looks for the smallest failure, changes little in the others. As in `random_graphs`, values stay
small enough to be exact in every numeric mode, means included: they are taken over a power of two of multiples of it.
"""

from __future__ import annotations

import numpy as np
from compiled import Builder, integers
from random_graphs import LARGEST, RandomNetwork

from convc.ir import DType, Value

SIZES = ((4, 4), (5, 7), (8, 8), (6, 5), (9, 9), (2, 8), (1, 1))


class RandomCnn(RandomNetwork):
    """``blocks`` (names of `BLOCKS`) in order, each on one of the values so far, the later the likelier."""

    def __init__(self, seed: int, blocks: list[str]) -> None:
        Builder.__init__(self, f"cnn{seed}")
        self.random = np.random.default_rng(seed)
        channels = int(self.random.choice([3, 4, 8, 16, 24]))
        shape = (int(self.random.integers(1, 4)), channels, *SIZES[int(self.random.integers(len(SIZES)))])
        self.sizes: dict[Value, float] = {}
        self.made(self.input(integers(self.random, shape)), 2)
        for index, block in enumerate(blocks):
            self.random = np.random.default_rng((seed, index))
            getattr(self, f"block_{block}")()
        self.random = np.random.default_rng((seed, len(blocks)))
        values = list(self.sizes)
        chosen = [value for value in values if not self.graph.users(value)]
        if self.flip(0.3):
            chosen.append(values[int(self.random.integers(len(values)))])
        for value in dict.fromkeys(chosen):
            self.output(value)

    # -- parts --------------------------------------------------------------------------------------------------------
    def flip(self, chance: float = 0.5) -> bool:
        return bool(self.random.random() < chance)

    def pick(self, *choices: int) -> int:
        return int(self.random.choice(choices))

    def start(self) -> Value:
        return self.any(16)

    def conv(
        self, x: Value, filters: int, kernel: int = 1, stride: int = 1, groups: int = 1, pad: int | None = None
    ) -> Value:
        """A convolution whose filters have six weights of ±1 at most; ``x`` is clipped to 16 first."""
        x = self.clipped(x, 16)
        pad = kernel // 2 if pad is None or min(self.shape(x)[2:]) + 2 * pad < kernel else pad
        weights = np.zeros((filters, self.shape(x)[1] // groups, kernel, kernel), np.float32)
        for row in weights:
            row.flat[self.random.integers(0, row.size, 6)] = self.random.choice([-1, 1], 6)
        operands = [x, self.constant(weights)]
        if self.flip():
            operands.append(self.constant(integers(self.random, (filters,))))
        y = self.add("Conv", *operands, strides=(stride,) * 2, pads=(pad,) * 4, dilations=(1, 1), groups=groups)
        return self.made(y, 6 * self.sizes[x] + 2)

    def depthwise(self, x: Value, stride: int = 1) -> Value:
        channels = self.shape(x)[1]
        return self.conv(x, channels, self.pick(3, 3, 5), stride, channels)

    def normalised(self, x: Value) -> Value:
        """Batch normalisation with a deviation that is a power of two."""
        x = self.clipped(x, 64)
        channels = self.shape(x)[1]
        deviation = self.random.choice([1.0, 2.0], channels)
        scale = self.random.choice([-1.0, 1.0], channels) * deviation
        parameters = [scale, self.random.integers(-2, 3, channels), self.random.integers(-2, 3, channels)]
        operands = [self.constant(p.astype(np.float32)) for p in (*parameters, deviation**2 - 0.25)]
        return self.made(self.add("BatchNormalization", x, *operands, epsilon=0.25), self.sizes[x] + 4)

    def activated(self, x: Value) -> Value:
        """What may stand between two convolutions, or nothing; 16 at most in most cases."""
        if self.flip(0.3):
            x = self.normalised(x)
        kind = self.pick(0, 1, 1, 2, 3)
        if kind == 1:
            return self.clipped(self.made(self.add("Relu", x), self.sizes[x]), 16)
        if kind == 2:
            return self.made(self.add("Clip", x, min=0.0, max=6.0), 6)
        return x if kind == 0 else self.clipped(self.made(self.add("Abs", x), self.sizes[x]), 16)

    def max_pool(self, x: Value, kernel: int, stride: int, pad: int, ceil: bool = False) -> Value:
        if min(self.shape(x)[2:]) + pad < kernel:
            kernel, stride, pad = 1, 1, 0
        window = {"kernel_shape": (kernel,) * 2, "strides": (stride,) * 2, "pads": (pad,) * 4, "dilations": (1, 1)}
        return self.made(self.add("MaxPool", x, ceil_mode=ceil, **window), self.sizes[x])

    def mean_pool(self, x: Value) -> Value:
        """2x2 means of multiples of 4, so that they are whole."""
        x = self.scaled(self.clipped(x, 16), 4)
        if min(self.shape(x)[2:]) < 2:
            return x
        window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1)}
        y = self.add("AveragePool", x, count_include_pad=self.flip(), ceil_mode=False, **window)
        return self.made(y, self.sizes[x])

    def scaled(self, x: Value, factor: float) -> Value:
        return self.made(self.add("Mul", x, self.constant(np.float32(factor))), self.sizes[x] * factor)

    def global_mean(self, x: Value) -> Value | None:
        """The mean of all positions, where they are a power of two of at most 64, of multiples of their number."""
        count = int(np.prod(self.shape(x)[2:]))
        if count > 64 or count & (count - 1):
            return None
        x = self.scaled(self.clipped(x, 1), count)
        return self.made(self.add("ReduceMean", x, axes=(2, 3), keepdims=True), count)

    def added(self, x: Value, y: Value) -> Value:
        return self.made(self.add("Add", self.clipped(x, 64), self.clipped(y, 64)), 128)

    def joined(self, parts: list[Value]) -> Value:
        return self.made(self.add("Concat", *parts, axis=1), max(self.sizes[part] for part in parts))

    # -- blocks -------------------------------------------------------------------------------------------------------
    def block_conv(self) -> None:
        groups = self.pick(1, 1, 1, 2)
        x = self.start()
        groups = groups if self.shape(x)[1] % groups == 0 else 1
        self.activated(self.conv(x, groups * self.pick(3, 4, 8), self.pick(1, 3, 5), self.pick(1, 1, 2), groups))

    def block_chain(self) -> None:
        """1x1 → 1x1, 3x3 → 1x1, 1x1 → 3x3."""
        y = self.start()
        for _ in range(self.pick(2, 3)):
            y = self.activated(self.conv(y, self.pick(4, 8, 16, 20), self.pick(1, 1, 3)))

    def block_conv_pool(self) -> None:
        y = self.activated(self.conv(self.start(), self.pick(4, 8, 20), self.pick(1, 3, 3, 5), self.pick(1, 1, 2)))
        kind = self.pick(0, 1, 2, 3)
        if kind == 0:
            y = self.mean_pool(y)
        else:
            y = self.max_pool(y, (2, 3, 3)[kind - 1], 2, (0, 1, 0)[kind - 1], ceil=self.flip(0.2))
        if self.flip():
            self.activated(y)

    def block_pool_conv(self) -> None:
        """A pooling read by 1x1 convolutions, as in an inception module's last branch."""
        x = self.start()
        y = self.mean_pool(x) if self.flip(0.3) else self.max_pool(x, *((3, 1, 1) if self.flip() else (2, 2, 0)))
        for _ in range(self.pick(1, 1, 2)):
            self.activated(self.conv(self.activated(y) if self.flip(0.3) else y, self.pick(4, 8, 20)))

    def block_separable(self) -> None:
        y = self.activated(self.depthwise(self.start(), self.pick(1, 1, 2)))
        self.activated(self.conv(y, self.pick(4, 8, 20)))

    def block_inverted_residual(self) -> None:
        x = self.start()
        channels, stride = self.shape(x)[1], self.pick(1, 1, 2)
        wide = self.activated(self.conv(x, self.pick(2, 3) * channels))
        y = self.activated(self.depthwise(wide, stride))
        if self.flip(0.3):
            y = self.gated(y)
        y = self.conv(y, channels)
        if stride == 1:
            self.added(x, y)

    def gated(self, x: Value) -> Value:
        """Squeeze and excitation: means of all positions, two products, a gate."""
        channels, mean = self.shape(x)[1], self.global_mean(x)
        if mean is None:
            return x
        hidden = self.made(self.add("Relu", self.conv(mean, self.pick(2, 4))), 98)
        gate = self.add("HardSigmoid", self.conv(hidden, channels), alpha=0.5, beta=0.5)
        y = self.made(self.add("Mul", self.clipped(x, 32), gate), 32)
        return self.scaled(y, 2)

    def block_squeeze_excite(self) -> None:
        y = self.activated(self.conv(self.start(), self.pick(4, 8), self.pick(1, 3)))
        self.gated(y)

    def block_siblings(self) -> None:
        """Convolutions of one tensor with windows, strides and widths of their own."""
        x = self.start()
        for _ in range(self.pick(2, 3, 4)):
            y = self.conv(x, self.pick(3, 4, 8, 20), self.pick(1, 1, 3), self.pick(1, 1, 2))
            if self.flip(0.8):
                self.activated(y)

    def block_inception(self) -> None:
        x = self.start()
        branches = [self.activated(self.conv(x, self.pick(4, 8)))]
        for kernel in (3, 5)[: self.pick(1, 2)]:
            branches.append(self.activated(self.conv(self.activated(self.conv(x, self.pick(2, 4))), 4, kernel)))
        branches.append(self.activated(self.conv(self.max_pool(x, 3, 1, 1), 4)))
        if len({self.shape(branch)[2:] for branch in branches}) == 1:
            self.joined(branches)

    def block_dense(self) -> None:
        """DenseNet: normalisation and ReLU in front of 1x1 and 3x3, and the concatenation of all that came before."""
        y = self.start()
        for _ in range(self.pick(1, 2)):
            before = self.clipped(self.made(self.add("Relu", self.normalised(y)), 68), 16)
            narrow = self.made(self.add("Relu", self.normalised(self.conv(before, 8))), 68)
            y = self.joined([y, self.conv(narrow, 4, 3)])

    def block_residual(self) -> None:
        """Two convolutions beside nothing or beside a projection."""
        x = self.start()
        channels, stride = self.pick(self.shape(x)[1], 8), self.pick(1, 1, 2)
        y = self.conv(self.activated(self.conv(x, channels, 3, stride)), channels, self.pick(1, 3))
        same = channels == self.shape(x)[1] and stride == 1
        total = self.added(self.normalised(y), x if same else self.conv(x, channels, 1, stride))
        self.made(self.add("Relu", total), 128)

    def block_head(self) -> None:
        """Global means and a matrix product."""
        x = self.activated(self.conv(self.start(), self.pick(4, 8)))
        mean = self.global_mean(x)
        if mean is None:
            self.op_flatten()
            return
        flat = self.add("Reshape", self.clipped(mean, 16), shape=self.shape(mean)[:2])
        weights = self.random.choice([-1, 0, 1], (5, self.shape(mean)[1])).astype(np.float32)
        self.made(self.add("Gemm", flat, self.constant(weights), trans_b=True), LARGEST)

    def block_bytes(self) -> None:
        """A convolution behind an image in bytes or bits and its normalisation."""
        dtype = self.random.choice([np.uint8, np.int8, np.int16, np.bool_])
        channels, size = self.pick(1, 3, 4, 16, 20), self.pick(4, 5, 8)
        image = np.abs(integers(self.random, (self.pick(1, 2), channels, size, size))).astype(dtype)
        x = self.made(self.add("Cast", self.input(image), dtype=DType.FP32), 2)
        for op, most in (("Sub", 4), ("Mul", 8), ("Div", 16), ("Add", 18))[self.pick(0, 0, 1, 2) :]:
            values = self.random.choice([-1.0, -0.5, 2.0] if op == "Div" else [-2, -1, 1, 2], (channels, 1, 1))
            x = self.made(self.add(op, x, self.constant(values.astype(np.float32))), most)
        self.activated(self.conv(x, self.pick(4, 16), self.pick(1, 3, 5), self.pick(1, 2), pad=self.pick(0, 1, 2)))

    def block_shuffle(self) -> None:
        """A channel shuffle, or a movement between depth and space, behind a kernel or a concatenation."""
        x = self.start()
        groups = self.pick(1, 2, 4)
        y = self.conv(self.conv(x, 16, 1), 16, self.pick(1, 3), groups=groups)
        if self.flip(0.3):
            y = self.joined([y, self.conv(x, 16, 1)]) if self.shape(y)[2:] == self.shape(x)[2:] else y
        y = self.activated(y) if self.flip() else y
        n, c, h, w = self.shape(y)
        kind = self.pick(0, 0, 1, 2)
        fine, perm, coarse = (n, 2, c // 2, h, w), (0, 2, 1, 3, 4), (n, c, h, w)
        if kind == 1:
            fine, perm, coarse = (n, c // 4, 2, 2, h, w), (0, 1, 4, 2, 5, 3), (n, c // 4, 2 * h, 2 * w)
        if kind == 2 and h % 2 == w % 2 == 0:
            fine, perm, coarse = (n, c, h // 2, 2, w // 2, 2), (0, 3, 5, 1, 2, 4), (n, 4 * c, h // 2, w // 2)
        moved = self.add("Transpose", self.add("Reshape", y, shape=fine), perm=perm)
        moved = self.made(self.add("Reshape", moved, shape=coarse), self.sizes[y])
        if self.flip():
            self.conv(moved, 5, self.pick(1, 3))

    def block_padding(self) -> None:
        """Padding that no window has as its own, and what may follow it."""
        x = self.start()
        mode = str(self.random.choice(["constant", "edge"]))
        pads = (0, 0, self.pick(0, 1), 1, 0, 0, self.pick(0, 2), self.pick(0, 1))
        y = self.made(self.add("Pad", x, pads=pads, mode=mode, value=float(self.pick(-1, 0, 2))), self.sizes[x] + 2)
        y = self.made(self.add("Abs", y), self.sizes[y])
        if self.flip():
            self.conv(self.activated(y), 4, 3)

    def block_pyramid(self) -> None:
        """A coarse level, repeated, beside a convolution of a finer one."""
        x = self.start()
        n, c, h, w = self.shape(x)
        y = self.add("Reshape", x, shape=(n, c, h, 1, w, 1))
        y = self.add("Expand", y, shape=(n, c, h, 2, w, self.pick(1, 2, 3)))
        y = self.made(self.add("Reshape", y, shape=(n, c, 2 * h, w * self.shape(y)[5])), self.sizes[x])
        fine = self.input(integers(self.random, (n, self.pick(3, 8), *self.shape(y)[2:])))
        total = self.added(self.conv(self.made(fine, 2), c), y)
        if self.flip():
            self.conv(self.activated(total), 5, 3)

    def block_widened(self) -> None:
        """One channel, or one pixel, that an operator in the middle of a block makes many of."""
        y = self.conv(self.start(), 1, self.pick(1, 3))
        if self.flip(0.3):
            y = self.max_pool(y, 3, 1, 1)
        channels = self.pick(4, 8, 20)
        shape = (channels, *self.shape(y)[2:]) if self.flip(0.3) else (channels, 1, 1)
        y = self.clipped(y, 8)
        y = self.made(self.add(self.pick_op("Mul", "Add"), y, self.constant(integers(self.random, shape))), 16)
        y = self.activated(y) if self.flip() else y
        kind = self.pick(0, 1, 2, 3)
        if kind == 0:
            self.conv(y, self.pick(4, 20))
        elif kind == 1:
            self.depthwise(y)
        elif kind == 2:
            self.max_pool(y, *((2, 2, 0) if self.flip() else (3, 2, 1)))
        else:
            self.global_mean(y)

    def pick_op(self, *names: str) -> str:
        return str(self.random.choice(names))

    def block_any(self) -> None:
        """An operator of `RandomNetwork`."""
        names = ("op_residual", "op_gate", "op_concat", "op_slice", "op_pad", "op_transpose", "op_reduce", "op_unary")
        name = str(self.random.choice([*names, "op_split_shuffle", "op_channel_scale"]))
        getattr(self, name)()


BLOCKS = tuple(sorted(name.removeprefix("block_") for name in dir(RandomCnn) if name.startswith("block_")))
