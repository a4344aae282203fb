"""The interface of `onnx.backend`: `prepare` a model for a device, then `run` it on arrays.

A compiled network has fixed shapes. A model here may leave sizes open, and may take values as inputs that decide the
shapes of others: axes, pads, k. Such a model is specialised at `run`: the sizes and those values become constants, the
rest of the inputs stays as it is, and what was compiled is kept for the next run with the same ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from . import errors
from .analysis.devices import target_for
from .compiler import compile_plan
from .frontends.onnx import declared_inputs, import_onnx
from .ir import Dim, Graph, TensorType
from .planner import make_plan
from .program import Options
from .runtime.devices import parse_device
from .runtime.network import CompiledNetwork
from .runtime.numpy_executor import GraphRunner
from .specialise import sizes_of

MOST_KEPT = 32
"""Specialisations of one model that are kept; the one that was not used for longest goes first."""

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Ready:
    """A network of fixed shapes on a device: how to run it, how to give back what it holds there, and the nodes that
    the host computes between its kernels."""

    run: Callable[[Feeds], Sequence[np.ndarray]]
    close: Callable[[], None] = lambda: None
    on_host: tuple[str, ...] = ()


def _numpy(graph: Graph) -> Ready:
    """The operators' own definitions, in the precision of the model."""
    runner = GraphRunner(graph)
    return Ready(lambda feeds: runner.run(dict(feeds)))


def _compiled(graph: Graph, device: str) -> Ready:
    """Kernels in IEEE fp32."""
    plan = make_plan(graph, Options((target_for(device),), dtype="fp32"))
    engine = CompiledNetwork(compile_plan(plan)).engine(device)
    steps = engine.program.host_steps if engine.program else ()
    on_host = tuple(dict.fromkeys(origin for step in steps for origin in step.origins))
    return Ready(lambda feeds: list(engine.run(feeds).values()), engine.close, on_host)


DEVICES = {"CPU": "numpy", "CUDA": "cuda", "INTERPRETER": "interpreter"}
"""Devices by ONNX's names, and ``INTERPRETER``: the emitted kernels without a GPU. ``CUDA:N`` is GPU number N."""


def _device(name: str) -> str:
    """The device of one of ONNX's names. Raises `UsageError`."""
    kind, colon, ordinal = name.partition(":")
    if kind in DEVICES:
        with suppress(errors.UsageError):
            device = f"{DEVICES[kind]}{colon}{ordinal}"
            parse_device(device)
            return device
    raise errors.one_of(name, (*DEVICES, "CUDA:N"), "device")


