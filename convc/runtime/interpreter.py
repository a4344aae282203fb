"""The interpreter executor: the emitted kernels in Triton's interpreter, on the plan's own arena and offsets.

Interpreted and compiled kernels cannot share a process, so the kernels run in a child
(`convc.runtime.interpreter_pool`). All buffers are shared memory: arrays are copied once into the input buffers and
once out of the output buffers. The arena starts out filled with NaN, so that a read of something never written shows.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .. import errors
from .artifact import Artifact, load_weights
from .batch import for_images, grid_of, images_of
from .check import buffer_sizes, host_bytes
from .dtypes import numpy_dtype
from .host_steps import host_steps
from .interpreter_pool import Child, give_back, taken
from .interpreter_worker import Buffer, Finished, Passed, Range, Reply, Setup, Step
from .manifest import Argument, HostTensor, IntegerArgument, ProgramSpec, TensorMapArgument, TensorSpec, is_found
from .tensor_maps import descriptor_type

_POISON = 0xFF
"""Every float of these bytes is a NaN."""


class InterpreterExecutor:
    """Runs a program's kernels one after the other in Triton's interpreter; see `convc.runtime.executor.Executor`."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._shared: Shared | None = None

    def prepare(self, artifact: Artifact, program: ProgramSpec | None) -> None:
        """Allocates the buffers, fills in the weights and takes a child.

        Raises:
            DeviceError: the artifact has no program, or one with kernels in Gluon, or the child does not start.
        """
        manifest = artifact.manifest
        if program is None:
            raise errors.no_program("interpreter", {p.target: p for p in manifest.programs})
        _check_interpretable(program)
        self._inputs, self._outputs, self._program = manifest.inputs, manifest.outputs, program
        self._host = host_steps(artifact, program)
        self._shared = Shared(buffer_sizes(manifest, program))
        self.buffer("arena")[:] = _POISON
        if manifest.weights:
            load_weights(artifact, self.buffer("weights").data)
        if program.launches:
            self._setup = self._described(artifact, program, self._shared)
            self._start(self._shared)

    def _described(self, artifact: Artifact, program: ProgramSpec, shared: Shared) -> Setup:
        return Setup(
            buffers=shared.buffers,
            sources=[(kernel.name, artifact.text(kernel.source)) for kernel in program.kernels],
            parameters=[[p.type for p in kernel.parameters] for kernel in program.kernels],
            steps=[
                Step(
                    kernel=launch.kernel,
                    grid=launch.grid,
                    arguments=[_told(argument) for argument in launch.arguments],
                )
                for launch in program.launches
            ],
        )

    def _start(self, shared: Shared) -> None:
        self._child, reply = taken(self._setup, shared.descriptor)
        self._checked(reply)

    def _recover(self) -> None:
        """Behind a run that failed or was interrupted: a new child, since nobody knows what this one is at, and zeros
        for counters that it may have left."""
        if self._child is not None and not self._child.sound:
            assert self._shared is not None
            give_back(self._child)
            self.buffer("counters")[:] = 0
            self._start(self._shared)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One pass over all launches. Raises `DeviceError` where a kernel fails."""
        return self.run_timed(inputs)[0]

    def run_timed(self, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
        """The outputs and the seconds of each launch."""
        self.load(inputs)
        images = images_of(self._inputs, inputs)
        seconds = self.advance(images=images)
        return [self._output(index, for_images(spec, images)) for index, spec in enumerate(self._outputs)], seconds

    def load(self, inputs: Sequence[np.ndarray]) -> None:
        """Copies the inputs into their buffers, and runs nothing."""
        self._recover()
        for index, array in enumerate(inputs):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self.buffer(f"input:{index}")[: data.size] = data

    def advance(self, first: int = 0, last: int = -1, images: int = 0, host: bool = True) -> list[float]:
        """Runs the launches from ``first`` to the one before ``last`` (−1: to the end) on the buffers as they are.
        images: how many to compute, where the batch is dynamic; 0 for all. host: and the steps of the host behind each
        launch; in front of launch 0 those that come first.

        Returns the seconds of each launch. Raises `DeviceError` where a kernel fails, and what the host's operators do.
        """
        self._recover()
        seconds: list[float] = []
        if host and first == 0:
            self.take_host(0)
        for begin, end in self._host.segments(first, len(self._program.launches) if last < 0 else last):
            assert self._child is not None
            grids = [grid_of(launch, images) for launch in self._program.launches[begin:end]] if images else []
            seconds += self._checked(self._child.ask(Range(begin, end, grids))).seconds
            if host:
                self.take_host(end)
        return seconds

    def take_host(self, launches: int) -> None:
        """Runs the steps of the host behind so many launches; behind none a new run begins."""
        if launches == 0:
            self._host.begin()
        self._host.run(launches, self._bytes_of)

    def _bytes_of(self, tensor: HostTensor) -> np.ndarray:
        begin, end = host_bytes(tensor)
        return self.buffer(tensor.buffer)[begin:end]

    def timer(self, launch: int, repeats: int) -> Callable[[], float]:
        """What measures one launch on the buffers as they are: microseconds of Triton's interpreter, of one run."""
        return lambda: 1e6 * self.advance(launch, launch + 1)[0]

    def buffer(self, name: str) -> np.ndarray:
        """The bytes of a buffer as they are now."""
        assert self._shared is not None
        return self._shared.view(name)

    def _output(self, index: int, spec: TensorSpec) -> np.ndarray:
        if is_found(spec):
            return self._host.output(index)
        held = self.buffer(f"output:{index}").view(numpy_dtype(spec.dtype))
        return held[: math.prod(spec.shape)].reshape(spec.shape).copy()

    def _checked(self, reply: Reply | None) -> Finished:
        assert self._child is not None
        if isinstance(reply, Finished):
            return reply
        if reply is None:
            raise errors.interpreter_failed(None, self._child.last_words())
        raise errors.interpreter_failed(", ".join(self._program.launches[reply.step].origins), reply.reason)

    def close(self) -> None:
        """Gives the child and the buffers back."""
        if self._child is not None:
            give_back(self._child)
            self._child = None
        if self._shared is not None:
            self._shared.close()
            self._shared = None


