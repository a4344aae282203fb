"""The operators, by family; importing this package registers all of them."""

from . import (
    algebra,
    contraction,
    convolution,
    detection,
    elementwise,
    movement,
    normalization,
    ordering,
    picking,
    pooling,
    reduction,
    resize,
    sampling,
    structural,
    transposed,
    views,
)

__all__ = [
    "algebra",
    "contraction",
    "convolution",
    "detection",
    "elementwise",
    "movement",
    "normalization",
    "ordering",
    "picking",
    "pooling",
    "reduction",
    "resize",
    "sampling",
    "structural",
    "transposed",
    "views",
]
