"""A fake GPU whose launches run the kernels' sources in Triton's interpreter, on a copy of the fake device memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
from pathlib import Path

from convc.runtime import interpreter
from convc.runtime.artifact import Artifact
from convc.runtime.interpreter_worker import Buffer, Finished, Passed, Range, Reply, Setup, Step
from convc.runtime.manifest import KernelSpec, ProgramSpec
from convc.workers import read_message, write_message

sys.path.append(str(Path(__file__).parent.parent / "runtime"))
from fake_driver import FakeDriver, LaunchRecord
from fake_tensor_maps import MapRecord


class InterpretedGpu(FakeDriver):
    """Runs what it is asked to launch, by the parameters that reach the driver."""

    def __init__(self, artifact: Artifact, program: ProgramSpec) -> None:
        super().__init__(hooks={kernel.name: self._interpret for kernel in program.kernels})
        self._kernels = {kernel.name: kernel for kernel in program.kernels}
        self._sources = {kernel.name: artifact.text(kernel.source) for kernel in program.kernels}

    def _interpret(self, record: LaunchRecord) -> None:
        """All allocations are copied into shared memory, one worker runs the launch, and they are copied back."""
        kernel = self._kernels[record.name]
        shared = {str(pointer): _shared(pointer, a.nbytes) for pointer, a in self.allocations.items()}
        buffers = [Buffer(name, fd, len(memory)) for name, (fd, memory) in shared.items()]
        step = Step(0, record.grid, self._arguments(kernel, record))
        types = [[parameter.type for parameter in kernel.parameters]]
        run_once(Setup(buffers, [(kernel.name, self._sources[kernel.name])], types, [step]))
        for name, (descriptor, memory) in shared.items():
            ctypes.memmove(int(name), memory[:], len(memory))
            os.close(descriptor)

    def _arguments(self, kernel: KernelSpec, record: LaunchRecord) -> list[Passed]:
        """What was passed, one for each parameter: a descriptor is a map, a shape and strides."""
        values, arguments = iter(record.values), []
        for parameter in kernel.parameters:
            value = next(values)
            if isinstance(value, MapRecord):
                shape, strides = ([next(values) for _ in value.shape] for _ in range(2))
                itemsize = value.strides[-1]
                assert value.shape == tuple(shape) and value.strides == tuple(s * itemsize for s in strides)
                arguments.append(Passed(*self._place(value.address), tuple(shape), tuple(strides)))
            else:
                arguments.append(Passed(*self._place(value)) if parameter.type.startswith("*") else Passed("", value))
        return arguments

    def _place(self, address: int) -> tuple[str, int]:
        (base,) = [p for p, a in self.allocations.items() if p <= address < p + a.nbytes]
        return str(base), address - base


def _shared(pointer: int, nbytes: int) -> tuple[int, mmap.mmap]:
    descriptor = os.memfd_create("device")
    os.ftruncate(descriptor, nbytes)
    memory = mmap.mmap(descriptor, nbytes)
    memory[:] = ctypes.string_at(pointer, nbytes)
    return descriptor, memory


def run_once(setup: Setup) -> None:
    """One worker, one launch."""
    command = [sys.executable, "-m", "convc.runtime.interpreter_worker"]
    with tempfile.TemporaryFile() as said:
        pipe = interpreter.subprocess.PIPE
        descriptors = [buffer.descriptor for buffer in setup.buffers]
        process = interpreter.subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said, pass_fds=descriptors)
        for message in (setup, Range()):
            write_message(process.stdin, message)
            reply = read_message(process.stdout, Reply)
            assert isinstance(reply, Finished), reply
        process.stdin.close()
        process.stdout.close()
        process.wait()
