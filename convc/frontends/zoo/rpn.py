"""The region proposal network of Faster R-CNN (Ren et al. 2015) on the features of VGG-16."""

from __future__ import annotations

from ..dsl import Network
from .vgg import features


def faster_rcnn_rpn(net: Network, size: int = 224, anchors: int = 9) -> None:
    """Scores of object and background, and four offsets of a box, for each anchor at each place of a 16-pixel grid."""
    x = features(net.input(3, size, size), last_pool=False)[-1]
    x = x.conv(512, 3, padding=1, name="rpn").relu()
    scores = x.conv(2 * anchors, 1, name="rpn.scores")
    batch, _, rows, columns = scores.shape
    pairs = scores.reshape(batch, 2, anchors * rows, columns).softmax()
    net.output(pairs.reshape(*scores.shape, name="probabilities"), "scores")
    net.output(x.conv(4 * anchors, 1, name="rpn.boxes"), "boxes")
