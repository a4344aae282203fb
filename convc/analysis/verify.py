"""Verification: a compiled network against ONNX Runtime with its optimisations disabled.

ONNX Runtime's default level is no reference: it merges a zero padding into a max pooling, whose own padding is −∞.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from .. import errors
from ..api import Model, graph_of, targets_of
from ..compiler import compile_plan
from ..frontends.export import export_onnx
from ..ir import Graph
from ..passes import Switches
from ..passes.choice import Policy
from ..planner import bind_batch, make_plan
from ..program import Options, Plan
from ..runtime.network import CompiledNetwork
from .arrays import random_inputs
from .bounds import output_bounds
from .comparison import OutputCheck, compare
from .devices import resolved_device, target_for
from .models import DEFAULT_POLICY


@dataclass(frozen=True)
class Verification:
    """All outputs of one run on one device."""

    device: str
    dtype: str
    outputs: tuple[OutputCheck, ...]

    @property
    def ok(self) -> bool:
        return all(output.ok for output in self.outputs)

    def as_json(self) -> dict[str, Any]:
        outputs = [asdict(output) for output in self.outputs]
        return {"ok": self.ok, "device": self.device, "dtype": self.dtype, "outputs": outputs}


def reference_outputs(model: onnx.ModelProto | str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes with every optimisation disabled.

    Raises:
        UsageError: ONNX Runtime is not installed, or refuses the model.
    """
    try:
        import onnxruntime
    except ImportError:
        raise errors.no_reference("ONNX Runtime is not installed; pip install 'convc[verify]'") from None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    source = model if isinstance(model, str) else model.SerializeToString()
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))
    except Exception as error:  # ONNX Runtime has no common base of its errors
        raise errors.no_reference(f"ONNX Runtime refuses the model: {error}") from error


def reference_model(model: Model, graph: Graph) -> onnx.ModelProto | str:
    """What to give ONNX Runtime: the user's own model where it is ONNX, an export of the graph otherwise."""
    if isinstance(model, onnx.ModelProto):
        return model
    if isinstance(model, str) and not model.startswith("zoo:"):
        return model
    return export_onnx(graph)


def verify(
    model: Model,
    device: str = "numpy",
    dtype: str = "fp32",
    opt: str = "fuse",
    disable: str | tuple[str, ...] = (),
    batch: int = 1,
    seed: int = 0,
    policy: Policy | str = DEFAULT_POLICY,
    dims: Mapping[str, int] | None = None,
) -> Verification:
    """Compiles a model for a device and compares one run on seeded inputs with ONNX Runtime.

    device: ``numpy``, ``interpreter``, ``cuda``, ``cuda:N`` or ``auto``. dims: numbers for open sizes.

    Raises:
        ConvcError: the model cannot be compiled, run or referred.
    """
    device, graph = resolved_device(device), graph_of(model, batch, dims)
    targets = targets_of(target_for(device))
    plan = make_plan(graph, Options(targets, dtype, batch, Switches.parse(opt, disable), policy=policy))
    network = CompiledNetwork(compile_plan(plan))
    reference = reference_model(model if not hasattr(model, "__fspath__") else str(model), bind_batch(graph, batch))
    return verify_compiled(network, plan, reference, device, seed)


def verify_compiled(
    network: CompiledNetwork, plan: Plan, reference: onnx.ModelProto | str, device: str, seed: int = 0
) -> Verification:
    """Compares one run of a network compiled from a plan with ONNX Runtime on the reference model."""
    return check_against(network, plan.graph, reference, device, seed)


def check_against(
    network: CompiledNetwork, graph: Graph, reference: onnx.ModelProto | str, device: str, seed: int = 0
) -> Verification:
    """Compares one run of a compiled network with ONNX Runtime. graph: the fused one, from which the bounds follow."""
    inputs = random_inputs(network.inputs, seed)
    expected = reference_outputs(reference, inputs)
    with network.engine(device) as engine:
        found = engine.run(inputs)
    dtype = network.artifact.manifest.dtype
    bounds = output_bounds(graph, dtype, inputs, seed)
    checks = tuple(compare(name, found[name], expected[name], bounds[name]) for name in found)
    return Verification(device, dtype, checks)
