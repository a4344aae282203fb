"""Networks whose sizes are open: compiled for the sizes of the arrays that they are given, when they first are.

Such a network keeps its ONNX model. For sizes that it has not seen it reads the model with them, as if they had been
written there, and plans and compiles what comes out; kernels come from the cache where they are there. The last
`MOST_KEPT` specialisations are kept ready. It is a `CompiledNetwork` with an executor of its own, so everything else is
as with any other network, and it can be saved: what is loaded specialises in the same way, where the compiler is
installed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx

from . import errors
from .compiler import compile_plan
from .frontends.onnx import declared_inputs, import_onnx
from .frontends.onnx.files import open_source, parsed
from .frontends.onnx.tensors import DTYPES
from .ir import Dim, TensorType
from .passes import Switches
from .planner import make_plan
from .program import Options
from .runtime.artifact import Artifact, build
from .runtime.engine import Engine
from .runtime.executor import Executor
from .runtime.inputs import InputBinder
from .runtime.manifest import FORMAT_MAJOR, FORMAT_MINOR, Manifest, OpenSpec, ProgramSpec, TensorSpec, written_sizes
from .runtime.network import CompiledNetwork, warn_of_host_steps
from .version import __version__

MOST_KEPT = 8
"""Specialisations that an engine keeps ready; the one that was not used for longest goes first."""
SECTION = "model.onnx"


def sizes_of(types: Mapping[str, TensorType], arrays: Mapping[str, Any]) -> dict[str, int]:
    """Numbers for the symbols of the inputs' shapes, from what has the shapes of arrays. Raises `InputError`."""
    sizes: dict[str, int] = {}
    for name, type in types.items():
        for dim, size in zip(type.shape, arrays[name].shape, strict=True):
            if isinstance(dim, Dim) and sizes.setdefault(str(dim), size) != size:
                expected = [sizes.get(str(dim), dim) for dim in type.shape]
                raise errors.input_shape(name, expected, arrays[name].shape)
    return sizes


def open_sizes(types: Mapping[str, TensorType]) -> list[str]:
    """The symbols in the inputs' shapes, in order."""
    dims = (dim for type in types.values() for dim in type.shape if isinstance(dim, Dim))
    return list(dict.fromkeys(str(dim) for dim in dims))


def batches(types: Mapping[str, TensorType]) -> frozenset[str]:
    """The symbols that are the first size of an input."""
    return frozenset(str(type.shape[0]) for type in types.values() if type.shape and isinstance(type.shape[0], Dim))


