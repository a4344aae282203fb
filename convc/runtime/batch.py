"""How many images a run has, where the batch is dynamic: the first dimension of inputs and outputs goes with it.

Such a network is compiled for its largest batch, and every image by itself is computed from that image alone. A run
with fewer puts them in front and takes as many results; what is computed behind them is never seen. Buffers of inputs
start out as zeros, so that even there only images stand that are zeros or were given before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from .manifest import LaunchSpec, TensorSpec


def images_of(specs: Sequence[TensorSpec], arrays: Sequence[Any]) -> int:
    """The images that arrays of these inputs hold; 0 where the batch is not dynamic."""
    for spec, array in zip(specs, arrays, strict=True):
        if spec.images:
            return array.shape[0] // spec.images
    return 0


def grid_of(launch: LaunchSpec, images: int) -> tuple[int, int, int]:
    """The grid of a launch in a run with so many images; 0 where the batch is not dynamic, or all are computed."""
    across, *rest = launch.grid
    enough = (programs for most, programs in launch.fewer if 0 < images <= most)
    return (next(enough, across), rest[0], rest[1])


def for_images(spec: TensorSpec, images: int) -> TensorSpec:
    """An input or output as it is in a run with so many images."""
    return msgspec.structs.replace(spec, shape=shape_of(spec, images), images=0) if spec.images else spec


def shape_of(spec: TensorSpec, images: int) -> tuple[int, ...]:
    """The shape of an input or output in a run with so many images."""
    return (spec.images * images, *spec.shape[1:]) if spec.images else spec.shape
