"""The Python interface: everything public is reached from here, as ``convc.NAME``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Union

import onnx

from . import errors
from .compiler import compile_plan
from .frontends import dsl as nn
from .frontends import zoo
from .frontends.export import export_onnx
from .frontends.onnx import import_onnx
from .ir import Graph
from .passes import Switches
from .passes.choice import Choice, CostModel, Policy
from .passes.extensions import Extension, load_installed, register, registered, unregister
from .passes.rules import Rule
from .planner import Options, Plan, make_plan
from .runtime.engine import Engine
from .runtime.network import CompiledNetwork, Kernel, load

Model = Union[str, os.PathLike[str], onnx.ModelProto, nn.Network, Graph]
Progress = Callable[[int, int], None]


DYNAMIC = "dynamic"
MAX_BATCH = 32
"""The largest batch of a dynamic one, where none is given."""


def graph_of(model: Model, batch: int | None = 1) -> Graph:
    """The graph of a model: a path to ONNX, ``zoo:NAME``, an ``onnx.ModelProto``, a DSL network or a graph.

    A symbolic batch stays open, unless the ONNX graph takes another form for each: then it is ``batch``; where that
    is None, such a graph is refused. Networks of the zoo have the batch that is asked for, or an open one.

    Raises:
        LoadError, UnsupportedModelError, ShapeError, UsageError.
    """
    if isinstance(model, Graph):
        return model
    if isinstance(model, nn.Network):
        return model.graph
    if isinstance(model, onnx.ModelProto):
        return import_onnx(model, batch=batch)
    path = os.fspath(model)
    if path.startswith("zoo:"):
        return zoo.build(path.removeprefix("zoo:"), batch="N" if batch is None else batch).graph
    return import_onnx(path, batch=batch)


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
        raise errors.bad_batch(str(max_batch))
    if batch == DYNAMIC:
        return max_batch or MAX_BATCH, True
    if not isinstance(batch, int):
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
) -> Plan:
    """Everything that `compile` does before machine code: the fused graph, layouts, tiles, kernels and memory."""
    switches = Switches.parse(opt, disable, only, enable)
    size, dynamic = largest_batch(batch, max_batch)
    options = Options(targets_of(target), dtype, size, switches, policy=policy, tuned=tuned, dynamic=dynamic)
    return make_plan(graph_of(model, None if dynamic else size), options)


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
) -> CompiledNetwork:
    """Compiles a network, on any machine.

    model: a path to an ONNX file, ``zoo:NAME``, an ``onnx.ModelProto``, a DSL network or a graph. target: names such as
    ``sm_90``, ``interpreter``, ``auto`` (the GPU present, else the interpreter), or several. dtype: ``fp32`` (IEEE),
    ``tf32``, ``fp16``, ``bf16``: how fp32 tensors are stored and multiplied; inputs and outputs keep the model's types.
    batch: size of a symbolic batch, or ``"dynamic"``: then a run may have any number of images up to ``max_batch`` (32
    where it is not given), if no operator mixes images.
    opt: ``none``, ``fold`` or ``fuse``. disable, only: names of rules (`convc.RULES`).
    disable, enable: names of features (`convc.FEATURES`).
    policy: who chooses among legal fusions: ``cost-model``, ``always``, ``never``, the name of one that an installed
    package supplies, or a `Policy`. progress: called with (kernels compiled, kernels). tuned: whether tiles that
    ``convc tune`` measured are used.

    Raises:
        LoadError, UnsupportedModelError, ShapeError, LimitError, UsageError, CompileError.
    """
    planned = plan(model, target, dtype, batch, opt, disable, only, policy, enable, tuned, max_batch)
    return CompiledNetwork(compile_plan(planned, progress=progress))


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