class OpenNetwork(CompiledNetwork):
    """A network whose sizes are open; see the module. Its kernels are those of its specialisations.

    artifact: one with a model, as `open_artifact` makes it. policy: where it is not one of convc's by its name.
    Raises `ArtifactError` where the model is none.

    Attributes:
        sizes: the names of the open sizes.
    """

    def __init__(self, artifact: Artifact, device: str = "auto", target: str | None = None, policy: Any = None) -> None:
        super().__init__(artifact, device, target)
        manifest = artifact.manifest
        assert manifest.open is not None
        self._open = manifest.open
        model = parsed(bytes(artifact.section(manifest.open.model)))
        if model is None:
            raise errors.damaged(manifest.open.model, "not an ONNX model", artifact.file)
        self._model = model
        self._types = declared_inputs(self._model, manifest.open.dims)
        if tuple(_spec(name, type.dtype.value, type.shape) for name, type in self._types.items()) != manifest.inputs:
            raise errors.damaged(manifest.open.model, "its inputs are not those of the manifest", artifact.file)
        self.sizes = tuple(open_sizes(self._types))
        self._batches = batches(self._types) if manifest.open.dynamic else frozenset()
        switches = Switches(manifest.opt, manifest.disabled, None, manifest.enabled)
        self._options = Options(
            manifest.open.targets,
            manifest.dtype,
            switches=switches,
            policy=policy or manifest.policy,
            tuned=manifest.open.tuned,
        )
        self._mixes = not self._batches

    def specialised(self, sizes: Mapping[str, int]) -> CompiledNetwork:
        """The network compiled for these sizes, all of them by their names.

        Raises `UsageError` for other names, and what `convc.compile` raises where the model refuses the sizes.
        """
        if sorted(sizes) != sorted(self.sizes):
            raise errors.other_sizes(sorted(sizes), self.sizes)
        for name in self._batches:
            if not 1 <= sizes[name] <= self._open.batch:
                raise errors.size_of_batch(name, self._open.batch, sizes[name])
        if not self._mixes:
            try:
                return self._compiled({name: size for name, size in sizes.items() if name not in self._batches}, True)
            except (errors.DependentImagesError, errors.UnsupportedModelError):
                network = self._compiled(sizes, False)  # which fails where it is the sizes that are refused
                self._mixes = True
                return network
        return self._compiled(sizes, False)

    def key(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """What tells the sizes of one specialisation from those of another."""
        return tuple(sizes[name] for name in self.sizes if self._mixes or name not in self._batches)

    def measured(self, arrays: Sequence[Any]) -> dict[str, int]:
        """The open sizes, from arrays in the order of the inputs. Raises `InputError`."""
        return sizes_of(self._types, dict(zip(self._types, arrays, strict=True)))

    def sized(self, inputs: Mapping[str, Any]) -> CompiledNetwork:
        """The network compiled for the sizes of these arrays. Raises `InputError`, and as `specialised`."""
        return self.specialised(self.measured(InputBinder(self.inputs, None).bind(inputs)))

    @property
    def plan(self) -> ProgramSpec:
        """There is none. Raises `UsageError`."""
        raise errors.nothing_compiled_yet(self.artifact.file)

    def engine(self, device: str | Executor = "auto", target: str | None = None) -> Engine:
        """An engine that specialises; see `CompiledNetwork.engine`. Raises `UsageError` for an own executor."""
        if not isinstance(device, str):
            raise errors.own_executor_of_open(self.sizes)
        return Engine(self.artifact, SpecialisingExecutor(self, device, target))

    def _compiled(self, sizes: Mapping[str, int], dynamic: bool) -> CompiledNetwork:
        graph = import_onnx(self._model, dims={**self._open.dims, **sizes})
        options = replace(self._options, batch=self._open.batch, dynamic=True) if dynamic else self._options
        network = CompiledNetwork(compile_plan(make_plan(graph, options)))
        warn_of_host_steps(network)
        return network


class SpecialisingExecutor:
    """Runs an open network on a device; see `convc.runtime.executor.Executor`."""

    def __init__(self, network: OpenNetwork, device: str, target: str | None) -> None:
        self._network, self._device, self._target = network, device, target
        self._kept: OrderedDict[tuple[int, ...], Engine] = OrderedDict()
        self.name = device

    def prepare(self, artifact: Artifact, program: ProgramSpec | None) -> None:
        """Nothing is known yet."""

    def run(self, inputs: list[Any]) -> Sequence[Any]:
        """The outputs, from the specialisation for the arrays' sizes. Raises what compiling for them raises."""
        return list(self._engine_for(inputs).run(self._named(inputs)).values())

    def profile(self, inputs: list[Any]) -> list[float]:
        """As `Engine.profile`, of that specialisation."""
        return self._engine_for(inputs).profile(self._named(inputs))

    def measure(self, inputs: list[Any], repeats: int) -> list[float]:
        """As `Engine.measure`, of that specialisation."""
        return self._engine_for(inputs).measure(self._named(inputs), repeats)

    def _named(self, inputs: Sequence[Any]) -> dict[str, Any]:
        return dict(zip((spec.name for spec in self._network.inputs), inputs, strict=True))

    def _engine_for(self, inputs: Sequence[Any]) -> Engine:
        sizes = self._network.measured(inputs)
        if self._network.key(sizes) not in self._kept:
            engine = self._network.specialised(sizes).engine(self._device, self._target)
            self._kept[self._network.key(sizes)] = engine
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)[1].close()
        key = self._network.key(sizes)
        self._kept.move_to_end(key)
        return self._kept[key]

    def close(self) -> None:
        """Closes all specialisations."""
        while self._kept:
            self._kept.popitem()[1].close()


# -- making one -------------------------------------------------------------------------------------------------------
def open_artifact(model: onnx.ModelProto, options: Options, dims: Mapping[str, int]) -> Artifact:
    """An artifact that keeps a model for later. dims: numbers for some of its open sizes.

    Raises:
        UsageError: a model whose weights are in other files. LoadError: one that declares no types.
    """
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise errors.open_with_outside_data(open_sizes(declared_inputs(model, dims)))
    types = declared_inputs(model, dims)
    inputs = [_spec(name, type.dtype.value, type.shape) for name, type in types.items()]
    manifest = Manifest(
        format=(FORMAT_MAJOR, FORMAT_MINOR),
        convc=__version__,
        triton="",
        model=model.graph.name or "network",
        dtype=options.dtype,
        opt=options.switches.opt,
        disabled=options.switches.off,
        enabled=options.switches.enable,
        policy=options.policy_name,
        inputs=tuple(inputs),
        outputs=tuple(_declared(info) for info in model.graph.output),
        weights=(),
        weights_bytes=0,
        programs=(),
        open=OpenSpec(SECTION, options.targets, dict(dims), options.batch, options.dynamic, options.tuned),
    )
    return build(manifest, {SECTION: model.SerializeToString()})


def _spec(name: str, dtype: str, shape: Sequence[Any]) -> TensorSpec:
    return TensorSpec(name, dtype, written_sizes(shape))


def _declared(info: onnx.ValueInfoProto) -> TensorSpec:
    """What a model says of an output; one of no type is taken for fp32 until it runs."""
    type = info.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else None for dim in type.shape.dim]
    return _spec(info.name, DTYPES[type.elem_type].value if type.elem_type in DTYPES else "fp32", shape)


def read_model(path: str) -> onnx.ModelProto:
    """The whole message in a file. Raises as `import_onnx`."""
    source = open_source(path)
    for index, data in source.raw.items():
        source.model.graph.initializer[index].raw_data = bytes(data)
    return source.model