class PreparedModel(BackendRep):
    """A model that is ready to run.

    Raises `UnsupportedModelError` where it has operators, or forms of them, that no value of its inputs helps.
    """

    def __init__(self, model: onnx.ModelProto, device: str) -> None:
        self.model, self._place = model, _device(device)
        self.inputs = declared_inputs(model)
        self._deciding: set[str] = set()
        self._kept: OrderedDict[tuple[Any, ...], tuple[Ready, list[str]]] = OrderedDict()
        if all(type.is_static for type in self.inputs.values()):
            self._refuse_early()

    def _refuse_early(self) -> None:
        try:
            import_onnx(self.model)
        except errors.UnsupportedModelError as error:
            if not error.deciding:
                raise
            self._deciding |= error.deciding

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in order, for arrays in the order of the inputs, or by their names.

        Raises `InputError` for arrays that do not fit, `UnsupportedModelError` as the class.
        """
        feeds = self._by_name(inputs)
        ready, constant = self._specialised(feeds)
        found = ready.run({name: array for name, array in feeds.items() if name not in constant})
        names = [output.name for output in self.model.graph.output]  # one may be listed again
        arrays = dict(zip(dict.fromkeys(names), found, strict=True))
        return tuple(arrays[name] for name in names)

    @property
    def on_host(self) -> tuple[str, ...]:
        """The nodes that NumPy computes between kernels, in what was run so far and is kept."""
        return tuple(dict.fromkeys(node for ready, _ in self._kept.values() for node in ready.on_host))

    def close(self) -> None:
        """Gives back what the device holds; a later run prepares anew."""
        while self._kept:
            self._kept.popitem()[1][0].close()

    def _by_name(self, inputs: Any) -> dict[str, np.ndarray]:
        if isinstance(inputs, Mapping):
            given = {name: np.asarray(array) for name, array in inputs.items()}
        else:
            arrays = [inputs] if isinstance(inputs, (np.ndarray, np.generic)) else list(inputs)
            if len(arrays) > len(self.inputs):
                raise errors.too_many_inputs(len(arrays), list(self.inputs))
            given = {name: np.asarray(array) for name, array in zip(self.inputs, arrays, strict=False)}
        missing = [name for name in self.inputs if name not in given]
        if missing:
            raise errors.missing_inputs(missing, list(self.inputs))
        for name, array in given.items():
            if name not in self.inputs:
                raise errors.unexpected_input(name, list(self.inputs))
            _check(name, self.inputs[name], array)
        return given

    def _specialised(self, feeds: Feeds) -> tuple[Ready, list[str]]:
        """What runs for these sizes and deciding values, and which inputs it holds as constants."""
        key = self._key(feeds)
        if key not in self._kept:
            graph, constant = self._imported(feeds)
            key = self._key(feeds)
            self._kept[key] = (self._ready(graph), constant)
            if len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)[1][0].close()
        self._kept.move_to_end(key)
        return self._kept[key]

    def _ready(self, graph: Graph) -> Ready:
        return _numpy(graph) if self._place == "numpy" else _compiled(graph, self._place)

    def _key(self, feeds: Feeds) -> tuple[Any, ...]:
        values = (feeds[name].tobytes() for name in sorted(self._deciding))
        return (*(feeds[name].shape for name in self.inputs), *values)

    def _imported(self, feeds: Feeds) -> tuple[Graph, list[str]]:
        """The graph; inputs that turn out to decide shapes become constants until nothing is refused for them."""
        sizes = sizes_of(self.inputs, feeds)
        while True:
            constants = {name: feeds[name] for name in sorted(self._deciding)}
            try:
                return import_onnx(self.model, dims=sizes, constants=constants), list(constants)
            except errors.UnsupportedModelError as error:
                if error.deciding <= self._deciding:
                    raise
                self._deciding |= error.deciding


def _check(name: str, type: TensorType, array: np.ndarray) -> None:
    if type.dtype.numpy != array.dtype:
        raise errors.input_dtype(name, str(type.dtype), str(array.dtype))
    expected = [size if isinstance(dim, Dim) else dim for dim, size in zip(type.shape, array.shape, strict=False)]
    if len(type.shape) != array.ndim or expected != list(array.shape):
        raise errors.input_shape(name, type.shape, array.shape)


class ConvcBackend(Backend):
    """convc as a backend of ONNX."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether convc has every operator of the model."""
        try:
            cls.prepare(model, device)
        except errors.ConvcError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """A model for a device: ``CPU`` (the numpy executor), ``CUDA`` or ``INTERPRETER``. Raises `ConvcError`."""
        return PreparedModel(model, device)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Runs one node, by default of the newest operator set (``opset_version``)."""
        names = [name for name in node.input if name]
        arrays = inputs if isinstance(inputs, Mapping) else dict(zip(names, map(np.asarray, inputs), strict=True))
        infos = [_info(name, arrays[name]) for name in dict.fromkeys(names)]
        results = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
        opset = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        graph = onnx.helper.make_graph([node], node.name or node.op_type, infos, results)
        opsets = [onnx.helper.make_opsetid(node.domain, opset)]
        model = onnx.helper.make_model(graph, opset_imports=opsets)
        with closing(cls.prepare(model, device)) as prepared:
            return prepared.run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether it can run here: ``CUDA`` needs a GPU that kernels can be compiled for."""
        try:
            place = _device(device)
        except errors.UsageError:
            return False
        return not place.startswith("cuda") or target_for(place) != "interpreter"


def _info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


is_compatible = ConvcBackend.is_compatible
prepare = ConvcBackend.prepare
run_model = ConvcBackend.run_model
run_node = ConvcBackend.run_node
supports_device = ConvcBackend.supports_device
