"""Running a compiled network on arrays."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .. import errors
from .artifact import Artifact, read
from .batch import for_images, images_of
from .bound import BoundNetwork
from .device_array import DeviceView
from .devices import parse_device
from .executor import Executor
from .inputs import InputBinder
from .manifest import ProgramSpec, TensorSpec, is_found
from .streaming import overlapped

log = logging.getLogger("convc")

_EXECUTORS = {
    "cuda": ("convc.runtime.cuda", "CudaExecutor"),
    "interpreter": ("convc.runtime.interpreter", "InterpreterExecutor"),
    "numpy": ("convc.runtime.numpy_executor", "NumpyExecutor"),
}


class InUse:
    """Entered for each call of an executor, which is open, belongs to this process and serves one thread at a time.

    Attributes:
        lock: held by the thread that uses it, which may enter again. closed: whether it is refused from now on.
    """

    def __init__(self) -> None:
        self.lock, self.closed, self._pid = threading.RLock(), False, os.getpid()

    @property
    def by_this_process(self) -> bool:
        """Whether this process made it; not a fork of it."""
        return self._pid == os.getpid()

    def __enter__(self) -> None:
        # Before the lock: a fork may have copied it while another thread held it.
        if self._pid != os.getpid():
            raise errors.engine_forked(self._pid, os.getpid())
        self.lock.acquire()
        if self.closed:
            self.lock.release()
            raise errors.engine_closed()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


class Engine:
    """A compiled network, ready to run. It may be called from several threads; runs happen one after the other.

    artifact: what to run. device: ``cuda`` (or ``cuda:N``: GPU number N), ``interpreter`` (the emitted kernels in
    Triton's interpreter, without a GPU), ``numpy`` (the operators' definitions), ``auto`` (CUDA where there is a driver
    and a binary for the GPU, otherwise the interpreter, with a warning in the log ``convc``), or an own executor.
    target: which of the artifact's programs to run; None lets the device choose.

    Raises `UsageError`, `DeviceError`, `ArtifactError`.

    Attributes:
        inputs, outputs: names, dtypes and shapes; those of the largest batch where it is dynamic.
        max_batch: the most images of a run where the batch is dynamic, otherwise 0.
        device: where it runs, such as ``cuda:0``.
        program: the program that runs, None where the executor needs none.
    """

    def __init__(self, artifact: Artifact, device: str | Executor = "auto", target: str | None = None) -> None:
        if artifact.manifest.open is not None and isinstance(device, str):
            raise errors.open_without_compiler(artifact.manifest.model)
        self.artifact = artifact
        self.inputs: tuple[TensorSpec, ...] = artifact.manifest.inputs
        self.outputs: tuple[TensorSpec, ...] = artifact.manifest.outputs
        self._in_use = InUse()
        self.device, self.executor, self.program = _chosen(artifact, device, target)
        try:
            self.executor.prepare(artifact, self.program)
        except BaseException:
            self.executor.close()
            raise
        self.max_batch: int = artifact.manifest.max_batch
        self._binder = InputBinder(self.inputs, getattr(self.executor, "gpu", None), self.max_batch)

    def __call__(self, /, *arrays: Any, **named: Any) -> Any:
        """Run on one array per input, by position, by name, or both.

        Arrays have exactly the input's dtype and shape; any strides are accepted. Where the batch is dynamic they hold
        any number of images from 1 to `max_batch`, and the outputs as many. NumPy arrays give NumPy arrays. On
        CUDA, arrays in the GPU's memory (``__dlpack__`` or ``__cuda_array_interface__``) are read there, and if any
        input is one, the outputs are `DeviceArray` objects.

        Returns the array of the only output, or a dictionary name → array in order where there are several.
        Raises `InputError`, `DeviceError`, and `UsageError` when the engine is closed or belongs to another process.
        """
        outputs = self.run(self._binder.by_position(arrays, named))
        return outputs if len(self.outputs) != 1 else outputs[self.outputs[0].name]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Run on name → array; always a dictionary name → array, in the order of the outputs."""
        bound = self._binder.bind(inputs)
        with self._in_use:
            results = self.executor.run(bound)
        return {spec.name: array for spec, array in zip(self.outputs, results, strict=True)}

    def stream(self, batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Run on one batch after the other, and give the outputs of each, in order, as `run` does.

        On CUDA copies overlap: while a batch is computed, the next one is copied to the GPU and the outputs of the one
        before are copied back; two more batches have been taken from ``batches`` when the results of one are given. The
        arrays must be in host memory, and may be changed as soon as the next batch is asked for. Elsewhere batches run
        one by one.

        Raises what `run` raises. What a batch raises, or ``batches`` itself, comes behind the results of the batches in
        front of it, unless the GPU has become unusable. The engine can be used meanwhile and afterwards.
        """
        make = getattr(self.executor, "pipeline", None)
        if make is None:
            yield from map(self.run, batches)
            return
        with self._in_use:
            pipeline = make()
        try:
            for results in overlapped(pipeline, map(self._binder.bind_on_host, batches), self._in_use):
                yield {spec.name: array for spec, array in zip(self.outputs, results, strict=True)}
        finally:
            if self._in_use.by_this_process:
                with self._in_use.lock:
                    pipeline.close()

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None) -> BoundNetwork:
        """The network on arrays in the GPU's memory: calling what is returned runs it there, without a copy. Where the
        batch is dynamic and they hold fewer images than `max_batch`, these are copied on the GPU.

        inputs: name → array (``__dlpack__`` or ``__cuda_array_interface__``): what it holds when the network is called
        is read. outputs: name → array that is written; those that are not given are new `DeviceArray` objects. All are
        dense and begin at a multiple of 16 bytes, and no output shares memory with another array.

        Raises `InputError`, `DeviceError` (also where the engine runs on no GPU) and `UsageError`.
        """
        make = getattr(self.executor, "bind", None)
        if make is None:
            raise errors.no_binding(self.device)
        for spec in self.outputs:
            if is_found(spec):
                raise errors.found_size_bound(spec.name)
        with self._in_use:
            read = self._binder.bind_on_device(inputs)
            images = images_of(self.inputs, read)
            specs = [for_images(spec, images) for spec in self.outputs]
            into = InputBinder(specs, self.executor.gpu)  # type: ignore[attr-defined]
            given = dict(outputs or {})
            for spec in specs:
                given.setdefault(spec.name, self.executor.new_array(spec))  # type: ignore[attr-defined]
            written = into.bind_on_device(given)
            _require_apart(specs, written, self.inputs, read)
            addresses = {f"input:{i}": view.pointer for i, view in enumerate(read)}
            addresses |= {f"output:{i}": view.pointer for i, view in enumerate(written)}
            binding = make(addresses, images)
        ordered = {spec.name: given[spec.name] for spec in self.outputs}
        return BoundNetwork(binding, self._in_use, (read, written), ordered)

    def profile(self, inputs: Mapping[str, Any]) -> list[float]:
        """Microseconds of each launch of the program, in order. Raises `DeviceError` where the device has no clock."""
        return self._on_clock("profile", inputs)

    def measure(self, inputs: Mapping[str, Any], repeats: int) -> list[float]:
        """Microseconds of each of ``repeats`` runs on the device, without the copies of inputs and outputs."""
        return self._on_clock("measure", inputs, repeats)

    def _on_clock(self, name: str, inputs: Mapping[str, Any], *more: Any) -> list[float]:
        timer = getattr(self.executor, name, None)
        if timer is None:
            raise errors.no_clock(self.device)
        bound = self._binder.bind(inputs)
        with self._in_use:
            return timer(bound, *more)

    def close(self) -> None:
        """Give everything back, after the run in progress. Later calls raise `UsageError`; closing twice is fine."""
        if not self._in_use.by_this_process:
            return
        with self._in_use.lock:
            if not self._in_use.closed:
                self._in_use.closed = True
                self.executor.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine of {self.artifact.manifest.model!r} on {self.device}>"


def load(
    path: str | os.PathLike[str], device: str | Executor = "auto", target: str | None = None, *, verify: bool = True
) -> Engine:
    """Open a compiled network and make an `Engine`. Raises `ArtifactError`, `DeviceError` and `UsageError`.

    The file holds machine code: load only what you trust. verify: compare the hash of every section.
    """
    return Engine(read(path, verify), device, target)


def _require_apart(
    outputs: Sequence[TensorSpec],
    written: Sequence[DeviceView],
    inputs: Sequence[TensorSpec],
    read: Sequence[DeviceView],
) -> None:
    """Outputs may be written, and share no memory with anything else that a network is bound to."""
    others = [(f"input {spec.name!r}", view) for spec, view in zip(inputs, read, strict=True)]
    for spec, view in zip(outputs, written, strict=True):
        if not view.writeable:
            raise errors.input_on_device(spec.name, "the array is read-only, and the network would write to it")
        for other, taken in others:
            if view.pointer < taken.pointer + taken.nbytes and taken.pointer < view.pointer + view.nbytes:
                raise errors.outputs_overlap(spec.name, other)
        others.append((f"output {spec.name!r}", view))


Choice = tuple[str, Executor, ProgramSpec | None]


def _chosen(artifact: Artifact, device: str | Executor, target: str | None) -> Choice:
    """The device's name, an executor that is not prepared yet, and the program for it."""
    if not isinstance(device, str):
        return getattr(device, "name", type(device).__name__), device, _program(device, artifact, target)
    if device == "auto":
        return _automatic(artifact, target)
    kind, ordinal = parse_device(device)
    executor = _executor(kind, *([ordinal] if kind == "cuda" else []))
    return (f"cuda:{ordinal}" if kind == "cuda" else kind), executor, _program(executor, artifact, target)


def _automatic(artifact: Artifact, target: str | None) -> Choice:
    if target == "interpreter":
        return _chosen(artifact, "interpreter", target)
    try:
        return _chosen(artifact, "cuda", target)
    except errors.DeviceError as error:
        log.warning("running in the interpreter, which is slow: %s", error)
    return _chosen(artifact, "interpreter", target)


def _executor(kind: str, *arguments: Any) -> Executor:
    module, name = _EXECUTORS[kind]
    try:
        made = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise errors.executor_missing(kind, error) from error
    return made(*arguments)


def _program(executor: Executor, artifact: Artifact, target: str | None) -> ProgramSpec | None:
    """The executor's choice; for one that runs any program, that of its own target or the first."""
    choose = getattr(executor, "choose", None)
    if choose is not None:
        return choose(artifact, target)
    programs = {program.target: program for program in artifact.manifest.programs}
    if target is not None and target not in programs:
        raise errors.no_program(target, programs)
    return programs.get(target or "interpreter") or next(iter(programs.values()), None)
