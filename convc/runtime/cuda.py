"""Running compiled kernels on an NVIDIA GPU with the driver API alone.

Everything is resolved when the executor is prepared: buffers are allocated, weights copied, cubins loaded, parameters
laid out, and all launches captured in one CUDA graph; where the host has steps between them, in one for each piece
(`convc.runtime.course`). A run copies inputs, launches the graph and copies outputs.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import numpy as np

from .. import errors
from .artifact import Artifact
from .batch import images_of, shape_of
from .binding import LaunchBinder, binary
from .bound import Binding, Copy
from .check import buffer_sizes
from .course import Course, Host
from .device_array import DeviceArray, DeviceView
from .driver import DEFAULT_SHARED, Device, Driver
from .dtypes import numpy_dtype
from .host_steps import host_steps
from .manifest import Binary, ProgramSpec, TensorSpec, WeightSpec, is_found
from .pipeline import Pipeline, Place
from .session import Session, allocate, allocate_one, capture, new_event, new_stream, own, quietly, release
from .weights import weight_bytes

TARGET = re.compile(r"sm_(\d+)(\d)[af]?")
# From here on Triton compiles for exactly one architecture (sm_90a and its successors).
FIRST_EXACT = 9


class CudaExecutor:
    """One program of one artifact on one GPU. Raises `DeviceError` where there is no usable GPU.

    ordinal: which GPU. driver: the driver to use; None opens the real one.

    Attributes:
        device: the GPU. session: entered for every use of it. stream: on which everything that shares the arena runs.
    """

    session: Session
    stream: Any

    def __init__(self, ordinal: int = 0, driver: Driver | None = None) -> None:
        self.device = Device(driver or Driver(), ordinal)
        self.gpu = ordinal
        self._driver = self.device.driver
        self._owned = ExitStack()
        self._dependent: weakref.WeakSet[Pipeline | Binding] = weakref.WeakSet()

    def choose(self, artifact: Artifact, target: str | None) -> ProgramSpec:
        """The best program for this GPU, or the one named. Raises `DeviceError` where there is none."""
        programs = [p for p in artifact.manifest.programs if target in (None, p.target)]
        fitting = [p for p in programs if runs_on(p, self.device.capability)]
        if not fitting:
            built = [p.target for p in artifact.manifest.programs if TARGET.fullmatch(p.target)]
            raise errors.no_binary(built, self.device.architecture, self.device.name, artifact.manifest.model)
        return max(fitting, key=lambda program: capability(program.target) or (0, 0))

    def prepare(self, artifact: Artifact, program: ProgramSpec | None) -> None:
        """Allocate, load and capture. Raises `ArtifactError` and `DeviceError`; then nothing is left on the GPU."""
        program = program or self.choose(artifact, None)
        if program.min_driver > self._driver.version:
            raise errors.old_driver(self._driver.version, program.min_driver)
        weights = weight_bytes(artifact)
        with self.device.current(), ExitStack() as undo:
            self.stream = new_stream(self._driver, undo)
            self._sizes = buffer_sizes(artifact.manifest, program)
            self._buffers = allocate(self.device, self._sizes, undo)
            self._fill(weights, program.counter_bytes)
            self._specs, self._max_batch = artifact.manifest.inputs, artifact.manifest.max_batch
            self._clear_images()
            functions = self._load(undo, artifact, program)
            scratch = self._allocate_scratch(undo, program)
            self._binder = LaunchBinder(self._driver, program, functions, scratch)
            self._launches = self._binder.bind(self._buffers)
            self._host = Host(self.device, host_steps(artifact, program), undo)
            self._course = Course(self._host, self._launches, self._buffers, self.stream, undo)
            self._courses = {0: self._course}
            self._fewer = sorted({images for launch in program.launches for images, _ in launch.fewer})
            undo.callback(quietly, self._driver.synchronize, self.stream)
            self._owned = own(self, self.device, undo)
        self.session = Session(self.device, self.stream)
        self._inputs = self._places("input", artifact.manifest.inputs)
        self._outputs = self._places("output", artifact.manifest.outputs)
        self._found = [index for index, spec in enumerate(artifact.manifest.outputs) if is_found(spec)]

    def run(self, inputs: list[Any]) -> list[Any]:
        """Host arrays in, new host arrays out; where any input is a `DeviceView`, `DeviceArray` outputs."""
        with self.session:
            on_device = self._copy_in(inputs)
            images = images_of(self._specs, inputs)
            self._course_for(images).queue(self.stream)
            return self._outputs_on_device(images) if on_device else self._outputs_on_host(images)

    def profile(self, inputs: list[Any]) -> list[float]:
        """Microseconds of each launch, in order, in one run without graphs; steps of the host are not in them."""
        driver, times = self._driver, []
        with self.session, ExitStack() as undo:
            self._copy_in(inputs)
            launches = self._binder.bind(self._buffers, images_of(self._specs, inputs))
            self._host.begin(self._buffers, self.stream)
            for first, last in self._host.steps.segments(0, len(launches)):
                events = [new_event(driver, undo) for _ in range(last - first + 1)]
                driver.record(events[0], self.stream)
                for launch, event in zip(launches[first:last], events[1:], strict=True):
                    driver.launch(launch, self.stream)
                    driver.record(event, self.stream)
                times += list(pairwise(events))
                self._host.take(last, self._buffers, self.stream)
            driver.synchronize(self.stream)
            return [driver.elapsed_us(*pair) for pair in times]

    def measure(self, inputs: list[Any], repeats: int, warmup: int = 3) -> list[float]:
        """Microseconds of each of ``repeats`` runs on the GPU, without the copies of inputs and outputs, with steps of
        the host."""
        driver = self._driver
        with self.session, ExitStack() as undo:
            pairs = [(new_event(driver, undo), new_event(driver, undo)) for _ in range(repeats)]
            self._copy_in(inputs)
            course = self._course_for(images_of(self._specs, inputs))
            for _ in range(warmup):
                course.queue(self.stream)
            for start, end in pairs:
                driver.record(start, self.stream)
                course.queue(self.stream)
                driver.record(end, self.stream)
            driver.synchronize(self.stream)
            return [driver.elapsed_us(*pair) for pair in pairs]

    def pipeline(self) -> Pipeline:
        """Batches that are copied while others run. Raises `DeviceError`. See `convc.runtime.pipeline`."""
        with self.session:
            pipeline = Pipeline(self, self._inputs, self._outputs)
        self._dependent.add(pipeline)
        return pipeline

    def bind(self, addresses: Mapping[str, int], images: int = 0) -> Binding:
        """The network on the caller's memory: ``input:I`` and ``output:I`` → address. Raises `DeviceError`.

        images: how many that memory holds, where the batch is dynamic. Kernels work on as many as there may be: where
        it holds fewer, they keep to buffers of the executor's own, and what it holds is copied.
        """
        direct, before, after = dict(addresses), list[Copy](), list[Copy]()
        for role, places in (("input", self._inputs), ("output", self._outputs)):
            for i, (here, spec, dtype) in enumerate(places):
                if spec.images and images < self._max_batch:
                    there, nbytes = direct.pop(f"{role}:{i}"), math.prod(shape_of(spec, images)) * dtype.itemsize
                    copies, copy = (before, (here, there)) if role == "input" else (after, (there, here))
                    copies.append((*copy, nbytes))
        with self.session:
            binding = Binding(self, direct, before, after, images)
        self._dependent.add(binding)
        return binding

    def new_array(self, spec: TensorSpec) -> DeviceArray:
        """Memory on the GPU for one of the outputs. Raises `DeviceError`."""
        with self.session:
            return DeviceArray(self.device, spec.shape, numpy_dtype(spec.dtype))

    def bound_to(self, addresses: Mapping[str, int], undo: ExitStack, images: int = 0) -> Course:
        """A run with some buffers elsewhere, which ``undo`` gives back. images: as in `LaunchBinder.bind`."""
        buffers = self._buffers | dict(addresses)
        return Course(self._host, self._binder.bind(buffers, images), buffers, self.stream, undo)

    def _course_for(self, images: int) -> Course:
        """The run with the fewest programs that are enough; made when it is first wanted."""
        enough = next((most for most in self._fewer if images <= most), 0) if images else 0
        if enough not in self._courses:
            self._courses[enough] = self.bound_to({}, self._owned, enough)
        return self._courses[enough]

    def found(self) -> dict[int, np.ndarray]:
        """The outputs, by position, whose sizes the run that was queued last has found out."""
        return {index: self._host.steps.output(index) for index in self._found}

    # -- For whoever measures or examines

    def enqueue(self, stream: Any) -> None:
        """Queue the whole network on a stream of the caller's, on what lies in the buffers; nothing is waited for but
        steps of the host. The device must be current."""
        self._course.queue(stream)

    def enqueue_launch(self, number: int, stream: Any) -> None:
        """One launch of the network, in the same way."""
        self._driver.launch(self._launches[number], stream)

    def load(self, inputs: Sequence[Any]) -> None:
        """Copy the inputs into their buffers, and run nothing."""
        with self.session:
            self._copy_in(list(inputs))
            self._driver.synchronize(self.stream)

    def advance(self, first: int = 0, last: int = -1, host: bool = True) -> None:
        """Run the launches from ``first`` to the one before ``last`` (−1: to the end) on the buffers as they are. host:
        and the steps of the host behind each of them; in front of launch 0 those that come first."""
        if host and first == 0:
            self.take_host(0)
        for begin, end in self._host.steps.segments(first, len(self._launches) if last < 0 else last):
            with self.session:
                for launch in self._launches[begin:end]:
                    self._driver.launch(launch, self.stream)
                self._driver.synchronize(self.stream)
            if host:
                self.take_host(end)

    def take_host(self, launches: int) -> None:
        """Run the steps of the host behind so many launches; behind none a new run begins."""
        with self.session:
            if launches == 0:
                self._host.begin(self._buffers, self.stream)
            else:
                self._host.take(launches, self._buffers, self.stream)
            self._driver.synchronize(self.stream)

    def timer(self, launch: int, repeats: int) -> Callable[[], float]:
        """What measures one launch on the buffers as they are: microseconds, the mean of ``repeats`` in one graph."""
        driver, stream = self._driver, self.stream
        with self.session:
            graph = capture(self.device, [self._launches[launch]] * repeats, stream, self._owned)
            start, end = (new_event(driver, self._owned) for _ in range(2))

        def measure() -> float:
            with self.session:
                driver.record(start, stream)
                driver.launch_graph(graph, stream)
                driver.record(end, stream)
                driver.synchronize(stream)
                return driver.elapsed_us(start, end) / repeats

        return measure

    def buffer(self, name: str) -> np.ndarray:
        """A copy of the bytes of a buffer: ``arena``, ``weights``, ``counters``, ``input:I`` or ``output:I``."""
        found = np.empty(self._sizes[name], np.uint8)
        with self.session:
            if found.nbytes:
                self._driver.to_host(found.ctypes.data, self._buffers[name], found.nbytes, self.stream)
            self._driver.synchronize(self.stream)
        return found

    def poison(self, byte: int = 0xFF) -> None:
        """Fill the arena and the outputs with a byte; 0xFF is NaN in every type of floats."""
        with self.session:
            for name in self._buffers:
                if name == "arena" or name.startswith("output:"):
                    self._driver.fill(self._buffers[name], byte, max(self._sizes[name], 1), self.stream)
            self._driver.synchronize(self.stream)

    def close(self) -> None:
        """Let what is queued finish, and give back all memory of the GPU."""
        for dependent in list(self._dependent):
            dependent.close()
        release(self.device, self._owned)

    # -- Preparing

    def _fill(self, weights: Iterable[tuple[WeightSpec, memoryview]], counter_bytes: int) -> None:
        """Weights straight from the file, counters with zeros."""
        for spec, data in weights:
            if data:
                host = np.frombuffer(data, np.uint8).ctypes.data
                self._driver.to_device(self._buffers["weights"] + spec.offset, host, len(data), self.stream)
        if counter_bytes:
            self._driver.fill(self._buffers["counters"], 0, counter_bytes, self.stream)
        self._driver.synchronize(self.stream)

    def _clear_images(self) -> None:
        """Images that are never given, where the batch is dynamic, are zeros."""
        for i, spec in enumerate(self._specs):
            if spec.images:
                self._driver.fill(self._buffers[f"input:{i}"], 0, self._sizes[f"input:{i}"], self.stream)
        self._driver.synchronize(self.stream)

    def _load(self, undo: ExitStack, artifact: Artifact, program: ProgramSpec) -> list[Any]:
        """The program's kernels as the driver's functions; each distinct cubin is loaded once."""
        libraries: dict[str, Any] = {}
        functions = []
        for kernel in program.kernels:
            code = binary(kernel)
            try:
                if code.section not in libraries:
                    libraries[code.section] = self._library(undo, bytes(artifact.section(code.section)))
                function = self._driver.function(libraries[code.section], kernel.name)
            except errors.DeviceError as error:
                if error.sticky:
                    raise
                raise errors.not_loadable(kernel.name, error, self._driver.version) from error
            self._configure(function, kernel.name, code)
            functions.append(function)
        return functions

    def _library(self, undo: ExitStack, cubin: bytes) -> Any:
        library = self._driver.load_library(cubin)
        undo.callback(quietly, self._driver.unload_library, library, keep=cubin)
        return library

    def _configure(self, function: Any, name: str, code: Binary) -> None:
        limits = (
            ("bytes of shared memory in a block", code.shared_bytes, self.device.max_shared),
            ("threads in a block", code.threads, self._driver.max_threads(function)),
        )
        for what, found, limit in limits:
            if found > limit:
                raise errors.over_limit(name, what, found, limit)
        if code.shared_bytes > DEFAULT_SHARED:
            self._driver.allow_shared(function, code.shared_bytes)

    def _allocate_scratch(self, undo: ExitStack, program: ProgramSpec) -> int:
        """Scratch memory for the launch that wants most of it; launches run one after the other. 0 for none."""
        sizes = [binary(program.kernels[s.kernel]).global_scratch_bytes * math.prod(s.grid) for s in program.launches]
        most = max(sizes, default=0)
        return allocate_one(self.device, most, "the kernels' scratch memory", undo) if most else 0

    def _places(self, role: str, specs: Sequence[TensorSpec]) -> list[Place]:
        return [Place(self._buffers[f"{role}:{i}"], spec, numpy_dtype(spec.dtype)) for i, spec in enumerate(specs)]

    # -- Running

    def _copy_in(self, inputs: list[Any]) -> bool:
        """Returns whether any of them lie on the GPU."""
        driver, stream, on_device = self._driver, self.stream, False
        for (pointer, _, _), value in zip(self._inputs, inputs, strict=True):
            if type(value) is DeviceView:
                on_device = True
                if value.stream is not None:
                    driver.synchronize(value.stream)
                if value.nbytes:
                    driver.on_device(pointer, value.pointer, value.nbytes, stream)
            elif value.nbytes:
                driver.to_device(pointer, value.ctypes.data, value.nbytes, stream)
        return on_device

    def _outputs_on_host(self, images: int) -> list[np.ndarray]:
        driver, stream, arrays, found = self._driver, self.stream, [], self.found()
        for i, (pointer, spec, dtype) in enumerate(self._outputs):
            array = found[i] if i in found else np.empty(shape_of(spec, images), dtype)
            if array.nbytes and i not in found:
                driver.to_host(array.ctypes.data, pointer, array.nbytes, stream)
            arrays.append(array)
        driver.synchronize(stream)
        return arrays

    def _outputs_on_device(self, images: int) -> list[DeviceArray]:
        driver, stream, arrays, found = self._driver, self.stream, [], self.found()
        for i, (pointer, spec, dtype) in enumerate(self._outputs):
            shape = found[i].shape if i in found else shape_of(spec, images)
            arrays.append(DeviceArray(self.device, shape, dtype))
            if arrays[-1].nbytes and i in found:
                driver.to_device(arrays[-1].pointer, found[i].ctypes.data, found[i].nbytes, stream)
            elif arrays[-1].nbytes:
                driver.on_device(arrays[-1].pointer, pointer, arrays[-1].nbytes, stream)
        driver.synchronize(stream)
        return arrays


def capability(target: str) -> tuple[int, int] | None:
    """``sm_86`` → (8, 6); None for other kinds of targets."""
    match = TARGET.fullmatch(target)
    return (int(match[1]), int(match[2])) if match else None


def runs_on(program: ProgramSpec, present: tuple[int, ...]) -> bool:
    """Whether a GPU of the compute capability ``present`` can run a program's kernels.

    Within a major version code for a lower minor runs on a higher one, up to Ada; since Hopper what Triton compiles is
    for one architecture only.
    """
    built = capability(program.target)
    if built is None or any(kernel.binary is None for kernel in program.kernels):
        return False
    return built == present or (built[0] == present[0] < FIRST_EXACT and built[1] <= present[1])
