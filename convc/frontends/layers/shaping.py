"""Layers that move elements: reshaping, transposition, slicing, splitting and padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from ... import errors
from ...ir.dims import DimLike, product
from .. import windows
from .base import Base

if TYPE_CHECKING:
    from .tensor import Tensor


class Shaping(Base):
    """Layers that keep the values."""

    def reshape(self, *shape: DimLike, name: str | None = None) -> Tensor:
        """The same elements under ``shape``, batch included; one dimension may be -1: the rest."""
        known = product([dim for dim in shape if dim != -1])
        rest = product(self.shape) // known if -1 in shape and known != 0 else 0
        return self._unary("Reshape", "reshape", name, shape=tuple(rest if dim == -1 else dim for dim in shape))

    def flatten(self, *, name: str | None = None) -> Tensor:
        """[N, ...] → [N, product of the rest]."""
        return self._unary("Reshape", "flatten", name, shape=(self.shape[0], product(self.shape[1:])))

    def transpose(self, *perm: int, name: str | None = None) -> Tensor:
        """Axis i of the result is axis ``perm[i]``."""
        name = self.network.unique("transpose", name)
        axes = tuple(self._axis(axis, name) for axis in perm)
        return self.network.add("Transpose", [self.value], {"perm": axes}, name=name)

    def split(self, sizes: int | Sequence[int], axis: int = 1, *, name: str | None = None) -> tuple[Tensor, ...]:
        """Parts along ``axis``: that many equal ones, or of these sizes."""
        name = self.network.unique("split", name)
        axis = self._axis(axis, name)
        extent = self._static(self.shape[axis], name)
        if isinstance(sizes, int) and sizes < 1:
            raise errors.no_units(name, "parts", sizes)
        parts = [extent // sizes] * sizes if isinstance(sizes, int) else list(sizes)
        if sum(parts) != extent:
            raise errors.parts_misfit(name, self.shape, axis, parts)
        ends = zip(accumulate(parts), parts, strict=True)
        return tuple(self._part(axis, end - size, size, f"{name}.{i}") for i, (end, size) in enumerate(ends))

    def _part(self, axis: int, start: int, size: int, name: str) -> Tensor:
        starts = tuple(start if index == axis else 0 for index in range(self.rank))
        sizes = tuple(size if index == axis else dim for index, dim in enumerate(self.shape))
        return self._slice(starts, sizes, (1,) * self.rank, self.network.unique("slice", name))

    def __getitem__(self, key: slice | tuple[slice, ...]) -> Tensor:
        """Slicing by ranges, ``x[:, :, ::2, ::2]``; a symbolic dimension takes the full range alone."""
        name = self.network.unique("slice", None)
        ranges = list(key) if isinstance(key, tuple) else [key]
        if len(ranges) > self.rank or not all(isinstance(item, slice) for item in ranges):
            raise errors.bad_slice(name, self.shape)
        ranges += [slice(None)] * (self.rank - len(ranges))
        taken = [self._range(item, dim, name) for item, dim in zip(ranges, self.shape, strict=True)]
        starts, sizes, steps = zip(*taken, strict=True)
        return self._slice(starts, sizes, steps, name)

    def _range(self, item: slice, dim: DimLike, layer: str) -> tuple[int, DimLike, int]:
        if item == slice(None):
            return 0, dim, 1
        positions = range(self._static(dim, layer))[item]
        return positions.start, len(positions), positions.step

    def _slice(self, starts: tuple[int, ...], sizes: tuple[DimLike, ...], steps: tuple[int, ...], name: str) -> Tensor:
        return self.network.add("Slice", [self.value], {"starts": starts, "sizes": sizes, "steps": steps}, name=name)

    def pad(
        self,
        padding: windows.Window,
        value: float = 0.0,
        mode: str = "constant",
        *,
        name: str | None = None,
    ) -> Tensor:
        """Pads the spatial axes, or all axes.

        padding: one number, one for each spatial axis, begins then ends of the spatial axes, or begins then ends of all
        axes. mode: "constant", "reflect" or "edge".
        """
        name = self.network.unique("pad", name)
        rank, spatial = self.rank, self.rank - 2
        if isinstance(padding, int) or len(padding) in (spatial, 2 * spatial):
            ones = (1,) * spatial
            both = windows.pads(padding, self.shape[2:], ones, ones, ones, name)
            padding = (0, 0, *both[:spatial], 0, 0, *both[spatial:])
        if len(padding) != 2 * rank:
            raise errors.wrong_length(name, "padding", padding, (spatial, 2 * spatial, 2 * rank))
        attributes = {"pads": tuple(padding), "mode": mode, "value": float(value)}
        return self.network.add("Pad", [self.value], attributes, name=name)
