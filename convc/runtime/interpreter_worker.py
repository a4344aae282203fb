"""The process that runs emitted kernels in Triton's interpreter, on buffers in shared memory.

It is told which buffers, kernels and launches there are, then to run them, any number of times, and at last to forget
them; then comes the next network. `convc.workers.command` runs `main`, with ``TRITON_INTERPRET=1`` and a Unix socket as
standard input. In front of a `Setup` comes one byte with the descriptor of the buffers' memory.
"""

from __future__ import annotations

import importlib
import linecache
import mmap
import os
import select
import socket
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, NamedTuple, Union

import msgspec
import numpy as np

from ..workers import load_function, read_message, write_message
from .tensor_maps import descriptor_type

IDLE_S = 60.0
"""Seconds without a network after which the process ends."""


class Buffer(msgspec.Struct):
    """A named buffer: where it begins in the memory that all share, and its bytes."""

    name: str
    offset: int
    nbytes: int


class Passed(NamedTuple):
    """What a parameter is bound to: a byte of a buffer, or a number where ``buffer`` is empty. shape, strides: of the
    array that a descriptor describes there, in elements."""

    buffer: str
    value: int
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()


class Step(msgspec.Struct):
    """A launch: kernel index, grid, and what each parameter is bound to."""

    kernel: int
    grid: tuple[int, int, int]
    arguments: list[Passed]


class Setup(msgspec.Struct):
    """What is told of a network: buffers, kernels (name, source) with their parameter types, and launches."""

    buffers: list[Buffer]
    sources: list[tuple[str, str]]
    parameters: list[list[str]]
    steps: list[Step]


class Range(msgspec.Struct, tag="range"):
    """What to run: the launches from ``first`` to the one before ``last`` (−1: to the end). grids: theirs, where they
    are not as they were told."""

    first: int = 0
    last: int = -1
    grids: list[tuple[int, int, int]] = []


class Release(msgspec.Struct, tag="release"):
    """The network is not needed any more."""


class Finished(msgspec.Struct, tag="finished"):
    """It is done; seconds per launch that ran."""

    seconds: list[float]


class Broken(msgspec.Struct, tag="broken"):
    """A launch failed."""

    step: int
    reason: str


Reply = Union[Finished, Broken]


class ElementType(str):
    """NumPy's name of an element type, with its size, of which descriptors ask."""

    @property
    def itemsize(self) -> int:
        return 2 if self == "bfloat16" else np.dtype(self).itemsize


class Pointer:
    """An address with an element type, in the shape of the tensors that Triton's interpreter takes as arguments."""

    def __init__(self, address: int, dtype: ElementType) -> None:
        self._address = address
        self.dtype = dtype

    def data_ptr(self) -> int:
        return self._address

    def untyped_storage(self) -> Pointer:
        return self

    def storage_offset(self) -> int:
        return 0

    def size(self) -> int:
        return 0

    def stride(self) -> tuple[int, ...]:
        return ()

    def cpu(self) -> Pointer:
        return self

    def new_empty(self, *_: Any, **__: Any) -> Pointer:
        return Pointer(self._address, self.dtype)

    def set_(self, *_: Any) -> Pointer:
        return self

    def copy_(self, *_: Any) -> Pointer:
        return self


