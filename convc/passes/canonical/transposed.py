"""Transposed convolutions become convolutions whose channels are then spread over blocks of pixels.

With stride s, output u (counted before the padding is cut off) takes the taps j with u - j = s·i, so outputs of one
phase u mod s share their taps: phase r has those with j mod s = r. Each phase is an ordinary convolution of stride 1
with every s-th tap, turned around. They become the filters of one convolution, s for each of the user's along each
axis, and depth-to-space puts phase r of pixel q to place q·s + r:

    conv_transpose(x, w) = slice(depth_to_space(conv(x, phases(w))))

It is the sub-pixel convolution of Shi et al. (2016, "Is the deconvolution layer the same as a convolutional layer?").
Where the stride does not divide the kernel, phases with fewer taps have zeros among theirs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir import Graph, Node, Value


@dataclass(frozen=True)
class Axis:
    """One axis of the convolution that takes a transposed one's place.

    taps: of each phase, ``gap`` apart. first: the first pixel, in blocks of ``stride`` outputs, that is computed;
    blocks: how many are. cut: outputs of the first block in front of the result. size: of the result.
    """

    stride: int
    taps: int
    gap: int
    first: int
    blocks: int
    cut: int
    size: int

    def pads(self, extent: int) -> tuple[int, int]:
        """Padding in front of and behind an input of this extent; negative where not all of it is read."""
        reach = self.gap * (self.taps - 1)
        return reach - self.first, self.first + self.blocks - extent

    def reads(self, extent: int) -> bool:
        """Whether anything of the input is read."""
        return extent + sum(min(pad, 0) for pad in self.pads(extent)) > 0


def expand_transposed(graph: Graph) -> bool:
    """conv_transpose(x, w) → slice(depth_to_space(conv(x, phases(w)))), for constant filters."""
    changed = False
    for node in graph.of_kind("ConvTranspose"):
        x, w, *bias = graph.inputs(node)
        if 0 in node.outputs[0].shape or any(graph.constant(value) is None for value in (w, *bias)):
            continue
        weight = _spread(graph.node(w.node).array, node.attributes["strides"], node.attributes["dilations"])
        axes = _axes(node, weight.shape[2:])
        if all(axis.reads(int(n)) for axis, n in zip(axes, graph.type(x).shape[2:], strict=True)):  # type: ignore[arg-type]
            graph.replace(Value(node.id), _rewritten(graph, node, weight, axes))
            graph.remove(node)
            changed = True
    return changed


def _rewritten(graph: Graph, node: Node, weight: np.ndarray, axes: Sequence[Axis]) -> Value:
    (x, w, *bias), groups = graph.inputs(node), node.attributes["groups"]
    filters = graph.add_constant(phases(weight, groups, axes), origins=graph.producer(w).origins)
    inputs = [filters, *(_repeated(graph, value, axes) for value in bias)]
    pads = [axis.pads(int(extent)) for axis, extent in zip(axes, graph.type(x).shape[2:], strict=True)]  # type: ignore[arg-type]
    attributes = {
        "strides": (1,) * len(axes),
        "dilations": tuple(axis.gap for axis in axes),
        "pads": (*(max(begin, 0) for begin, _ in pads), *(max(end, 0) for _, end in pads)),
        "groups": groups,
    }
    y = graph.add("Conv", [_cropped(graph, node, x, pads), *inputs], attributes, origins=node.origins)
    return _placed(graph, node, y, axes)


def _spread(weight: np.ndarray, strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """Filters without dilation on the axes that have a stride: zeros stand between their taps."""
    for axis, (stride, dilation) in enumerate(zip(strides, dilations, strict=True), start=2):
        if stride > 1 and dilation > 1:
            shape = list(weight.shape)
            shape[axis] = dilation * (shape[axis] - 1) + 1
            wide = np.zeros(shape, weight.dtype)
            wide[(slice(None),) * axis + (slice(None, None, dilation),)] = weight
            weight = wide
    return weight


def _axes(node: Node, kernel: Sequence[int]) -> list[Axis]:
    found = []
    for i, (stride, taps) in enumerate(zip(node.attributes["strides"], kernel, strict=True)):
        begin, size = node.attributes["pads"][i], int(node.outputs[0].shape[2 + i])  # type: ignore[arg-type]
        gap = node.attributes["dilations"][i] if stride == 1 else 1
        first, last = begin // stride, (begin + size - 1) // stride
        found.append(Axis(stride, -(-taps // stride), gap, first, last - first + 1, begin - first * stride, size))
    return found


def phases(weight: np.ndarray, groups: int, axes: Sequence[Axis]) -> np.ndarray:
    """Filters [C, K/groups, kernel] as [K · strides, C/groups, taps], the phases of a filter one after the other."""
    rank, channels = len(axes), weight.shape[0] // groups
    room = [(0, axis.taps * axis.stride - have) for axis, have in zip(axes, weight.shape[2:], strict=True)]
    full = np.pad(weight, [(0, 0), (0, 0), *room])
    apart = [part for axis in axes for part in (axis.taps, axis.stride)]
    parts = full.reshape(groups, channels, weight.shape[1], *apart)
    taps, steps = tuple(3 + 2 * i for i in range(rank)), tuple(4 + 2 * i for i in range(rank))
    turned = np.flip(parts, taps).transpose(0, 2, *steps, 1, *taps)
    filters = weight.shape[1] * groups * math.prod(axis.stride for axis in axes)
    return np.ascontiguousarray(turned).reshape(filters, channels, *(axis.taps for axis in axes))


def _repeated(graph: Graph, bias: Value, axes: Sequence[Axis]) -> Value:
    repeated = np.repeat(graph.node(bias.node).array, math.prod(axis.stride for axis in axes))
    return graph.add_constant(repeated, origins=graph.producer(bias).origins)


def _cropped(graph: Graph, node: Node, x: Value, pads: Sequence[tuple[int, int]]) -> Value:
    """The part of the input that is read."""
    if all(pad >= 0 for pair in pads for pad in pair):
        return x
    shape = graph.type(x).shape
    starts = (0, 0, *(max(-begin, 0) for begin, _ in pads))
    sizes = (*shape[:2], *(n + min(b, 0) + min(e, 0) for n, (b, e) in zip(shape[2:], pads, strict=True)))
    attributes = {"starts": starts, "sizes": sizes, "steps": (1,) * len(shape)}
    return graph.add("Slice", [x], attributes, origins=node.origins)


def _placed(graph: Graph, node: Node, y: Value, axes: Sequence[Axis]) -> Value:
    """Depth-to-space of the phases, then what padding cuts off is dropped."""
    batch, filters = node.outputs[0].shape[:2]
    rank, strides = len(axes), [axis.stride for axis in axes]
    if any(stride > 1 for stride in strides):
        apart = (batch, filters, *strides, *(axis.blocks for axis in axes))
        perm = (0, 1, *(part for i in range(rank) for part in (2 + rank + i, 2 + i)))
        whole = (batch, filters, *(axis.blocks * axis.stride for axis in axes))
        y = graph.add("Reshape", [y], {"shape": apart}, origins=node.origins)
        y = graph.add("Transpose", [y], {"perm": perm}, origins=node.origins)
        y = graph.add("Reshape", [y], {"shape": whole}, origins=node.origins)
    if graph.type(y).shape == node.outputs[0].shape:
        return y
    attributes = {
        "starts": (0, 0, *(axis.cut for axis in axes)),
        "sizes": (batch, filters, *(axis.size for axis in axes)),
        "steps": (1,) * (2 + rank),
    }
    return graph.add("Slice", [y], attributes, origins=node.origins)
