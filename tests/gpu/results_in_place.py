"""A fake GPU that computes nothing, except that the last kernel of a network leaves what NumPy makes of the images."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from fake_driver import Allocation, FakeDriver, LaunchRecord

from bench.gpu import numerics
from bench.gpu.cases import Case
from convc.runtime.artifact import Artifact
from convc.runtime.dtypes import numpy_dtype


def leave_results(
    fake: FakeDriver, case: Case, artifact: Artifact, change: Callable[[np.ndarray], np.ndarray] = lambda y: y
) -> None:
    """Hooks the last kernel of an artifact. change: what is done to the right results."""
    (program,) = artifact.manifest.programs
    (image,), (result,) = artifact.manifest.inputs, artifact.manifest.outputs
    last = program.kernels[program.launches[-1].kernel].name
    shape, kind = image.shape, numpy_dtype(image.dtype)
    nbytes = int(np.prod(shape)) * kind.itemsize

    def hook(record: LaunchRecord) -> None:
        output = allocation(fake, record, int(np.prod(result.shape)) * numpy_dtype(result.dtype).itemsize)
        images = view(beside(fake, output, nbytes)).view(kind).reshape(shape)
        found = change(numerics.in_numpy(case.network, case.dtype, images)).astype(numpy_dtype(result.dtype))
        view(output)[:] = found.reshape(-1).view(np.uint8)

    fake.hooks[last] = hook


def allocation(fake: FakeDriver, record: LaunchRecord, nbytes: int) -> Allocation:
    """The allocation of a size that a launch was given."""
    return next(
        found for found in fake.allocations.values() if found.nbytes == nbytes and found.pointer in record.values
    )


def beside(fake: FakeDriver, output: Allocation, nbytes: int) -> Allocation:
    """The allocation of a size that was made next to another one: that of the same network."""
    made = list(fake.allocations.values())
    place = made.index(output)
    fitting = [index for index, found in enumerate(made) if found.nbytes == nbytes]
    return made[min(fitting, key=lambda index: abs(index - place))]


def view(found: Allocation) -> np.ndarray[Any, Any]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * found.nbytes).from_address(found.pointer))
