"""A fake GPU whose launches run the kernels' sources in Triton's interpreter, on a copy of the fake device memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

from convc.runtime.artifact import Artifact
from convc.runtime.interpreter import Shared
from convc.runtime.interpreter_pool import give_back, taken
from convc.runtime.interpreter_worker import Finished, Passed, Range, Setup, Step
from convc.runtime.manifest import KernelSpec, ProgramSpec

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
        """All allocations are copied into shared memory, a child runs the launch, and they are copied back."""
        kernel = self._kernels[record.name]
        shared = Shared({str(pointer): a.nbytes for pointer, a in self.allocations.items()})
        for pointer, allocation in self.allocations.items():
            ctypes.memmove(shared.view(str(pointer)).ctypes.data, pointer, allocation.nbytes)
        step = Step(0, record.grid, self._arguments(kernel, record))
        types = [[parameter.type for parameter in kernel.parameters]]
        run_once(Setup(shared.buffers, [(kernel.name, self._sources[kernel.name])], types, [step]), shared.descriptor)
        for pointer, allocation in self.allocations.items():
            ctypes.memmove(pointer, shared.view(str(pointer)).ctypes.data, allocation.nbytes)
        shared.close()

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


def run_once(setup: Setup, memory: int) -> None:
    """A child, one launch."""
    child, reply = taken(setup, memory)
    assert isinstance(reply, Finished), reply
    reply = child.ask(Range())
    assert isinstance(reply, Finished), reply
    give_back(child)
