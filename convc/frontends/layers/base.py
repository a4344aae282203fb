"""What every group of layers builds on: a value of a network, its shape, and adding one operator to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union, cast

import numpy as np

from ... import errors
from ...ir.dims import Dim, DimLike
from ...ir.graph import Value
from ...ir.types import Shape
from .. import windows
from ..windows import Padding, Window

if TYPE_CHECKING:
    from ..dsl import Network
    from .tensor import Tensor

Operand = Union["Base", np.ndarray, float, int]


class Base:
    """A value of a network; its methods add layers and return their results."""

    def __init__(self, network: Network, value: Value, name: str) -> None:
        self.network = network
        self.value = value
        self.name = name

    @property
    def shape(self) -> Shape:
        """Dimensions in ONNX order, batch first."""
        return self.network.graph.type(self.value).shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def channels(self) -> int:
        """Number of channels (axis 1)."""
        return self._channels(self.name)

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {list(self.shape)})"

    def _unary(self, op: str, kind: str, name: str | None, **attributes: Any) -> Tensor:
        return self.network.add(op, [self.value], attributes, name=self.network.unique(kind, name))

    def _operand(self, operand: Operand, name: str) -> Value:
        if not isinstance(operand, Base):
            return self.network.constant(np.asarray(operand), name)
        if operand.network is not self.network:
            raise errors.foreign_tensor(operand.name, operand.network.name, self.network.name)
        return operand.value

    def _channels(self, layer: str) -> int:
        if self.rank < 2:
            raise errors.needs_channels(layer, self.shape)
        return self._static(self.shape[1], layer)

    def _axis(self, axis: int, layer: str) -> int:
        """``axis`` counted from the front."""
        if not -self.rank <= axis < self.rank:
            raise errors.no_axis(layer, axis, self.shape)
        return axis % self.rank

    def _static(self, dim: DimLike, layer: str) -> int:
        if isinstance(dim, Dim):
            raise errors.needs_number(layer, dim, self.shape)
        return dim

    def _window(
        self,
        kernel: Window,
        stride: Window | None,
        padding: Padding,
        dilation: Window,
        name: str,
        ceil: bool = False,
    ) -> dict[str, tuple[int, ...]]:
        extent = self.shape[2:]
        if not extent:
            raise errors.needs_positions(name, self.shape)
        given = {"kernel": kernel, "stride": kernel if stride is None else stride, "dilation": dilation}
        size, step, gap = (windows.per_axis(value, len(extent), what, name, 1) for what, value in given.items())
        pads = windows.pads(padding, extent, size, step, gap, name)
        if self.network.strict and not ceil:
            windows.check_fit(extent, size, step, pads, gap, name)
        return {"kernel_shape": size, "strides": step, "pads": pads, "dilations": gap}

    def _spread(
        self, kernel: Window, stride: Window, padding: Padding, dilation: Window, output_padding: Window, name: str
    ) -> dict[str, tuple[int, ...]]:
        """Attributes of a transposed convolution; "same" gives ``stride`` times the extent."""
        rank = self.rank - 2
        if rank < 1:
            raise errors.needs_positions(name, self.shape)
        given = {"kernel": kernel, "stride": stride, "dilation": dilation}
        size, step, gap = (windows.per_axis(value, rank, what, name, 1) for what, value in given.items())
        extra = windows.per_axis(output_padding, rank, "output_padding", name)
        if padding == "same":
            spare = [d * (k - 1) + 1 + e - s for k, s, d, e in zip(size, step, gap, extra, strict=True)]
            pads = (*(max(n, 0) // 2 for n in spare), *(max(n, 0) - max(n, 0) // 2 for n in spare))
            extra = tuple(e + max(-n, 0) for e, n in zip(extra, spare, strict=True))
        else:
            pads = windows.pads(padding, self.shape[2:], size, step, gap, name)
        return {"kernel_shape": size, "strides": step, "pads": pads, "dilations": gap, "output_padding": extra}

    def _same(self) -> Tensor:
        return cast("Tensor", self)
