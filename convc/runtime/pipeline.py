"""Batches one after the other, copied in and out while others are computed.

There are two lanes, each with input and output buffers on the GPU, page-locked memory on the host for both, and a graph
of the network bound to them. Weights and arena are those of the executor, and so is the stream of the launches, on
which they never overlap; the copies to the GPU and those back have a stream each. Batch ``n`` uses lane ``n % 2``:

- its inputs are put into the lane's host memory when the copy of batch ``n - 2`` from there is done, and copied to the
  GPU when the launches of batch ``n - 2`` have read what was there before;
- it is launched, and its outputs are copied to host memory, when its inputs have arrived and the caller has taken the
  outputs of batch ``n - 2``. Where the host has steps between launches, it is waited for up to the last of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .batch import images_of, shape_of
from .check import tensor_bytes
from .course import Course, page_locked
from .manifest import TensorSpec, is_found
from .session import allocate_one, new_event, new_stream, own, quietly, release
from .streaming import LANES

if TYPE_CHECKING:
    from .cuda import CudaExecutor


class Place(NamedTuple):
    """Where an input or output lies on the GPU."""

    pointer: int
    spec: TensorSpec
    dtype: np.dtype


Staged = list[tuple[Place, np.ndarray]]
"""Places, each with an array in page-locked memory."""


class _Lane:
    """What one batch uses. inputs, outputs: in order, with flat arrays. uploaded, launched: images of the batch that
    was uploaded last, and of the one that was launched last, where the batch is dynamic."""

    def __init__(self, inputs: Staged, outputs: Staged, course: Course) -> None:
        self.inputs, self.outputs, self.course = inputs, outputs, course
        self.found: dict[int, np.ndarray] = {}
        self.uploaded = self.launched = 0
        self.arrived: Any = None
        self.computed: Any = None
        self.left: Any = None

    def results(self) -> Staged:
        """The outputs that are copied, with arrays of as many images as were launched."""
        shapes = [
            (place, staged, shape_of(place.spec, self.launched))
            for place, staged in self.outputs
            if not is_found(place.spec)
        ]
        return [(place, staged[: math.prod(shape)].reshape(shape)) for place, staged, shape in shapes]


class Pipeline:
    """Two lanes over a prepared program. Made by `CudaExecutor.pipeline`; used by one thread at a time.

    Call `upload` for every batch, and behind it `launch`; `collect` gives the results in order. At most two batches may
    be launched and not collected, and one more uploaded.
    """

    def __init__(self, executor: CudaExecutor, inputs: Sequence[Place], outputs: Sequence[Place]) -> None:
        """Allocate and capture; the device is current. Raises `DeviceError`, and then gives everything back."""
        self._executor = executor  # whose arena is in use
        self._device, self._driver = executor.device, executor.device.driver
        self._session, self._run = executor.session, executor.stream
        self._uploaded = self._launched = self._collected = 0
        with ExitStack() as undo:
            self._up, self._down = (new_stream(self._driver, undo) for _ in range(2))
            self._lanes = [self._lane(undo, executor, inputs, outputs) for _ in range(LANES)]
            for stream in (self._down, self._up):  # the one waits for the launches, too
                undo.callback(quietly, self._driver.synchronize, stream)
            self._owned = own(self, self._device, undo)

    def upload(self, inputs: Sequence[np.ndarray]) -> None:
        """Queue the copy of a batch to the GPU. The arrays may be changed afterwards."""
        driver, lane = self._driver, self._lanes[self._uploaded % LANES]
        with self._session:
            driver.finish(lane.arrived)
            driver.wait(self._up, lane.computed)
            lane.uploaded = images_of([place.spec for place, _ in lane.inputs], inputs)
            for (place, staged), array in zip(lane.inputs, inputs, strict=True):
                if array.nbytes:
                    np.copyto(staged[: array.size].reshape(array.shape), array)
                    driver.to_device(place.pointer, staged.ctypes.data, array.nbytes, self._up)
            driver.record(lane.arrived, self._up)
        self._uploaded += 1

    def launch(self) -> None:
        """Queue the network on the batch uploaded next, and the copy of its outputs."""
        assert self._launched < self._uploaded and self._launched < self._collected + LANES
        driver, lane = self._driver, self._lanes[self._launched % LANES]
        with self._session:
            lane.launched = lane.uploaded
            driver.wait(self._run, lane.arrived)
            lane.course.queue(self._run)
            lane.found = self._executor.found()
            driver.record(lane.computed, self._run)
            driver.wait(self._down, lane.computed)
            for place, array in lane.results():
                if array.nbytes:
                    driver.to_host(array.ctypes.data, place.pointer, array.nbytes, self._down)
            driver.record(lane.left, self._down)
        self._launched += 1

    def collect(self) -> list[np.ndarray]:
        """The outputs of the first batch that has not been collected, as new arrays, when they are complete."""
        lane = self._lanes[self._collected % LANES]
        with self._session:
            self._driver.finish(lane.left)
        self._collected += 1
        copied = (array.copy() for _, array in lane.results())
        return [lane.found[i] if i in lane.found else next(copied) for i in range(len(lane.outputs))]

    @property
    def pending(self) -> int:
        """Batches that are launched and not collected."""
        return self._launched - self._collected

    def close(self) -> None:
        """Let what is queued finish, and give everything back; closing twice is fine."""
        release(self._device, self._owned)

    # -- Preparing

    def _lane(
        self, undo: ExitStack, executor: CudaExecutor, inputs: Sequence[Place], outputs: Sequence[Place]
    ) -> _Lane:
        staged = {
            role: [self._staged(undo, role, place) for place in places]
            for role, places in (("input", inputs), ("output", outputs))
        }
        own = {f"{role}:{i}": place.pointer for role, pairs in staged.items() for i, (place, _) in enumerate(pairs)}
        lane = _Lane(staged["input"], staged["output"], executor.bound_to(own, undo))
        lane.arrived, lane.computed, lane.left = (new_event(self._driver, undo, timed=False) for _ in range(3))
        return lane

    def _staged(self, undo: ExitStack, role: str, given: Place) -> tuple[Place, np.ndarray]:
        """A buffer on the GPU, and page-locked memory of the same size as a flat array."""
        nbytes = tensor_bytes(given.spec)
        pointer = allocate_one(self._device, nbytes, f"an {role} of batches that overlap", undo)
        staged = page_locked(self._device, nbytes, f"an {role} of batches that overlap", undo)
        if role == "input" and given.spec.images:
            self._driver.fill(pointer, 0, nbytes, self._up)
        return given._replace(pointer=pointer), staged.view(given.dtype)