_ELEMENTS = {
    "fp64": ElementType("float64"),
    "fp32": ElementType("float32"),
    "fp16": ElementType("float16"),
    "bf16": ElementType("bfloat16"),
    "i1": ElementType("bool"),
    **{f"i{bits}": ElementType(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"u{bits}": ElementType(f"uint{bits}") for bits in (8, 16, 32, 64)},
}


class Program:
    """The kernels and launches of one network, on the memory of a descriptor, which is closed."""

    def __init__(self, setup: Setup, descriptor: int, folder: Path) -> None:
        self.memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        os.close(descriptor)
        base = _address(self.memory)
        self.bases = {buffer.name: base + buffer.offset for buffer in setup.buffers}
        self.setup = setup
        self.kernels = [load_function(folder / f"{name}.py", source, name) for name, source in setup.sources]

    def run(self, wanted: Range) -> Reply:
        """These launches, in order, on the buffers as they are."""
        seconds = []
        steps = self.setup.steps
        for number in range(wanted.first, len(steps) if wanted.last < 0 else wanted.last):
            step = steps[number]
            grid = wanted.grids[number - wanted.first] if wanted.grids else step.grid
            started = time.perf_counter()
            try:
                with np.errstate(all="ignore"):
                    self.kernels[step.kernel][grid](*self._arguments(step))
            except Exception as error:  # whatever a kernel raises is an answer
                return Broken(number, f"{type(error).__name__}: {error}")
            seconds.append(time.perf_counter() - started)
        return Finished(seconds)

    def _arguments(self, step: Step) -> list[Any]:
        types = self.setup.parameters[step.kernel]
        return [self._argument(passed, type) for passed, type in zip(step.arguments, types, strict=True)]

    def _argument(self, passed: Passed, type: str) -> Any:
        if not passed.buffer:
            return passed.value
        address = self.bases[passed.buffer] + passed.value
        described = descriptor_type(type)
        if described is None:
            return Pointer(address, _ELEMENTS[type.removeprefix("*")])
        from triton.tools.tensor_descriptor import TensorDescriptor

        base = Pointer(address, _ELEMENTS[described.dtype])
        return TensorDescriptor(base, list(passed.shape), list(passed.strides), list(described.block))


def _address(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def mend_arithmetic() -> None:
    """Triton's interpreter keeps bf16 as its bits, cuts fp32 off where GPUs round to nearest even, and multiplies
    matrices of bits as if they were numbers. Its products of fp32, NumPy's, add some columns up in another order:
    equal columns have different sums, as they never have on a GPU. In fp64 they agree."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder as Builder
    from triton.runtime.interpreter import TensorHandle

    cast, dot = Builder.cast_impl, Builder.create_dot

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            return TensorHandle(bfloat16_bits(source.data), tl.bfloat16)
        return cast(self, source, to)

    def create_dot(self: Any, a: Any, b: Any, sums: Any, *rest: Any) -> Any:
        a, b = (cast(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        if a.dtype.scalar != tl.float32:
            return dot(self, a, b, sums, *rest)
        products = a.data.astype(np.float64) @ b.data.astype(np.float64)
        return TensorHandle((products + sums.data).astype(np.float32), tl.float32)

    Builder.cast_impl, Builder.create_dot = cast_impl, create_dot


def ignore_overlap() -> None:
    """Launches run one after the other here: waiting for the one before, letting the next start and fetching weights
    ahead do nothing."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder as Builder
    from triton.runtime.interpreter import TensorHandle

    # What ``from … import`` finds; as an attribute of its package Triton has another copy of the module.
    cuda: Any = importlib.import_module("triton.language.extra.cuda")

    def create_inline_asm(self: Any, text: str, *_: Any) -> Any:
        if "prefetch" not in text:
            raise NotImplementedError(f"inline assembly: {text}")
        nothing = TensorHandle(np.zeros(1, np.int32), tl.int32)
        return SimpleNamespace(get_result=lambda _: nothing)

    cuda.gdc_wait = cuda.gdc_launch_dependents = lambda: None
    Builder.create_inline_asm = create_inline_asm


def bfloat16_bits(array: np.ndarray) -> np.ndarray:
    """fp32 as the bits (uint16) of the nearest bf16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).reshape(np.shape(array))
    with np.errstate(over="ignore"):
        rounded = (bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)) >> 16
    return np.where(np.isnan(array), bits >> 16 | 0x40, rounded).astype(np.uint16)


def forget() -> None:
    """Drops what Python and Triton keep of the kernels' texts."""
    from triton.runtime.interpreter import InterpretedFunction

    InterpretedFunction.rewritten_fn.clear()
    linecache.clearcache()


def serve(connection: socket.socket, requests: IO[bytes], replies: IO[bytes]) -> bool:
    """One network, from its setup to its release. Whether another one may come."""
    if not select.select([connection], [], [], IDLE_S)[0]:
        return False
    descriptors = socket.recv_fds(connection, 1, 1)[1]
    setup = read_message(requests, Setup)
    if setup is None or not descriptors:
        return False
    with tempfile.TemporaryDirectory(prefix="convc-") as folder:
        program = Program(setup, descriptors[0], Path(folder))
        write_message(replies, Finished([]))
        while isinstance(wanted := read_message(requests, Union[Range, Release]), Range):
            write_message(replies, program.run(wanted))
    if wanted is None:
        return False
    program.memory.close()
    forget()
    write_message(replies, Finished([]))
    return True


def main() -> None:
    """Answers requests until the other side closes."""
    mend_arithmetic()
    ignore_overlap()
    connection = socket.socket(fileno=os.dup(0))
    with connection, connection.makefile("rb") as requests, connection.makefile("wb") as replies:
        while serve(connection, requests, replies):
            pass


if __name__ == "__main__":
    main()
