"""Commands that look at a network kernel by kernel: `verify --per-kernel` and `bisect`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import errors
from ..compiler import settled
from ..passes.slices import RULE as SLICES
from ..planner import bind_batch
from ..program import Plan
from ..runtime.network import CompiledNetwork
from .arrays import random_inputs
from .devices import resolved_device, target_for
from .kernel_check import check_kernels
from .models import Choices, Progress, compile_network, is_compiled, make_plan, read_graph
from .verify import check_against, reference_model


def _compiled(model: str, choices: Choices, device: str, progress: Progress | None) -> tuple[Plan, CompiledNetwork]:
    """Raises `UsageError` for a compiled network: it does not keep where its tensors lie."""
    if is_compiled(model):
        raise errors.compiled_already(model)
    whole = replace(choices, disable=",".join(filter(None, [choices.disable, SLICES])))  # tensors in memory as a whole
    plan = settled(make_plan(model, whole, target_for(device) or "interpreter", "fp32"), progress=progress)
    return plan, compile_network(plan, progress)


def verify_per_kernel(
    model: str, choices: Choices, device: str, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """The report of `verify`, with a row of ``kernels`` for each launch; ``ok`` is about both."""
    device = resolved_device(device)
    plan, network = _compiled(model, choices, device, progress)
    reference = reference_model(model, bind_batch(read_graph(model, choices.batch, choices.dims), choices.size))
    whole = check_against(network, plan.graph, reference, device, seed)
    kernels = list(check_kernels(plan, network, device, random_inputs(network.inputs, seed)))
    ok = whole.ok and all(kernel.ok for kernel in kernels)
    return {**whole.as_json(), "ok": ok, "kernels": [kernel.as_json() for kernel in kernels]}


def find_first(
    model: str, choices: Choices, device: str, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """The first launch that departs, None where none does; nothing behind it is run."""
    device = resolved_device(device)
    plan, network = _compiled(model, choices, device, progress)
    checked = set[int]()
    first = None
    for kernel in check_kernels(plan, network, device, random_inputs(network.inputs, seed)):
        checked.add(kernel.launch)
        if not kernel.ok:
            first = kernel.as_json()
            break
    return {
        "ok": first is None,
        "device": device,
        "dtype": plan.options.dtype,
        "launches": len(plan.programs[0].launches),
        "checked": len(checked),
        "first": first,
    }
