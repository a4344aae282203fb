"""Convolutions that end in pooling."""

from __future__ import annotations

from dataclasses import replace

from ...ir import Node
from ...ir.pooled import PooledContraction, PoolWindow
from ...ir.problem import Axis, IterDim, Operand
from ...ir.rewriting import collapse
from .builder import Builder
from .contractions import dense


def lower_pooled(b: Builder) -> PooledContraction:
    """A convolution over its own pixels, and the windows behind it; the result has their places as pixels."""
    pool = b.graph.node(b.region.output.node)
    placed = b.placement(b.region.output)
    region = replace(b.region, nodes=b.region.nodes[:-1], output=b.graph.inputs(pool)[0])
    n, k, p, q = placed.strides
    unplaced = Operand("y", b.region.output, placed.dtype, (0,) * 5, placed.offset, border=placed.border)
    plain = dense(replace(b, region=region), b.anchor.attributes["groups"], unplaced)
    group, batch, *_, filters = plain.dims
    windows = tuple(_window(b, pool, axis, dim) for axis, dim in enumerate(("p", "q")))
    pixels = (IterDim(window.dim, window.covered, Axis.ROW) for window in windows)
    changes = {
        "dims": (group, batch, *pixels, filters),
        "output": replace(unplaced, strides=(k * filters.extent, n, p, q, k)),
        "windows": windows,
        "pooling": "max" if pool.op == "MaxPool" else "mean",
    }
    return collapse(PooledContraction(**vars(plain) | changes), [2, 3])


def _window(b: Builder, pool: Node, axis: int, dim: str) -> PoolWindow:
    attributes = pool.attributes
    limit = b.shape(b.graph.inputs(pool)[0])[2 + axis]
    places = b.output_shape[2 + axis]
    return PoolWindow(dim, attributes["kernel_shape"][axis], attributes["pads"][axis], limit, places)
