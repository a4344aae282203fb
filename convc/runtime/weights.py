"""The weights section: physical tensors in the safetensors format, and their places in the ``weights`` buffer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors

from .manifest import WeightSpec

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .artifact import Artifact

SECTION = "weights.safetensors"
ALIGN = 256


def align(size: int, multiple: int) -> int:
    """``size`` rounded up to a multiple."""
    return -(-size // multiple) * multiple


def pack_weights(weights: Mapping[str, np.ndarray]) -> tuple[bytes, tuple[WeightSpec, ...], int]:
    """Physical tensors, of any dtype including bfloat16, as a section.

    Returns the section's bytes, the place of each tensor in the ``weights`` buffer (offsets are multiples of 256, in
    the mapping's order) and the size of that buffer in bytes.
    """
    specs, end = [], 0
    for name, array in weights.items():
        specs.append(WeightSpec(name, end, array.nbytes))
        end = align(end + array.nbytes, ALIGN)
    dense = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in weights.items()}
    tensors = {
        name: safetensors.TensorSpec(
            dtype=array.dtype.name, shape=list(array.shape), data_ptr=array.ctypes.data, data_len=array.nbytes
        )
        for name, array in dense.items()
    }
    return bytes(safetensors.serialize(tensors)), tuple(specs), end


def check_weights(section: memoryview, specs: Sequence[WeightSpec]) -> None:
    """Compare a section's header with the manifest, without touching the data. Raises ``ValueError``."""
    found, size = _extents(section)
    for spec in specs:
        if spec.name not in found:
            raise ValueError(f"tensor {spec.name!r} is missing")
        begin, end = found[spec.name]
        if not 0 <= begin <= end <= size:
            raise ValueError(f"tensor {spec.name!r} lies outside of it")
        if end - begin != spec.nbytes:
            raise ValueError(f"tensor {spec.name!r} has {end - begin} bytes, the manifest says {spec.nbytes}")
    if len(found) != len(specs):
        raise ValueError(f"it holds {len(found)} tensors, the manifest lists {len(specs)}")


def _extents(section: memoryview) -> tuple[dict[str, tuple[int, int]], int]:
    """Where each tensor begins and ends in the data behind the header, and how long that is."""
    length = int.from_bytes(section[:8], "little")
    if len(section) < 8 or length > len(section) - 8:
        raise ValueError("its header is cut off")
    header = json.loads(bytes(section[8 : 8 + length]))
    found = {name: _extent(entry) for name, entry in header.items()} if isinstance(header, dict) else {}
    return found, len(section) - 8 - length


def _extent(entry: Any) -> tuple[int, int]:
    try:
        begin, end = entry["data_offsets"]
        if type(begin) is int and type(end) is int:
            return begin, end
    except (KeyError, TypeError, ValueError):
        pass
    raise ValueError("its header is not that of safetensors")


def weight_bytes(artifact: Artifact) -> list[tuple[WeightSpec, memoryview]]:
    """Every weight tensor's place and content, where it lies in the file; the artifact has been checked."""
    if not artifact.manifest.weights:
        return []
    section = artifact.section(SECTION)
    extents, size = _extents(section)
    data = section[len(section) - size :]
    return [(spec, data[slice(*extents[spec.name])]) for spec in artifact.manifest.weights]


def load_weights(artifact: Artifact, into: Buffer) -> None:
    """Fill a writable buffer of at least ``manifest.weights_bytes`` bytes; gaps between tensors are left alone."""
    buffer = memoryview(into).cast("B")
    for spec, data in weight_bytes(artifact):
        buffer[spec.offset : spec.offset + spec.nbytes] = data
