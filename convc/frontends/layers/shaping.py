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
        if item.step == 0:
            raise errors.at_layer(errors.wrong_attribute("Slice", "steps", "other than 0", 0), layer, [self.shape])
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

    # -- between channels and positions -------------------------------------------------------------------------------
    def depth_to_space(self, block: int, mode: str = "DCR", *, name: str | None = None) -> Tensor:
        """[N, C · block², H, W] → [N, C, H · block, W · block], the sub-pixel layer of super-resolution.

        mode: which part of a channel's number is the place in the block: the first ("DCR", ONNX's default) or the last
        ("CRD", PyTorch's pixel shuffle).
        """
        name, x = self.network.unique("depth_to_space", name), self._image("depth_to_space", name)
        if mode not in ("DCR", "CRD"):
            raise errors.one_of(mode, ("DCR", "CRD"), f"mode of layer {name!r}:")
        batch, channels, height, width = x.shape
        if block < 1 or x.channels % block**2:
            raise errors.blocks_misfit(name, self.shape, block, 1)
        depth = channels // block**2
        first = mode == "DCR"
        apart = (block, block, depth) if first else (depth, block, block)
        perm = (0, 3, 4, 1, 5, 2) if first else (0, 1, 4, 2, 5, 3)
        parts = x.reshape(batch, *apart, height, width, name=f"{name}.apart").transpose(*perm, name=f"{name}.order")
        shape = (batch, depth, height * block, width * block)
        return self.network.add("Reshape", [parts.value], {"shape": shape}, name=name)

    def space_to_depth(self, block: int, *, name: str | None = None) -> Tensor:
        """[N, C, H · block, W · block] → [N, block² · C, H, W]; `depth_to_space` with "DCR" undoes it."""
        name, x = self.network.unique("space_to_depth", name), self._image("space_to_depth", name)
        batch, channels, *sides = x.shape
        if block < 1 or any(isinstance(side, int) and side % block for side in sides):
            raise errors.blocks_misfit(name, self.shape, block, 2)
        height, width = (side // block for side in sides)
        parts = x.reshape(batch, channels, height, block, width, block, name=f"{name}.apart")
        order = parts.transpose(0, 3, 5, 1, 2, 4, name=f"{name}.order")
        shape = (batch, channels * block**2, height, width)
        return self.network.add("Reshape", [order.value], {"shape": shape}, name=name)

    def channel_shuffle(self, groups: int, *, name: str | None = None) -> Tensor:
        """Takes one channel of each group in turn, as between ShuffleNet's grouped convolutions."""
        name = self.network.unique("channel_shuffle", name)
        channels = self._channels(name)
        if groups < 1 or channels % groups:
            raise errors.groups_misfit(name, channels, channels, groups)
        apart = (self.shape[0], groups, channels // groups, *self.shape[2:])
        parts = self.reshape(*apart, name=f"{name}.apart")
        order = parts.transpose(0, 2, 1, *range(3, parts.rank), name=f"{name}.order")
        return self.network.add("Reshape", [order.value], {"shape": self.shape}, name=name)

    def upsample(self, scale: int, *, name: str | None = None) -> Tensor:
        """Every element repeated ``scale`` times along each spatial axis: nearest neighbour."""
        name = self.network.unique("upsample", name)
        if scale < 1:
            raise errors.no_units(name, "scale", scale)
        if self.rank < 3:
            raise errors.needs_positions(name, self.shape)
        lead, extents = self.shape[:2], self.shape[2:]
        apart = (*lead, *(dim for extent in extents for dim in (extent, 1)))
        repeated = (*lead, *(dim for extent in extents for dim in (extent, scale)))
        single = self.reshape(*apart, name=f"{name}.apart")
        every = self.network.add("Expand", [single.value], {"shape": repeated}, name=f"{name}.repeated")
        shape = (*lead, *(extent * scale for extent in extents))
        return self.network.add("Reshape", [every.value], {"shape": shape}, name=name)

    def resize(
        self,
        *sizes: int,
        mode: str = "linear",
        transformation: str = "half_pixel",
        name: str | None = None,
    ) -> Tensor:
        """Resamples the spatial axes to ``sizes``.

        mode: "nearest", "linear" or "cubic". transformation: where outputs lie in the input, by ONNX's names:
        "half_pixel", "align_corners", "asymmetric" and others.
        """
        name = self.network.unique("resize", name)
        if len(sizes) != self.rank - 2:
            raise errors.wrong_length(name, "sizes", sizes, (self.rank - 2,))
        attributes = {"sizes": (*self.shape[:2], *sizes), "mode": mode, "transformation": transformation}
        return self.network.add("Resize", [self.value], attributes, name=name)

    def _image(self, what: str, layer: str) -> Tensor:
        """Itself, where it is [N, C, H, W]."""
        if self.rank != 4:
            raise errors.at_layer(errors.wrong_rank(what, "an input (N, C, H, W)", "4", self.rank), layer, [self.shape])
        return self._same()
