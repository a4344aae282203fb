"""Steps of the host between launches, as executors see them.

An executor lends its memory: for every tensor of a step an array of the bytes from the tensor's first element to its
last. A step reads tensors from there, as they are stored, computes in the precision of the network's own types, and
puts its results back as they are stored. Values that no kernel reads, and those whose size only the run finds out,
never leave the host: the steps of one run share them. What evaluates them needs the graph, and is imported only where
there are any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from .artifact import Artifact
from .check import host_extent
from .dtypes import numpy_dtype
from .manifest import HostStepSpec, HostTensor, ProgramSpec

Memory = Callable[[HostTensor], np.ndarray]
"""The bytes of a tensor in a buffer, from its first element to its last, which can be written to."""


class HostSteps:
    """What the host does in the runs of a program; this one does nothing."""

    def __init__(self, specs: Sequence[HostStepSpec] = ()) -> None:
        self.specs = specs
        self._behind: dict[int, list[int]] = {}
        for number, spec in enumerate(specs):
            self._behind.setdefault(spec.before, []).append(number)

    def begin(self) -> None:
        """Forget the run before."""

    def behind(self, launches: int) -> list[int]:
        """The steps, by number, that come when so many launches of a run are done."""
        return self._behind.get(launches, [])

    def take(self, number: int, memory: Memory) -> None:
        """One step. Raises what its operators raise, and `DeviceError` for anything unforeseen."""

    def run(self, launches: int, memory: Memory) -> None:
        """The steps that come when so many launches of a run are done."""
        for number in self.behind(launches):
            self.take(number, memory)

    def output(self, index: int) -> np.ndarray:
        """An output whose size the run has found out."""
        raise AssertionError("only the host finds out sizes")

    def segments(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The launches from ``first`` to the one before ``last`` in pieces, as (first, one past the last): steps come
        between two, and behind the last where there are some."""
        stops = sorted(stop for stop in self._behind if first < stop < last)
        yield from pairwise([first, *stops, last]) if first < last else ()


def host_steps(artifact: Artifact, program: ProgramSpec) -> HostSteps:
    """The steps of a program. Raises `ArtifactError` where they do not fit the graph."""
    if not program.host_steps:
        return HostSteps()
    from .host import HostProgram

    return HostProgram(artifact, program)


def strided(tensor: HostTensor, data: np.ndarray) -> np.ndarray:
    """A tensor over its bytes, of which the first are those of its lowest element; a view that can be written to."""
    dtype = numpy_dtype(tensor.dtype)
    first, last = host_extent(tensor)
    elements = data[: (last - first) * dtype.itemsize].view(f"u{dtype.itemsize}")[-first:]
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(elements, tensor.extents, strides).view(dtype)
