"""The interpreter executor: the emitted kernels in Triton's interpreter, on the plan's own arena and offsets.

Interpreted and compiled kernels cannot share a process, so the kernels run in a child
(`convc.runtime.interpreter_worker`). All buffers are shared memory: arrays are copied once into the input buffers and
once out of the output buffers. The arena starts out filled with NaN, so that a read of something never written shows.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from .. import errors
from ..workers import read_message, write_message
from .artifact import Artifact, load_weights
from .dtypes import numpy_dtype
from .interpreter_worker import Buffer, Finished, Passed, Range, Reply, Setup, Step
from .manifest import Argument, IntegerArgument, ProgramSpec, TensorMapArgument, TensorSpec
from .tensor_maps import descriptor_type

_POISON = 0xFF
"""Every float of these bytes is a NaN."""


class InterpreterExecutor:
    """Runs a program's kernels one after the other in Triton's interpreter; see `convc.runtime.executor.Executor`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._buffers: dict[str, _Shared] = {}

    def prepare(self, artifact: Artifact, program: ProgramSpec | None) -> None:
        """Allocates the buffers, fills in the weights and starts the child.

        Raises:
            DeviceError: the artifact has no program, or one with kernels in Gluon, or the child does not start.
        """
        manifest = artifact.manifest
        if program is None:
            raise errors.no_program("interpreter", {p.target: p for p in manifest.programs})
        _check_interpretable(program)
        self._inputs, self._outputs, self._program = manifest.inputs, manifest.outputs, program
        sizes = {"arena": program.arena_bytes, "weights": manifest.weights_bytes, "counters": program.counter_bytes}
        sizes |= {f"input:{i}": tensor_bytes(spec) for i, spec in enumerate(manifest.inputs)}
        sizes |= {f"output:{i}": tensor_bytes(spec) for i, spec in enumerate(manifest.outputs)}
        for name, nbytes in sizes.items():
            self._buffers[name] = _Shared(name, nbytes)
        self.buffer("arena")[:] = _POISON
        if manifest.weights:
            load_weights(artifact, memoryview(self._buffers["weights"].memory))
        self._start(artifact, program, sizes)

    def _start(self, artifact: Artifact, program: ProgramSpec, sizes: dict[str, int]) -> None:
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads would block the child)
        command = [sys.executable, "-m", "convc.runtime.interpreter_worker"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            pass_fds=[shared.descriptor for shared in self._buffers.values()],
        )
        setup = Setup(
            buffers=[Buffer(name, self._buffers[name].descriptor, max(nbytes, 1)) for name, nbytes in sizes.items()],
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
        self._ask(setup)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One pass over all launches. Raises `DeviceError` where a kernel fails."""
        return self.run_timed(inputs)[0]

    def run_timed(self, inputs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], list[float]]:
        """The outputs and the seconds of each launch."""
        self.load(inputs)
        seconds = self.advance()
        return [self._output(index, spec) for index, spec in enumerate(self._outputs)], seconds

    def load(self, inputs: Sequence[np.ndarray]) -> None:
        """Copies the inputs into their buffers, and runs nothing."""
        for index, array in enumerate(inputs):
            data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self.buffer(f"input:{index}")[: data.size] = data

    def advance(self, first: int = 0, last: int = -1) -> list[float]:
        """Runs the launches from ``first`` to the one before ``last`` (−1: to the end) on the buffers as they are.

        Returns the seconds of each. Raises `DeviceError` where a kernel fails.
        """
        return self._ask(Range(first, last)).seconds

    def timer(self, launch: int, repeats: int) -> Callable[[], float]:
        """What measures one launch on the buffers as they are: microseconds of Triton's interpreter, of one run."""
        return lambda: 1e6 * self.advance(launch, launch + 1)[0]

    def buffer(self, name: str) -> np.ndarray:
        """The bytes of a buffer as they are now."""
        return np.frombuffer(self._buffers[name].memory, np.uint8)

    def _output(self, index: int, spec: TensorSpec) -> np.ndarray:
        count = int(np.prod(spec.shape, dtype=np.int64))
        memory = self._buffers[f"output:{index}"].memory
        return np.frombuffer(memory, numpy_dtype(spec.dtype), count=count).reshape(spec.shape).copy()

    def _ask(self, message: Setup | Range) -> Finished:
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        try:
            write_message(self._process.stdin, message)
            reply = read_message(self._process.stdout, Reply)
        except OSError:
            reply = None
        if isinstance(reply, Finished):
            return reply
        if reply is None:
            self._said.seek(0)
            said = self._said.read().decode(errors="replace").strip().splitlines()
            raise errors.interpreter_failed(None, said[-1] if said else "the process ended")
        launch = self._program.launches[reply.step] if reply.step >= 0 else None
        raise errors.interpreter_failed(", ".join(launch.origins) if launch else None, reply.reason)

    def close(self) -> None:
        """Ends the child and gives the buffers back."""
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process.wait()
            self._said.close()
            self._process = None
        for shared in self._buffers.values():
            shared.close()
        self._buffers = {}


class _Shared:
    """Anonymous memory that the child maps too; it starts out zero."""

    def __init__(self, name: str, nbytes: int) -> None:
        self.descriptor = os.memfd_create(f"convc-{name}")
        os.ftruncate(self.descriptor, max(nbytes, 1))
        self.memory = mmap.mmap(self.descriptor, max(nbytes, 1))

    def close(self) -> None:
        """The memory itself goes when the last view of it does."""
        os.close(self.descriptor)


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


def tensor_bytes(spec: TensorSpec) -> int:
    """Bytes of a dense tensor."""
    return int(np.prod(spec.shape, dtype=object)) * numpy_dtype(spec.dtype).itemsize
