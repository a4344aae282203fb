"""Golden sources of the kernels, one of each kind, for one GPU; and what every one of them keeps to."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from compiled import evaluate, run, same
from small_networks import KERNELS, kernel_case

from convc.codegen.emit import EmittedKernel, emit
from convc.ir.plan import Tile
from convc.ir.problem import Contraction, Problem, steps_of
from convc.passes import Switches
from convc.planner import make_plan
from convc.program import Options


@cache
def kernel_of(case: str) -> EmittedKernel:
    """The kernel that the case is about, under one fixed tile, so that the cost model does not change the text."""
    prologues = () if "prologue" in case else ("conv-prologue",)
    switches = Switches(disable=("last-block", "sibling-convolutions", "shuffle-in-writer", "pad-epilogue", *prologues))
    plan = make_plan(kernel_case(case).graph, Options(("sm_90",), "fp16", switches=switches))
    word = KERNELS[case][0]
    launch = next(x for x in plan.programs[0].launches if x.kernel.name.rpartition("_")[0] == word)
    (step,) = launch.steps
    return emit(step.work.problem, fixed(case, step.work.problem, step.tile), lambda operand: operand.offset % 8 == 0)


def fixed(case: str, problem: Problem, tile: Tile) -> Tile:
    if not isinstance(problem, Contraction):
        return replace(tile, rows=4, cols=tile.cols if problem.family == "softmax" else 64, num_warps=4)
    depth = tile.depth if steps_of(problem).flat else 32
    split = 4 if case == "conv_split_k" else 1
    access = "descriptors" if "descriptors" in case else "pointers"
    return replace(tile, rows=64, cols=64, depth=depth, num_warps=4, num_stages=3, split_k=split, access=access)


@pytest.mark.parametrize("case", KERNELS)
def test_source(case: str, golden: Callable[[str, str], None]) -> None:
    kernel = kernel_of(case)
    golden(f"kernels/{case}.py", kernel.source)
    assert ("partial" in kernel.source) == (case == "conv_split_k")


@pytest.mark.parametrize("case", KERNELS)
def test_nothing_in_a_kernel_is_unused(case: str) -> None:
    """Every parameter and every assigned name is read somewhere."""
    kernel = kernel_of(case)
    (function,) = [node for node in ast.parse(kernel.source).body if isinstance(node, ast.FunctionDef)]
    names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    assigned = {node.id for node in names if isinstance(node.ctx, ast.Store)} - {"_"}
    parameters = {argument.arg for argument in function.args.args}
    assert parameters == {name for name, _, _ in kernel.parameters}
    assert parameters - read == set() and assigned - read == set()


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(
    "case", [c for c in KERNELS if c not in ("lrn", "softmax", "log_softmax_channels", "elementwise_chain")]
)
@pytest.mark.parametrize("dtype", ["fp16"])
def test_what_the_cases_compute(case: str, dtype: str) -> None:
    """Exact, but for the divisors of averages, which round once to the stored type."""
    b = kernel_case(case)
    found, wanted = run(b.graph, b.inputs, dtype=dtype)["y0"], evaluate(b.graph, b.inputs)["y0"]
    if "average" in case:
        assert abs(found - wanted).max() <= 2 * 2.0**-11 * abs(wanted).max()
    else:
        same({"y": found}, {"y": wanted})
