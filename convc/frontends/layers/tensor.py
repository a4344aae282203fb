"""`Tensor`: convolution, dense and pooling, on top of the other groups of layers."""

from __future__ import annotations

import math

import numpy as np

from ... import errors
from ..windows import Padding, Window
from .elementwise import Elementwise
from .local import Local
from .norms import Norms
from .shaping import Shaping

ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid", "hard_sigmoid", "tanh", "silu", "gelu", "hard_swish")
"""Methods of one operand that need no argument."""


class Tensor(Elementwise, Norms, Shaping, Local):
    """A value of a network; its methods add layers and return their results."""

    def conv(
        self,
        filters: int,
        kernel: Window,
        stride: Window = 1,
        padding: Padding = 0,
        *,
        dilation: Window = 1,
        groups: int = 1,
        bias: bool | np.ndarray = True,
        weight: np.ndarray | None = None,
        gain: float = 1.0,
        name: str | None = None,
    ) -> Tensor:
        """Convolution in as many spatial dimensions as the input has: [N, C, H, W] → [N, filters, P, Q].

        padding: see `windows.pads`. weight: [filters, C/groups, *kernel], drawn by default. bias: drawn (True), absent
        (False) or [filters]. gain: factor on drawn filters.

        Raises:
            ShapeError: C or filters that groups do not divide, given weights of another shape, a window larger than
                the padded input; in a strict network also windows that leave rows or columns unread.
        """
        name = self.network.unique("conv", name)
        window = self._window(kernel, stride, padding, dilation, name)
        return self._convolve(name, filters, window, groups, bias, weight, gain)

    def depthwise(
        self,
        kernel: Window,
        stride: Window = 1,
        padding: Padding = 0,
        *,
        multiplier: int = 1,
        dilation: Window = 1,
        bias: bool | np.ndarray = True,
        weight: np.ndarray | None = None,
        gain: float = 1.0,
        name: str | None = None,
    ) -> Tensor:
        """Convolution of each channel by itself, with ``multiplier`` filters each; see `conv`."""
        name = self.network.unique("depthwise", name)
        window = self._window(kernel, stride, padding, dilation, name)
        channels = self._channels(name)
        return self._convolve(name, channels * multiplier, window, channels, bias, weight, gain)

    def separable(
        self, filters: int, kernel: Window, stride: Window = 1, padding: Padding = 0, *, name: str | None = None
    ) -> Tensor:
        """Depthwise convolution, then a 1x1 convolution to ``filters`` channels."""
        name = self.network.unique("separable", name)
        spatial = self.depthwise(kernel, stride, padding, bias=False, name=f"{name}.depthwise")
        return spatial.conv(filters, 1, name=f"{name}.pointwise")

    def _convolve(
        self,
        name: str,
        filters: int,
        window: dict[str, tuple[int, ...]],
        groups: int,
        bias: bool | np.ndarray,
        weight: np.ndarray | None,
        gain: float,
    ) -> Tensor:
        net, channels = self.network, self._grouped(filters, groups, name)
        shape = (filters, channels // groups, *window["kernel_shape"])
        attributes = {**window, "groups": groups}
        del attributes["kernel_shape"]
        inputs = [self.value, net.filters(weight, name, shape, gain), *net.shift(bias, name, (filters,))]
        return net.add("Conv", inputs, attributes, name=name)

    def _grouped(self, filters: int, groups: int, name: str) -> int:
        """The channels, which groups divide as they do the filters."""
        channels = self._channels(name)
        for what, found in (("filters", filters), ("groups", groups)):
            if found < 1:
                raise errors.no_units(name, what, found)
        if channels % groups or filters % groups:
            raise errors.groups_misfit(name, channels, filters, groups)
        return channels

    def conv_transpose(
        self,
        filters: int,
        kernel: Window,
        stride: Window = 1,
        padding: Padding = 0,
        *,
        output_padding: Window = 0,
        dilation: Window = 1,
        groups: int = 1,
        bias: bool | np.ndarray = True,
        weight: np.ndarray | None = None,
        gain: float = 1.0,
        name: str | None = None,
    ) -> Tensor:
        """Transposed convolution: each element spreads a window, stride apart: [N, C, H, W] → [N, filters, P, Q].

        P = (H - 1) · stride + dilation · (kernel - 1) + 1 + output_padding - padding at both ends, or H · stride for
        "same". weight: [C, filters/groups, *kernel], drawn by default.
        """
        net = self.network
        name = net.unique("conv_transpose", name)
        channels = self._grouped(filters, groups, name)
        attributes = self._spread(kernel, stride, padding, dilation, output_padding, name)
        size = attributes.pop("kernel_shape")
        shape = (channels, filters // groups, *size)
        full = f"{name}.weight"

        def draw() -> np.ndarray:
            """Every tap has filters of its own, of which kernel / stride meet at an output along each axis."""
            taps, depth = math.prod(size), channels // groups
            met = (math.prod(attributes["strides"]) / taps) ** 0.5
            drawn = net.weights.filters(full, (filters * taps, depth), gain * met)
            return np.moveaxis(drawn.reshape(groups, -1, *size, depth), -1, 1).reshape(shape)

        inputs = [self.value, net.given(weight, full, shape, draw, name), *net.shift(bias, name, (filters,))]
        return net.add("ConvTranspose", inputs, {**attributes, "groups": groups}, name=name)

    def dense(
        self,
        units: int,
        *,
        bias: bool | np.ndarray = True,
        weight: np.ndarray | None = None,
        gain: float = 1.0,
        name: str | None = None,
    ) -> Tensor:
        """Fully connected layer: [N, ...] → [N, units]; an input of higher rank is flattened first.

        weight: [units, inputs], drawn by default. bias: drawn (True), absent (False) or [units].
        """
        net = self.network
        name = net.unique("dense", name)
        if units < 1:
            raise errors.no_units(name, "units", units)
        flat = self if self.rank <= 2 else self.flatten(name=f"{name}.flatten")
        inputs = [flat.value, net.filters(weight, name, (units, flat._channels(name)), gain)]
        return net.add("Gemm", inputs + net.shift(bias, name, (units,)), {"trans_b": True}, name=name)

    def squeeze_excitation(
        self, squeezed: int, activation: str = "relu", gate: str = "sigmoid", *, name: str | None = None
    ) -> Tensor:
        """Channels times gates computed from their means (Hu et al. 2018).

        squeezed: channels between the two 1x1 convolutions. activation, gate: names of methods, behind the first
        and the second.
        """
        name = self.network.unique("squeeze_excitation", name)
        for given in (activation, gate):
            if given not in ACTIVATIONS:
                raise errors.one_of(given, ACTIVATIONS, "activation")
        means = self.global_avg_pool(name=f"{name}.squeeze")
        reduced = getattr(means.conv(squeezed, 1, name=f"{name}.reduce"), activation)()
        gates: Tensor = getattr(reduced.conv(self.channels, 1, name=f"{name}.expand"), gate)()
        return self.mul(gates, name=f"{name}.scale")

    # -- pooling ------------------------------------------------------------------------------------------------------
    def max_pool(
        self,
        kernel: Window,
        stride: Window | None = None,
        padding: Padding = 0,
        *,
        dilation: Window = 1,
        ceil: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Largest value of each window; ``stride`` is the kernel by default; ``ceil`` keeps windows over the edge."""
        name = self.network.unique("max_pool", name)
        window = self._window(kernel, stride, padding, dilation, name, ceil)
        return self.network.add("MaxPool", [self.value], {**window, "ceil_mode": ceil}, name=name)

    def avg_pool(
        self,
        kernel: Window,
        stride: Window | None = None,
        padding: Padding = 0,
        *,
        dilation: Window = 1,
        ceil: bool = False,
        count_include_pad: bool = False,
        name: str | None = None,
    ) -> Tensor:
        """Mean of each window, padding included where ``count_include_pad`` is set; see `max_pool`."""
        name = self.network.unique("avg_pool", name)
        window = self._window(kernel, stride, padding, dilation, name, ceil)
        flags = {"ceil_mode": ceil, "count_include_pad": count_include_pad}
        return self.network.add("AveragePool", [self.value], {**window, **flags}, name=name)

    def global_avg_pool(self, *, name: str | None = None) -> Tensor:
        """Mean over all positions: [N, C, H, W] → [N, C, 1, 1]."""
        axes = tuple(range(2, self.rank))
        return self._unary("ReduceMean", "global_avg_pool", name, axes=axes, keepdims=True)

    def global_max_pool(self, *, name: str | None = None) -> Tensor:
        """Largest value over all positions: [N, C, H, W] → [N, C, 1, 1]."""
        axes = tuple(range(2, self.rank))
        return self._unary("ReduceMax", "global_max_pool", name, axes=axes, keepdims=True)
