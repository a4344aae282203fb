"""Locally connected layers: windows whose every position has filters of its own."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ... import errors
from ..windows import Padding, Window
from .base import Base

if TYPE_CHECKING:
    from .tensor import Tensor


class Local(Base):
    """Windows with unshared weights."""

    def locally_connected(
        self,
        filters: int,
        kernel: Window,
        stride: Window = 1,
        padding: Padding = 0,
        *,
        bias: bool | np.ndarray = True,
        weight: np.ndarray | None = None,
        gain: float = 1.0,
        name: str | None = None,
    ) -> Tensor:
        """Windows as in `conv`, with unshared weights: [N, C, H, W] → [N, filters, P, Q].

        weight: [filters, C, *kernel, P, Q], drawn by default. bias: drawn (True), absent (False) or [filters, P, Q].
        It becomes one matrix product for each position, over the elements of its window.

        Raises:
            ShapeError: as `conv`; a size that is not a number.
        """
        net = self.network
        name = net.unique("locally_connected", name)
        if filters < 1:
            raise errors.no_units(name, "filters", filters)
        window = self._window(kernel, stride, padding, 1, name)
        padded = self._same().pad(window["pads"], name=f"{name}.pad") if any(window["pads"]) else self._same()
        size, step = window["kernel_shape"], window["strides"]
        counts = padded._counts(size, step, name)
        matrices = self._matrices(weight, (filters, self._channels(name), *size, *counts), gain, name)
        patches = padded._patches(size, step, counts, name)
        products = net.add("MatMul", [patches.value, net.constant(matrices, f"{name}.weight")], name=f"{name}.product")
        positions = products.transpose(1, 2, 0).reshape(self.shape[0], filters, *counts)
        shift = net.shift(bias, name, (filters, *counts))
        return net.add("Add", [positions.value, *shift], name=name) if shift else positions

    def _counts(self, size: tuple[int, ...], step: tuple[int, ...], name: str) -> tuple[int, ...]:
        """Number of windows along each spatial axis of this padded tensor."""
        extents = [self._static(extent, name) for extent in self.shape[2:]]
        for axis, (extent, taps) in enumerate(zip(extents, size, strict=True)):
            if extent < taps:
                raise errors.at_layer(errors.window_too_large("window", axis, taps, extent), name, [self.shape])
        return tuple((extent - taps) // stride + 1 for extent, taps, stride in zip(extents, size, step, strict=True))

    def _matrices(self, weight: np.ndarray | None, shape: tuple[int, ...], gain: float, name: str) -> np.ndarray:
        """The weights [K, C, kernel, positions], given or drawn, as [positions, kernel · C, K]."""
        rank = self.rank - 2
        filters, kernel, counts = shape[0], shape[1 : 2 + rank], shape[2 + rank :]
        if weight is None:
            full = f"{name}.weight"
            drawn = self.network.weights.filters(full, (filters * math.prod(counts), *kernel), gain)
            weight = np.moveaxis(drawn.reshape(filters, -1, *kernel), 1, -1).reshape(shape)
        elif np.shape(weight) != shape:
            raise errors.weight_misfit(name, "weight", shape, np.shape(weight))
        flat = np.asarray(weight).reshape(filters, kernel[0], math.prod(kernel[1:]), math.prod(counts))
        return flat.transpose(3, 2, 1, 0).reshape(math.prod(counts), math.prod(kernel), filters)

    def _patches(self, size: tuple[int, ...], step: tuple[int, ...], counts: tuple[int, ...], name: str) -> Tensor:
        """The windows of this padded tensor side by side: [positions, N, kernel · C]."""
        net, steps = self.network, (1, 1, *step)
        taps = [
            net.add(
                "Slice",
                [self.value],
                {"starts": (0, 0, *place), "sizes": (*self.shape[:2], *counts), "steps": steps},
                name=f"{name}.tap{index}",
            )
            for index, place in enumerate(product(*map(range, size)))
        ]
        windows = net.add("Concat", [tap.value for tap in taps], {"axis": 1}, name=f"{name}.windows")
        return windows.reshape(self.shape[0], windows.channels, math.prod(counts)).transpose(2, 0, 1)
