"""YOLO: tiny YOLOv2 for the 20 classes of VOC (Redmon & Farhadi 2016), tiny YOLOv3 for the 80 of COCO (2018).

Both are Darknet's configurations: convolutions without bias, batch-norm and leaky ReLU of slope 0.1; a 1x1 convolution
with bias in front of each output.
"""

from __future__ import annotations

import numpy as np

from ..dsl import Network, Tensor, concat

ANCHORS = np.array([[10, 14], [23, 27], [37, 58], [81, 82], [135, 169], [344, 319]], np.float32)
"""Widths and heights in pixels; the three large ones are for the coarse grid."""

SMALL = 0.3
"""Gain in front of an exponential."""


def tiny_yolo_v2(net: Network, size: int = 416, classes: int = 20) -> None:
    """Five boxes for each cell of a grid of size/32: [N, 5 · (5 + classes), grid, grid], not decoded."""
    x = net.input(3, size, size)
    for index, filters in enumerate((16, 32, 64, 128, 256)):
        x = _conv(x, filters, 3, f"conv{index + 1}").max_pool(2)
    x = _conv(x, 512, 3, "conv6").max_pool(2, 1, "same")
    x = _conv(_conv(x, 1024, 3, "conv7"), 1024, 3, "conv8")
    net.output(x.conv(5 * (5 + classes), 1, name="conv9"))


def yolo_v3_tiny(net: Network, size: int = 416, classes: int = 80) -> None:
    """Boxes of two grids, decoded: [N, boxes, 5 + classes] with centre, width and height in pixels, then scores."""
    x = net.input(3, size, size)
    for index, filters in enumerate((16, 32, 64, 128)):
        x = _conv(x, filters, 3, f"conv{index + 1}").max_pool(2)
    fine = _conv(x, 256, 3, "conv5")
    x = _conv(fine.max_pool(2), 512, 3, "conv6").max_pool(2, 1, "same")
    x = _conv(_conv(x, 1024, 3, "conv7"), 256, 1, "conv8")
    coarse = _conv(x, 512, 3, "conv9").conv(3 * (5 + classes), 1, gain=SMALL, name="head1")
    x = concat([_conv(x, 128, 1, "conv10").upsample(2), fine])
    fine = _conv(x, 256, 3, "conv11").conv(3 * (5 + classes), 1, gain=SMALL, name="head2")
    boxes = [_decoded(coarse, ANCHORS[3:], size, "decode1"), _decoded(fine, ANCHORS[:3], size, "decode2")]
    net.output(concat(boxes, axis=1, name="decode"))


def _decoded(x: Tensor, anchors: np.ndarray, size: int, name: str) -> Tensor:
    """[N, 3 · (5 + classes), G, G] → [N, 3 · G², 5 + classes]: (σ(t) + cell) · stride, anchor · exp(t), σ of scores."""
    batch, _, rows, columns = x.shape
    grid = int(rows), int(columns)  # type: ignore[arg-type]
    parts = x.reshape(batch, 3, x.channels // 3, *grid, name=f"{name}.parts").transpose(0, 1, 3, 4, 2)
    place, extent, scores = parts.split([2, 2, x.channels // 3 - 4], axis=-1, name=f"{name}.split")
    cells = np.stack(np.meshgrid(*map(np.arange, grid[::-1])), axis=-1).astype(np.float32)
    centre = place.sigmoid().add(cells, name=f"{name}.cells").mul(size / grid[0], name=f"{name}.centre")
    sides = extent.activation("Exp").mul(anchors.reshape(3, 1, 1, 2), name=f"{name}.sides")
    boxes = concat([centre, sides, scores.sigmoid()], axis=-1, name=f"{name}.boxes")
    return boxes.reshape(batch, 3 * grid[0] * grid[1], x.channels // 3, name=name)


def _conv(x: Tensor, filters: int, kernel: int, name: str) -> Tensor:
    y = x.conv(filters, kernel, padding=kernel // 2, bias=False, name=f"{name}.conv")
    return y.batch_norm(name=f"{name}.bn").leaky_relu(0.1, name=name)
