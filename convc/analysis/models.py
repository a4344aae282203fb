"""What a command's MODEL is: a compiled network, or a model to compile first.

Nothing of the compiler is imported until a model needs it: running a compiled network takes the runtime alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..loading import load
from ..runtime.artifact import MAGIC
from ..runtime.network import CompiledNetwork, warn_of_host_steps
from .devices import resolved_device, target_for

if TYPE_CHECKING:
    from ..ir import Graph
    from ..passes import Switches
    from ..program import Options, Plan
    from ..specialise import OpenNetwork
    from .verify import Verification

LOG = logging.getLogger("convc")

Progress = Callable[[int, int], None]
DEFAULT_POLICY = "cost-model"


@dataclass(frozen=True)
class Choices:
    """The options that decide how a model is compiled; None where the user gave none. batch: 0 where it is dynamic."""

    target: str | None = None
    dtype: str | None = None
    batch: int | None = None
    opt: str | None = None
    disable: str | None = None
    only: str | None = None
    policy: str | None = None
    enable: str | None = None
    tuned: bool | None = None
    max_batch: int | None = None
    dims: Mapping[str, int] | None = None

    @property
    def dynamic(self) -> bool:
        """Whether a run may have fewer images than the largest batch."""
        return self.batch == 0

    @property
    def size(self) -> int:
        """The batch to plan for. Raises `UsageError` for a maximum of a batch that is not dynamic."""
        from ..api import DYNAMIC, largest_batch

        batch = 1 if self.batch is None else self.batch
        return largest_batch(DYNAMIC if self.dynamic else batch, self.max_batch)[0]

    @property
    def switches(self) -> Switches:
        """The rules and features that these options leave on. Raises ``UsageError`` for unknown names."""
        from ..passes import Switches

        return Switches.parse(self.opt or "fuse", self.disable or (), self.only, self.enable or ())

    def options(self, target: str, dtype: str, **decided: Any) -> Options:
        """What to plan for. target, dtype: where the user gave none. decided: fields of `Options` that a command
        decides itself. Raises ``UsageError`` for unknown names."""
        from ..api import targets_of
        from ..program import Options

        given: dict[str, Any] = {
            "targets": targets_of(self.target or target),
            "dtype": self.dtype or dtype,
            "batch": self.size,
            "dynamic": self.dynamic,
            "switches": self.switches,
            "policy": self.policy or DEFAULT_POLICY,
            "tuned": self.tuned is not False,
        }
        return Options(**given | decided)

    def refuse(self, file: str) -> None:
        """Raises `UsageError` where one is given, for a compiled network."""
        for name, value in vars(self).items():
            if value is not None:
                raise errors.decided_already(f"--{name.replace('_', '-')}", file)


def is_compiled(model: str) -> bool:
    """Whether MODEL is a compiled network: by its suffix, or by how the file begins."""
    if model.startswith("zoo:"):
        return False
    path = Path(model)
    if path.suffix == ".convc":
        return True
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_graph(model: str, batch: int | None, dims: Mapping[str, int] | None = None) -> Graph:
    """The graph of a model, with its symbolic batch still open; ``batch`` is 0 where it has to be. dims: numbers for
    open sizes.

    Raises:
        UsageError: a batch for a model that has a fixed one. Others as `convc.api.graph_of`.
    """
    from ..api import graph_of

    graph = graph_of(model, 1 if batch is None else batch or None, dims)
    first = [node.outputs[0].shape[0] for node in graph.graph_inputs if node.outputs[0].shape]
    if batch and first and all(isinstance(dim, int) and dim != batch for dim in first):
        raise errors.fixed_batch(model, first[0], batch)
    return graph


def make_plan(model: str, choices: Choices, target: str, dtype: str, verify_passes: bool = False) -> Plan:
    """The plan of a model; ``target`` and ``dtype`` are the defaults."""
    from .. import planner as planning

    options = choices.options(target, dtype, verify_passes=verify_passes)
    made = planning.make_plan(read_graph(model, choices.batch, choices.dims), options)
    for record in made.journal:
        LOG.info("%s", record)
    return made


def compile_network(plan: Plan, progress: Progress | None = None) -> CompiledNetwork:
    """The compiled network of a plan."""
    from ..compiler import compile_plan

    return CompiledNetwork(compile_plan(plan, progress=progress))


def open_network(
    model: str, choices: Choices, device: str, dtype: str = "fp16", progress: Progress | None = None
) -> CompiledNetwork:
    """A compiled network from its file, or of a model compiled now for a device (``dtype``: the default)."""
    if is_compiled(model):
        choices.refuse(model)
        network = load(model)
    else:
        found = open_sizes(model, choices, target_for(device), dtype)
        network = found or compile_network(make_plan(model, choices, target_for(device), dtype), progress)
    if device != "numpy":
        warn_of_host_steps(network)
    return network


def open_sizes(model: str, choices: Choices, target: str, dtype: str) -> OpenNetwork | None:
    """The network of a model whose sizes are open, which is compiled when they are known; None for any other."""
    from .. import api

    return api.open_network(model, choices.options(target, dtype), choices.dims)


def load_compiled(model: str) -> CompiledNetwork:
    """A compiled network from its file. Raises `UsageError` for one whose sizes are open."""
    network = load(model)
    if network.artifact.manifest.open is not None:
        raise errors.nothing_compiled_yet(model)
    return network


def verify_model(
    model: str, choices: Choices, device: str, seed: int, progress: Progress | None = None
) -> Verification:
    """A model, or a compiled network, against ONNX Runtime.

    The reference of a compiled network is the graph and the constants that it holds: rounding the weights to its
    numeric mode is not counted as an error there.
    """
    from ..frontends.export import export_onnx
    from ..planner import bind_batch
    from .verify import check_against, reference_model

    device = resolved_device(device)
    if is_compiled(model):
        from ..runtime.numpy_executor import stored_graph

        choices.refuse(model)
        network = load_compiled(model)
        graph = stored_graph(network.artifact)
        return check_against(network, graph, export_onnx(graph), device, seed)
    plan = make_plan(model, choices, target_for(device), "fp32")
    reference = reference_model(model, bind_batch(read_graph(model, choices.batch, choices.dims), choices.size))
    return check_against(compile_network(plan, progress), plan.graph, reference, device, seed)
