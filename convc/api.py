"""The Python interface: everything public is reached from here, as ``convc.NAME``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Union

import onnx

from . import errors
from .compiler import compile_plan
from .frontends import dsl as nn
from .frontends import zoo
from .frontends.export import export_onnx
from .frontends.onnx import declared_inputs, import_onnx
from .ir import Graph
from .loading import load
from .passes import Switches
from .passes.choice import Choice, CostModel, Policy
from .passes.extensions import Extension, load_installed, register, registered, unregister
from .passes.rules import Rule
from .planner import make_plan, require_independent
from .program import Options, Plan
from .runtime.engine import Engine
from .runtime.network import CompiledNetwork, Kernel, warn_of_host_steps
from .specialise import OpenNetwork, batches, open_artifact, open_sizes, read_model

Model = Union[str, os.PathLike[str], onnx.ModelProto, nn.Network, Graph]
Progress = Callable[[int, int], None]


LOG = logging.getLogger("convc")
DYNAMIC = "dynamic"
MAX_BATCH = 32
"""The largest batch of a dynamic one, where none is given."""


def graph_of(model: Model, batch: int | None = 1, dims: Mapping[str, int] | None = None) -> Graph:
    """The graph of a model: a path to ONNX, ``zoo:NAME``, an ``onnx.ModelProto``, a DSL network or a graph.

    A symbolic batch stays open, unless the ONNX graph takes another form for each: then it is ``batch``; where that
    is None, such a graph is refused. Networks of the zoo have the batch that is asked for, or an open one.
    dims: numbers for open sizes by their names.

    Raises:
        LoadError, UnsupportedModelError, ShapeError, UsageError.
    """
    built = _built(model, batch)
    if built is None:
        assert not isinstance(model, (Graph, nn.Network))
        return import_onnx(model, batch=batch, dims=dims)
    return import_onnx(export_onnx(built), batch=batch, dims=dims) if dims else built


def _built(model: Model, batch: int | None) -> Graph | None:
    """The graph of a model that is not ONNX."""
    if isinstance(model, (Graph, nn.Network)):
        return model if isinstance(model, Graph) else model.graph
    if isinstance(model, onnx.ModelProto) or not os.fspath(model).startswith("zoo:"):
        return None
    return zoo.build(os.fspath(model).removeprefix("zoo:"), batch="N" if batch is None else batch).graph


def open_network(model: Model, options: Options, dims: Mapping[str, int] | None = None) -> OpenNetwork | None:
    """The network that is compiled when sizes are known, where other sizes than the batch are open, or a dynamic batch
    cannot be compiled once; None where everything can be compiled now. dims: numbers for open sizes.

    Raises:
        LoadError, UsageError.
    """
    dims = dict(dims or {})
    built = _built(model, None if options.dynamic else options.batch)
    types = (
        {node.attributes["name"]: node.outputs[0] for node in built.graph_inputs}
        if built is not None
        else declared_inputs(model, dims)  # type: ignore[arg-type]
    )
    open_names = [name for name in open_sizes(types) if name not in dims]
    others = [name for name in open_names if name not in batches(types)]
    if not others and not (options.dynamic and open_names and _mixes(model, options, dims)):
        return None
    if not options.dynamic:
        dims |= {name: options.batch for name in open_names if name not in others}
    kept = export_onnx(built) if built is not None else model
    whole = kept if isinstance(kept, onnx.ModelProto) else read_model(os.fspath(kept))  # type: ignore[arg-type]
    return OpenNetwork(
        open_artifact(whole, replace(options, batch=options.batch if options.dynamic else 1), dims),
        policy=options.policy,
    )


def _mixes(model: Model, options: Options, dims: Mapping[str, int]) -> bool:
    """Whether a network with a dynamic batch must be compiled for each; the log says why."""
    try:
        require_independent(graph_of(model, None, dims), options)
    except (errors.DependentImagesError, errors.UnsupportedModelError) as error:
        graph_of(model, options.batch, dims)
        LOG.warning("compiled for each batch when it is first run: %s", error)
        return True
    return False


def targets_of(target: str | Iterable[str]) -> tuple[str, ...]:
    """Target names from one, several, or ``auto``: the GPU that is present, else the interpreter. None from ``""``."""
    names = target.split(",") if isinstance(target, str) and target else list(target)
    return tuple(dict.fromkeys(present_target() if name == "auto" else name.strip() for name in names))


def present_target(ordinal: int = 0) -> str:
    """The target of the GPU of that number, or ``interpreter`` where there is none that convc compiles for."""
    from .runtime.driver import Device, Driver
    from .targets import TARGETS

    try:
        architecture = Device(Driver(), ordinal).architecture
    except errors.DeviceError:
        return "interpreter"
    return architecture if architecture in TARGETS else "interpreter"


def largest_batch(batch: int | str, max_batch: int | None) -> tuple[int, bool]:
    """The batch to plan for, and whether a run may have fewer images. Raises `UsageError`."""
    if max_batch is not None and (not isinstance(max_batch, int) or max_batch < 1):
        raise errors.bad_batch(str(max_batch), "--max-batch", "")
    if batch == DYNAMIC:
        return max_batch or MAX_BATCH, True
    if not isinstance(batch, int) or batch < 1:
        raise errors.bad_batch(str(batch))
    if max_batch is not None:
        raise errors.max_batch_alone(max_batch)
    return batch, False


def plan(
    model: Model,
    target: str | Iterable[str] = "sm_90",
    dtype: str = "fp16",
    batch: int | str = 1,
    opt: str = "fuse",
    disable: Iterable[str] | str = (),
    only: Iterable[str] | str | None = None,
    policy: Policy | str = CostModel.name,
    enable: Iterable[str] | str = (),
    tuned: bool = True,
    max_batch: int | None = None,
    dims: Mapping[str, int] | None = None,
) -> Plan:
    """Everything that `compile` does before machine code: the fused graph, layouts, tiles, kernels and memory."""
    switches = Switches.parse(opt, disable, only, enable)
    size, dynamic = largest_batch(batch, max_batch)
    options = Options(targets_of(target), dtype, size, switches, policy=policy, tuned=tuned, dynamic=dynamic)
    return make_plan(graph_of(model, None if dynamic else size, dims), options)


def compile(
    model: Model,
    target: str | Iterable[str] = "sm_90",
    dtype: str = "fp16",
    batch: int | str = 1,
    opt: str = "fuse",
    disable: Iterable[str] | str = (),
    only: Iterable[str] | str | None = None,
    progress: Progress | None = None,
    policy: Policy | str = CostModel.name,
    enable: Iterable[str] | str = (),
    tuned: bool = True,
    max_batch: int | None = None,
    dims: Mapping[str, int] | None = None,
) -> CompiledNetwork:
    """Compiles a network, on any machine.

    model: a path to an ONNX file, ``zoo:NAME``, an ``onnx.ModelProto``, a DSL network or a graph. target: names such as
    ``sm_90``, ``interpreter``, ``auto`` (the GPU present, else the interpreter), or several. dtype: ``fp32`` (IEEE),
    ``tf32``, ``fp16``, ``bf16``: how fp32 tensors are stored and multiplied; inputs and outputs keep the model's types.
    batch: size of a symbolic batch, or ``"dynamic"``: then a run may have any number of images up to ``max_batch`` (32
    where it is not given). dims: numbers for other open sizes, by their names. Where sizes stay open, or images are
    mixed, the result is an `OpenNetwork`, which is compiled for each size when it is first run with it.
    opt: ``none``, ``fold`` or ``fuse``. disable, only: names of rules (`convc.RULES`).
    disable, enable: names of features (`convc.FEATURES`).
    policy: who chooses among legal fusions: ``cost-model``, ``always``, ``never``, the name of one that an installed
    package supplies, or a `Policy`. progress: called with (kernels compiled, kernels). tuned: whether tiles that
    ``convc tune`` measured are used.

    What has no kernel runs on the host, in NumPy, between launches; a warning in the log ``convc`` says so, and
    ``disable="host-steps"`` refuses it.

    Raises:
        LoadError, UnsupportedModelError, ShapeError, LimitError, UsageError, CompileError.
    """
    switches = Switches.parse(opt, disable, only, enable)
    size, dynamic = largest_batch(batch, max_batch)
    options = Options(targets_of(target), dtype, size, switches, policy=policy, tuned=tuned, dynamic=dynamic)
    found = open_network(model, options, dims)
    if found is not None:
        return found
    planned = make_plan(graph_of(model, None if dynamic else size, dims), options)
    network = CompiledNetwork(compile_plan(planned, progress=progress))
    warn_of_host_steps(network)
    return network


def __getattr__(name: str) -> Any:
    if name == "RULES":
        from .passes import RULES

        load_installed()
        return RULES
    if name == "FEATURES":
        from .passes.features import FEATURES

        return FEATURES
    raise AttributeError(f"module 'convc' has no attribute {name!r}")


__all__ = [
    "Choice",
    "CompiledNetwork",
    "CostModel",
    "Engine",
    "Extension",
    "Graph",
    "Kernel",
    "OpenNetwork",
    "Options",
    "Plan",
    "Policy",
    "Rule",
    "compile",
    "export_onnx",
    "graph_of",
    "import_onnx",
    "load",
    "nn",
    "plan",
    "register",
    "registered",
    "unregister",
    "zoo",
]
