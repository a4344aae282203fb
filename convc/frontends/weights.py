"""Weights for networks that come without any: drawn from a seed, or only shaped.

A tensor depends on the seed, its own name and its shape and on nothing else, so inserting, removing or renaming one
layer leaves the weights of the others as they were.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

_RELU_VARIANCE = (1 - 1 / math.pi) / 2
"""Variance of max(0, x) for x ~ N(0, 1): what a zero-mean filter sees of a rectified input."""


class Weights(Protocol):
    """A source of float32 tensors."""

    def filters(self, name: str, shape: Sequence[int], gain: float) -> np.ndarray: ...

    def normal(self, name: str, shape: Sequence[int], scale: float) -> np.ndarray: ...

    def uniform(self, name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray: ...


class RandomWeights:
    """Tensors drawn from PCG64 streams, one for each name."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _stream(self, name: str) -> np.random.Generator:
        digest = hashlib.sha256(name.encode()).digest()
        return np.random.Generator(np.random.PCG64([self.seed, int.from_bytes(digest[:8], "little")]))

    def filters(self, name: str, shape: Sequence[int], gain: float) -> np.ndarray:
        """He-normal filters (He et al. 2015) of zero mean, ``shape`` = [K, fan-in ...].

        The zero mean keeps deep networks from drifting: without it the mean that rectified activations have adds up
        layer after layer. It also hides that mean from the filter, which is why the variance here is that of a
        rectified normal instead of He's second moment. Outputs have about ``gain`` times the standard deviation that
        the input had before its rectification.
        """
        values = self._stream(name).standard_normal(tuple(shape), dtype=np.float32)
        fan_in = math.prod(shape[1:])
        scale = gain / math.sqrt(fan_in * _RELU_VARIANCE)
        if fan_in > 1:
            axes = tuple(range(1, len(shape)))
            values -= values.mean(axis=axes, keepdims=True)
            scale *= math.sqrt(fan_in / (fan_in - 1))
        values *= np.float32(scale)
        return values

    def normal(self, name: str, shape: Sequence[int], scale: float) -> np.ndarray:
        return self._stream(name).standard_normal(tuple(shape), dtype=np.float32) * np.float32(scale)

    def uniform(self, name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
        return self._stream(name).uniform(low, high, tuple(shape)).astype(np.float32)


class NoWeights:
    """Zeros that occupy no memory, for shapes and counts alone."""

    def filters(self, name: str, shape: Sequence[int], gain: float) -> np.ndarray:
        return np.broadcast_to(np.float32(0), tuple(shape))

    def normal(self, name: str, shape: Sequence[int], scale: float) -> np.ndarray:
        return self.filters(name, shape, scale)

    def uniform(self, name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
        return self.filters(name, shape, high)


SOURCES: dict[str, Callable[[int], Weights]] = {"random": RandomWeights, "none": lambda seed: NoWeights()}
"""How weights that are not given come about, by the name that users write."""
