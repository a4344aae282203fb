"""Normalisations: by the running statistics of a batch, or by an image's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ... import errors
from .base import Base

if TYPE_CHECKING:
    from .tensor import Tensor


class Norms(Base):
    """Layers that bring channels to a mean and a variance."""

    def batch_norm(
        self,
        *,
        epsilon: float = 1e-5,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        mean: np.ndarray | None = None,
        var: np.ndarray | None = None,
        gain: float = 1.0,
        name: str | None = None,
    ) -> Tensor:
        """Batch normalisation with running statistics; parameters of shape [C], drawn by default.

        The ranges of a drawn scale and variance are such that a variance of 1 stays one: E[scale²] · E[1/var] = 1.
        gain: factor on a drawn scale and shift; below 1 at the end of a residual branch it keeps deep networks O(1).
        """
        net = self.network
        name = net.unique("batch_norm", name)
        shape, weights = (self._channels(name),), net.weights
        parts = {
            "scale": (scale, partial(weights.uniform, low=0.5 * gain, high=1.35 * gain)),
            "shift": (shift, partial(weights.normal, scale=0.1 * gain)),
            "mean": (mean, partial(weights.normal, scale=0.1)),
            "var": (var, partial(weights.uniform, low=0.5, high=1.5)),
        }
        inputs = [self.value]
        for part, (array, draw) in parts.items():
            full = f"{name}.{part}"
            inputs.append(net.given(array, full, shape, partial(draw, full, shape), name))
        return net.add("BatchNormalization", inputs, {"epsilon": float(epsilon)}, name=name)

    def instance_norm(
        self,
        *,
        epsilon: float = 1e-5,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        name: str | None = None,
    ) -> Tensor:
        """Each channel of each image by its own mean and variance (Ulyanov et al. 2016); scale and shift: [C]."""
        name = self.network.unique("instance_norm", name)
        axes = self._spatial_axes(name)
        return self._standardised(axes, epsilon, name)._affine(scale, shift, (1,), name)

    def group_norm(
        self,
        groups: int,
        *,
        epsilon: float = 1e-5,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        name: str | None = None,
    ) -> Tensor:
        """Groups of channels by their own mean and variance (Wu & He 2018); scale and shift: [C].

        Raises:
            ShapeError: groups that do not divide the channels.
        """
        name = self.network.unique("group_norm", name)
        channels = self._channels(name)
        if groups < 1 or channels % groups:
            raise errors.groups_misfit(name, channels, channels, groups)
        apart = (self.shape[0], groups, channels // groups, *self.shape[2:])
        parts = self._same().reshape(*apart, name=f"{name}.groups")
        parts = parts._standardised(tuple(range(2, parts.rank)), epsilon, name)
        return parts.reshape(*self.shape, name=f"{name}.joined")._affine(scale, shift, (1,), name)

    def layer_norm(
        self,
        axes: int | Sequence[int] = 1,
        *,
        epsilon: float = 1e-5,
        scale: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        name: str | None = None,
    ) -> Tensor:
        """By the mean and variance over ``axes`` (Ba et al. 2016); scale and shift have the shape of these axes.

        axes: 1, the channels of each position by themselves, as in ConvNeXt; (1, 2, 3) for whole images.
        """
        name = self.network.unique("layer_norm", name)
        given = (axes,) if isinstance(axes, int) else axes
        chosen = tuple(sorted(self._axis(axis, name) for axis in given))
        return self._standardised(chosen, epsilon, name)._affine(scale, shift, chosen, name)

    def _spatial_axes(self, layer: str) -> tuple[int, ...]:
        if self.rank < 3:
            raise errors.needs_positions(layer, self.shape)
        return tuple(range(2, self.rank))

    def _standardised(self, axes: tuple[int, ...], epsilon: float, name: str) -> Tensor:
        """(x - mean) / √(variance + epsilon), both over ``axes``."""
        over = {"axes": axes, "keepdims": True}
        mean = self.network.add("ReduceMean", [self.value], over, name=f"{name}.mean")
        deviation = self._same() - mean
        square = (deviation * deviation).value
        variance = self.network.add("ReduceMean", [square], over, name=f"{name}.variance")
        return deviation / (variance + epsilon).activation("Sqrt")

    def _affine(self, scale: np.ndarray | None, shift: np.ndarray | None, axes: tuple[int, ...], name: str) -> Tensor:
        """x · scale + shift, which have the extents of ``axes``; drawn such that a variance of 1 stays about one."""
        net, weights = self.network, self.network.weights
        shape = tuple(self._static(self.shape[axis], name) for axis in axes)
        broadcast = tuple(self.shape[axis] if axis in axes else 1 for axis in range(1, self.rank))

        def part(array: np.ndarray | None, kind: str, draw: Callable[[str, tuple[int, ...]], np.ndarray]) -> Tensor:
            full = f"{name}.{kind}"
            value = net.given(array, full, shape, partial(draw, full, shape), name)
            return net.add("Reshape", [value], {"shape": broadcast}, name=full)

        factor = part(scale, "scale", partial(weights.uniform, low=0.5, high=1.4))
        term = part(shift, "shift", partial(weights.normal, scale=0.1))
        scaled = net.add("Mul", [self.value, factor.value], name=f"{name}.scaled")
        return net.add("Add", [scaled.value, term.value], name=name)
