"""Random networks over small whole numbers, on which every numeric mode and every optimisation computes exactly.

Each value keeps a bound on its size. Where an operator could exceed 256, which bf16 still holds exactly, its operands
are clipped first, so that even rounded intermediates are equal after the clip.
"""

from __future__ import annotations

import numpy as np
from compiled import Builder, integers

from convc.ir import Value

LARGEST = 256


class RandomNetwork(Builder):
    """``steps`` random operators over tensors that start as two inputs and a constant of one shape."""

    def __init__(self, seed: int, steps: int) -> None:
        super().__init__(f"random{seed}")
        self.random = np.random.default_rng(seed)
        shape = (int(self.random.integers(1, 3)), *(int(e) for e in self.random.choice([2, 3, 4, 8], 3)))
        self.sizes: dict[Value, float] = {}
        for value in (self.input(integers(self.random, shape)), self.input(integers(self.random, shape))):
            self.sizes[value] = 2
        self.sizes[self.constant(integers(self.random, shape))] = 2
        operators = [name for name in dir(self) if name.startswith("op_")]
        for name in self.random.choice(operators, steps):
            getattr(self, name)()
        self._choose_outputs()

    def _choose_outputs(self) -> None:
        """Everything that nobody reads, one value in the middle, an input and a constant."""
        values = list(self.sizes)
        chosen = [value for value in values if not self.graph.users(value)]
        chosen += [values[0], values[2], values[int(self.random.integers(3, len(values)))]]
        for value in dict.fromkeys(chosen):
            self.output(value)

    # -- drawing ------------------------------------------------------------------------------------------------------
    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(int(dim) for dim in self.graph.type(value).shape)

    def any(self, most: float = LARGEST, rank: int = 4) -> Value:
        """A value of that rank, the later the likelier, clipped where it may be larger than ``most``."""
        candidates = [value for value in self.sizes if len(self.shape(value)) == rank]
        weights = np.arange(1, len(candidates) + 1) ** 2.0
        value = candidates[int(self.random.choice(len(candidates), p=weights / weights.sum()))]
        return self.clipped(value, most)

    def clipped(self, value: Value, most: float) -> Value:
        if self.sizes[value] <= most:
            return value
        return self.made(self.add("Clip", value, min=-float(most), max=float(most)), most)

    def made(self, value: Value, size: float) -> Value:
        self.sizes[value] = size
        return value

    def like(self, value: Value, most: float) -> Value:
        """Another value of the same shape, or a broadcast constant."""
        same = [v for v in self.sizes if self.shape(v) == self.shape(value)]
        if self.random.random() < 0.7:
            return self.clipped(same[int(self.random.integers(len(same)))], most)
        shape = [int(self.random.choice([extent, 1])) for extent in self.shape(value)]
        return self.made_constant(shape)

    def made_constant(self, shape: list[int]) -> Value:
        return self.constant(integers(self.random, shape))

    def size_of(self, value: Value) -> float:
        return self.sizes.get(value, 2)

    # -- operators ----------------------------------------------------------------------------------------------------
    def op_conv(self) -> None:
        x = self.any(16)
        channels = self.shape(x)[1]
        groups = int(self.random.choice([g for g in range(1, channels + 1) if channels % g == 0]))
        filters, kernel = groups * int(self.random.integers(1, 5)), int(self.random.choice([1, 3]))
        stride = int(self.random.choice([1, 1, 2]))
        self.made(self._convolved(x, filters, kernel, groups, stride), 6 * self.sizes[x] + 2)

    op_conv_again = op_conv

    def _convolved(self, x: Value, filters: int, kernel: int, groups: int = 1, stride: int = 1) -> Value:
        """A convolution with at most six weights a filter that are not zero."""
        weights = np.zeros((filters, self.shape(x)[1] // groups, kernel, kernel), np.float32)
        for k in range(filters):
            places = self.random.integers(0, weights[k].size, 6)
            weights[k].flat[places] = self.random.choice([-1, 1], 6)
        operands = [x, self.constant(weights)]
        if self.random.random() < 0.5:
            operands.append(self.constant(integers(self.random, (filters,))))
        window = {"strides": (stride,) * 2, "pads": (kernel // 2,) * 4, "dilations": (1, 1)}
        return self.add("Conv", *operands, **window, groups=groups)

    def op_inverted_residual(self) -> None:
        """Expansion, depthwise convolution and, perhaps, projection, with nothing else that reads what lies between."""
        y, channels = self.any(16), int(self.random.integers(2, 20))
        stages = [(channels, 1, 1), (channels, int(self.random.choice([1, 3])), channels), (5, 1, 1)]
        for filters, kernel, groups in stages[: int(self.random.integers(2, 4))]:
            stride = int(self.random.integers(1, 3)) if groups > 1 else 1
            y = self._convolved(y, filters, kernel, groups, stride)
            y = self.add("Clip", y, min=-float(self.random.integers(2)), max=16.0)
        self.made(y, 16)

    def op_pool_products(self) -> None:
        """Pooling that one or two 1x1 convolutions read."""
        x = self.any(16)
        window = {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1,) * 4, "dilations": (1, 1), "ceil_mode": False}
        y = self.add("MaxPool", x, **window)
        for _ in range(int(self.random.integers(1, 3))):
            self.made(self._convolved(y, int(self.random.integers(1, 9)), 1), 6 * self.sizes[x] + 2)

    def op_batch_norm(self) -> None:
        x = self.any(64)
        channels = self.shape(x)[1]
        deviation = self.random.choice([1.0, 2.0], channels)
        scale = self.random.choice([-1.0, 1.0], channels) * deviation
        parameters = [scale, self.random.integers(-2, 3, channels), self.random.integers(-2, 3, channels)]
        operands = [self.constant(p.astype(np.float32)) for p in (*parameters, deviation**2 - 0.25)]
        self.made(self.add("BatchNormalization", x, *operands, epsilon=0.25), self.sizes[x] + 4)

    def op_channel_scale(self) -> None:
        x = self.any(64)
        scale = self.constant(self.random.choice([-1.0, 2.0], (self.shape(x)[1], 1, 1)).astype(np.float32))
        self.made(self.add(str(self.random.choice(["Mul", "Add"])), x, scale), 2 * self.sizes[x] + 2)

    def op_unary(self) -> None:
        x = self.any()
        self.made(self.add(str(self.random.choice(["Relu", "Relu", "Abs", "Neg"])), x), self.sizes[x])

    def op_residual(self) -> None:
        x = self.any(64)
        other = self.like(x, 64)
        y = self.add(str(self.random.choice(["Add", "Sub", "Max", "Min"])), x, other)
        self.made(y, self.sizes[x] + self.size_of(other))

    op_residual_again = op_residual

    def op_gate(self) -> None:
        """x·g(x), like SiLU, or a product of two values."""
        x = self.any(8)
        gate = self.add("Clip", x, min=0.0, max=1.0) if self.random.random() < 0.5 else self.like(x, 8)
        self.made(self.add("Mul", x, gate), self.sizes[x] * max(1, self.size_of(gate)))

    def op_pool(self) -> None:
        x = self.any()
        if min(self.shape(x)[2:]) < 2:
            return
        window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 0, 1, 1), "dilations": (1, 1)}
        self.made(self.add("MaxPool", x, ceil_mode=bool(self.random.integers(2)), **window), self.sizes[x])
        window = {**window, "pads": (1, 0, 0, 1), "count_include_pad": True, "ceil_mode": False}
        mean = self.add("AveragePool", self.clipped(x, 16), **window)
        self.made(self.add("Mul", mean, self.constant(np.float32(4))), 4 * 16)

    def op_concat(self) -> None:
        x = self.any(64)
        others = [v for v in self.sizes if self.shape(v) == self.shape(x)]
        picked = [others[int(i)] for i in self.random.integers(0, len(others), int(self.random.integers(1, 3)))]
        axis = int(self.random.choice([1, 1, 1, 0, 2, 3]))
        y = self.made(self.add("Concat", x, *picked, axis=axis), max(self.sizes[v] for v in (x, *picked)))
        if self.random.random() < 0.5 and self.shape(y)[axis] < 24:
            self.made(self.add("Concat", x, *picked, self.any_like_but(x, axis), axis=axis), LARGEST)

    def any_like_but(self, x: Value, axis: int) -> Value:
        """A value that fits beside ``x`` in a concatenation."""

        def rest(value: Value) -> list[int]:
            return [extent for i, extent in enumerate(self.shape(value)) if i != axis]

        fitting = [v for v in self.sizes if len(self.shape(v)) == 4 and rest(v) == rest(x)]
        return fitting[int(self.random.integers(len(fitting)))]

    def op_slice(self) -> None:
        x = self.any()
        starts = tuple(extent - 1 if i > 1 else 0 for i, extent in enumerate(self.shape(x)))
        sizes = tuple(extent if i > 1 else (extent + 1) // 2 for i, extent in enumerate(self.shape(x)))
        self.made(self.add("Slice", x, starts=starts, sizes=sizes, steps=(1, 1, -1, -1)), self.sizes[x])

    def op_pad(self) -> None:
        x = self.any()
        modes = ["constant", "edge"] + (["reflect"] if min(self.shape(x)[2:]) > 1 else [])
        if max(self.shape(x)[2:]) < 12:
            pads = (0, 0, 1, 0, 0, 0, 1, 1)
            self.made(self.add("Pad", x, pads=pads, mode=str(self.random.choice(modes)), value=0.0), self.sizes[x])

    def op_transpose(self) -> None:
        x = self.any()
        self.made(self.add("Transpose", x, perm=tuple(int(a) for a in self.random.permutation(4))), self.sizes[x])

    def op_flatten(self) -> None:
        x = self.any(8)
        n, *rest = self.shape(x)
        flat = self.add("Reshape", x, shape=(n, int(np.prod(rest))))
        weights = np.zeros((3, int(np.prod(rest))), np.float32)
        for row in weights:
            row[self.random.integers(0, row.size, 6)] = self.random.choice([-1, 1], 6)
        self.made(self.add("Gemm", flat, self.constant(weights), trans_b=True), 48)

    def op_reduce(self) -> None:
        x = self.any()
        axes = [(2, 3), (1,), (0,), (1, 2, 3)][int(self.random.integers(4))]
        y = self.made(self.add("ReduceMax", x, axes=axes, keepdims=True), self.sizes[x])
        self.made(self.add("Sub", self.clipped(x, 64), self.clipped(y, 64)), 128)

    def op_split_shuffle(self) -> None:
        """ShuffleNet's channel shuffle: reshape, transpose, reshape."""
        x = self.any()
        n, c, h, w = self.shape(x)
        if c % 2 == 0:
            wide = self.add("Reshape", x, shape=(n, 2, c // 2, h, w))
            shuffled = self.add("Transpose", wide, perm=(0, 2, 1, 3, 4))
            self.made(self.add("Reshape", shuffled, shape=(n, c, h, w)), self.sizes[x])
