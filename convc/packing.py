"""The constants of a plan as its kernels read them, in one section of the artifact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .ir import Value
from .ir.plan import PackedWeight
from .passes.lowering.builder import pack_dense
from .program import Plan, packed_weights
from .runtime.artifact import pack_weights
from .runtime.manifest import ViewSpec, WeightSpec

INLINE_CONSTANT = 16
"""Constants up to this many elements stand in the graph's text."""


@dataclass(frozen=True)
class Weights:
    """The packed constants: their arrays by name, where each lies in the buffer, and which recipe made which."""

    names: dict[PackedWeight, str]
    specs: dict[str, WeightSpec]
    nbytes: int
    blob: bytes

    def offset(self, packed: PackedWeight) -> int:
        return self.specs[self.names[packed]].offset

    def views(self, plan: Plan) -> dict[str, ViewSpec]:
        """Digest in the graph's text → the packed tensor seen as the constant."""
        views = {}
        for packed, name in self.names.items():
            digest = plan.graph.node(packed.source).payload.digest  # type: ignore[union-attr]
            views[digest] = ViewSpec(name, packed.dtype.value, packed.view, packed.strides)
        return views


def pack_constants(plan: Plan) -> Weights:
    """Evaluates every packing recipe; equal results are stored once."""
    names: dict[PackedWeight, str] = {}
    arrays: dict[str, np.ndarray] = {}
    by_content: dict[tuple[object, ...], str] = {}
    for packed in [*packed_weights(plan), *_unread_constants(plan)]:
        digest = plan.graph.node(packed.source).payload.digest  # type: ignore[union-attr]
        content = (digest, packed.dtype, packed.view, packed.order, packed.pitch)
        if content not in by_content:
            by_content[content] = f"w{len(arrays)}"
            arrays[by_content[content]] = pack(plan.graph.node(packed.source).array, packed)
        names[packed] = by_content[content]
    blob, specs, nbytes = pack_weights(arrays)
    return Weights(names, {spec.name: spec for spec in specs}, nbytes, blob)


def pack(array: np.ndarray, packed: PackedWeight) -> np.ndarray:
    """A constant as it lies in the weights: cast, reordered, its rows padded with zeros."""
    shaped = array.reshape(packed.view).astype(packed.dtype.numpy, copy=False).transpose(packed.order)
    if not packed.order or shaped.shape[-1] == packed.pitch:
        return np.ascontiguousarray(shaped)
    padded = np.zeros(packed.physical_shape, packed.dtype.numpy)
    padded[..., : shaped.shape[-1]] = shaped
    return padded


def _unread_constants(plan: Plan) -> list[PackedWeight]:
    """Constants that no kernel reads but the graph's text refers to."""
    read = {packed.source for packed in packed_weights(plan)}
    large = [node for node in plan.graph.of_kind("Constant") if node.array.size > INLINE_CONSTANT]
    rest = [node for node in large if node.id not in read]
    return [pack_dense(Value(node.id), node.array.shape, node.outputs[0].dtype) for node in rest]