class Shared:
    """Anonymous memory that a child maps too, cut into buffers; it starts out zero.

    sizes: the bytes of each buffer, by name. descriptor: of the whole memory; it is closed with this object. Raises
    `DeviceError` where there is not so much.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.buffers: list[Buffer] = []
        end = 0
        for name, nbytes in sizes.items():
            self.buffers.append(Buffer(name, end, nbytes))
            end += -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.descriptor = os.memfd_create("convc")
        self._forget = weakref.finalize(self, os.close, self.descriptor)
        try:
            os.ftruncate(self.descriptor, end)
            self._memory = mmap.mmap(self.descriptor, end)
        except (OSError, OverflowError) as error:
            raise errors.no_shared_memory(end, getattr(error, "strerror", None) or error) from error
        self._places = {buffer.name: buffer for buffer in self.buffers}

    def view(self, name: str) -> np.ndarray:
        """The bytes of a buffer."""
        place = self._places[name]
        return np.frombuffer(self._memory, np.uint8, place.nbytes, place.offset)

    def close(self) -> None:
        """The memory itself goes when the last view of it does."""
        self._forget()
        del self._memory


def _check_interpretable(program: ProgramSpec) -> None:
    for kernel in program.kernels:
        types = [descriptor_type(parameter.type) for parameter in kernel.parameters]
        if any(type is not None and type.windows for type in types):
            raise errors.not_interpreted(kernel.name, program.target)


def _told(argument: Argument) -> Passed:
    """An argument as the child is told of it."""
    if isinstance(argument, IntegerArgument):
        return Passed("", argument.value)
    if isinstance(argument, TensorMapArgument):
        return Passed(argument.buffer, argument.offset, argument.shape, argument.strides)
    return Passed(argument.buffer, argument.offset)
