"""What the tests of a fusion rule ask of it: exact numbers, its reasons, kernels one by one, machine code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import Build
from compiled import APART, Arrays, Builder, inputs_of, run, same
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import weights

from convc.analysis.kernel_check import KernelCheck, check_kernels
from convc.analysis.verify import reference_outputs, verify
from convc.codegen.cache import KernelCache
from convc.codegen.emit import EmittedKernel, emit
from convc.compiler import compile_plan
from convc.frontends.export import export_onnx
from convc.ir import Graph
from convc.ir.plan import FusedGraph, Tile
from convc.ir.problem import Problem
from convc.passes import Switches, fuse
from convc.passes.choice import Policy
from convc.planner import make_plan, optimise
from convc.program import Options, Plan
from convc.runtime.manifest import KernelSpec
from convc.runtime.network import CompiledNetwork
from convc.targets import target

MODES = ("fp32", "tf32", "fp16", "bf16")


def plan_of(b: Builder, *targets: str, **options: Any) -> Plan:
    """A plan for sm_90 unless told."""
    return make_plan(b.graph, Options(targets or ("sm_90",), **options))


def plan_apart(b: Builder, *targets: str, **options: Any) -> Plan:
    """The same without what puts several kernels into one launch, unless told which rules are off."""
    return plan_of(b, *targets, **({"switches": APART} | options))


# -- numbers ----------------------------------------------------------------------------------------------------------
def in_every_mode(cases: st.SearchStrategy, examples: int = 8) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test of ``dtype`` and ``case`` for so many cases in each numeric mode, in Triton's interpreter."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        drawn = settings(settings.get_profile("shared-process"), max_examples=examples)(given(cases)(test))
        return pytest.mark.usefixtures("interpreters")(pytest.mark.parametrize("dtype", MODES)(drawn))

    return decorate


def reference_of(b: Builder) -> Arrays:
    """What ONNX Runtime computes."""
    return reference_outputs(export_onnx(b.graph, opset=22), b.inputs)


def same_without(b: Builder, rule: str, dtype: str = "fp32") -> Arrays:
    """Outputs, which are to the bit those of kernels without the rule."""
    found = run(b.graph, b.inputs, dtype=dtype)
    same(found, run(b.graph, b.inputs, dtype=dtype, disable=rule))
    return found


def check_network(graph: Graph, dtype: str, rule: str) -> None:
    """With a rule and without each is within its bound of the reference, so both are within two of each other."""
    checked = verify(graph, device="interpreter", dtype=dtype)
    assert checked.ok, checked.outputs
    inputs = inputs_of(graph)
    found, unfused = (run(graph, inputs, dtype=dtype, disable=disabled) for disabled in ((), rule))
    for (name, array), output in zip(found.items(), checked.outputs, strict=True):
        assert abs(array - unfused[name]).max() <= 2 * output.bound, name


def kernel_checks(plan: Plan, inputs: dict[str, np.ndarray], device: str = "interpreter") -> list[KernelCheck]:
    """Each kernel of a plan beside its operators."""
    return list(check_kernels(plan, CompiledNetwork(compile_plan(plan)), device, inputs))


# -- reasons ----------------------------------------------------------------------------------------------------------
def reasons(found: FusedGraph, rule: str) -> list[str]:
    return [decline.reason for decline in found.declines if decline.rule == rule]


def fused_graph(build: Build, policy: Policy | None = None) -> FusedGraph:
    """What stands behind an input of 24 channels and 6x6 pixels, divided into regions."""
    b = Builder()
    b.output(build(b, b.input(weights(1, 24, 6, 6))))
    canonical, _ = optimise(b.graph, Options())
    return fuse(canonical, Switches(), policy)


def declined(rule: str, build: Build, policy: Policy | None = None) -> list[str]:
    """Why a rule, which takes place nowhere in :func:`fused_graph`, does not."""
    found = fused_graph(build, policy)
    assert not any(rule in region.rules for region in found.regions), found.regions
    return reasons(found, rule)


# -- texts and machine code -------------------------------------------------------------------------------------------
def emitted(problem: Problem, tile: Tile) -> EmittedKernel:
    """A kernel whose operands are aligned as their offsets are."""
    return emit(problem, tile, lambda operand: operand.offset % 8 == 0)


def check_machine_code(
    plan: Plan,
    cache: Path,
    count: int,
    chosen: Callable[[KernelSpec], bool] = lambda kernel: True,
    tensor_cores: bool | None = None,
) -> None:
    """As many kernels of each program are chosen, all unless told; none spills, and a multiprocessor holds each.

    tensor_cores: whether each uses them; unless told, it may.
    """
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    for program in compile_plan(plan, KernelCache(cache)).manifest.programs:
        kernels = [kernel for kernel in program.kernels if chosen(kernel)]
        assert len(kernels) == count, [kernel.name for kernel in program.kernels]
        for kernel in kernels:
            binary = kernel.binary
            assert binary is not None and binary.spill_bytes == 0 and binary.registers <= 255, kernel.name
            assert binary.shared_bytes <= target(program.target).shared_bytes, kernel.name
            assert tensor_cores in (None, binary.tensor_core_instructions > 0), kernel.name
