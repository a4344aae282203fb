"""The operators, by family; importing this package registers all of them."""

from . import (
    contraction,
    convolution,
    elementwise,
    movement,
    normalization,
    pooling,
    reduction,
    structural,
    views,
)

__all__ = [
    "contraction",
    "convolution",
    "elementwise",
    "movement",
    "normalization",
    "pooling",
    "reduction",
    "structural",
    "views",
]
