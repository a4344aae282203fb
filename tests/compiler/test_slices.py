"""Stages that run for a part of the batch at a time: numbers, memory, reasons, and when it pays."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiled import Builder, Taking, conv, evaluate, integers, planned, same

from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.ir import Value
from convc.passes import Switches, launches, slices
from convc.passes.policies import Always
from convc.passes.slices import RULE, Stage, divided
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.network import CompiledNetwork

RANDOM = np.random.default_rng(9)


def plan_of(b: Builder, *targets: str, **options: Any) -> Plan:
    return make_plan(b.graph, Options(targets or ("interpreter",), **({"policy": Taking(RULE)} | options)))


def stages(plan: Plan) -> list[Stage]:
    return [entry for entry in plan.programs[0].schedule if isinstance(entry, Stage)]


def chain(batch: int) -> Builder:
    """Three convolutions: the two tensors between them are nobody else's."""
    b = Builder("chain")
    y = b.input(integers(RANDOM, (batch, 6, 8, 8)))
    for filters, channels in ((8, 6), (10, 8), (5, 10)):
        y = b.add("Relu", conv(b, y, integers(RANDOM, (filters, channels, 3, 3), 1), pads=(1,) * 4))
        y = b.add("Clip", y, min=-3.0, max=3.0)
    b.output(y)
    return b


def block(batch: int) -> Builder:
    """A residual block with a projection, a depthwise convolution, pooling, a concatenation and a mean."""
    b = Builder("block")
    x = b.input(integers(RANDOM, (batch, 8, 8, 6)))
    y = b.add("Relu", conv(b, x, integers(RANDOM, (8, 8, 1, 1), 1)))
    y = conv(b, b.add("Clip", y, min=0.0, max=2.0), integers(RANDOM, (8, 1, 3, 3), 1), pads=(1,) * 4, groups=8)
    y = b.add("Add", b.add("Clip", y, min=-2.0, max=2.0), conv(b, x, integers(RANDOM, (8, 8, 1, 1), 1)))
    window = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": False}
    y = b.add(
        "Concat", b.add("MaxPool", y, **window), conv(b, x, integers(RANDOM, (4, 8, 1, 1), 1), strides=(2, 2)), axis=1
    )
    b.output(b.add("ReduceMax", b.add("Relu", y), axes=(2, 3), keepdims=False))
    return b


def squeeze(batch: int) -> Builder:
    """Two kernels with two results each, one of them a mean; a gate; a mean that is the only result."""
    b = Builder("squeeze")
    y = b.input(integers(RANDOM, (batch, 8, 8, 8)))
    for _ in range(2):
        y = conv(b, y, integers(RANDOM, (8, 1, 3, 3), 1), pads=(1,) * 4, groups=8)
        y = b.add("Clip", y, min=-2.0, max=2.0)
        y = b.add("Add", y, b.add("ReduceMax", y, axes=(2, 3), keepdims=True))
    y = conv(b, y, integers(RANDOM, (8, 8, 1, 1), 1))
    b.output(b.add("ReduceMean", b.add("Relu", y), axes=(2, 3), keepdims=False))
    return b


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("build", [chain, block])
@pytest.mark.parametrize(("batch", "parts"), [(4, 2), (8, 8)])
def test_exact_on_whole_numbers(
    build: Any, batch: int, parts: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    b = build(batch)
    if parts > 2:
        monkeypatch.setattr(slices, "L2_SHARE", 1.5 * smallest_image(b, dtype) / launches.REFERENCE.l2_bytes)
    plan = plan_of(b, dtype=dtype)
    found = stages(plan)
    assert found and all(stage.parts == parts if build is chain else stage.parts >= 2 for stage in found)
    with CompiledNetwork(compile_plan(plan)).engine("interpreter") as engine:
        for _ in range(2):
            same(engine.run(b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [2, 4])
def test_kernels_that_pool_whole_images_are_divided_too(batch: int, dtype: str) -> None:
    """Down to one image a part."""
    b = squeeze(batch)
    plan = plan_of(b, dtype=dtype, policy=Taking(RULE, "global-pool-epilogue"))
    pools = [p.pool.keeps for stage in stages(plan) for launch in stage.launches for p in launch.problems if p.pool]
    assert pools.count(True) == 2
    with CompiledNetwork(compile_plan(plan)).engine("interpreter") as engine:
        same(engine.run(b.inputs), evaluate(b.graph, b.inputs))


def smallest_image(b: Builder, dtype: str) -> float:
    """Bytes of one image of the smallest tensor between two kernels."""
    plan = plan_of(b, dtype=dtype, switches=Switches(disable=(RULE,)))
    sizes = [block.nbytes for block in plan.layouts.blocks.values() if block.buffer == "arena"]
    batch = next(iter(b.inputs.values())).shape[0]
    return min(sizes) / batch


def test_what_stays_in_the_cache_takes_the_memory_of_one_part() -> None:
    b = chain(8)
    whole = plan_of(b, dtype="fp16", switches=Switches(disable=(RULE,)))
    plan = plan_of(b, dtype="fp16")
    (stage,) = stages(plan)
    program = plan.programs[0]
    assert len(program.launches) == len(stage.launches) * stage.parts + 3 - len(stage.launches)
    assert program.arena.nbytes < whole.programs[0].arena.nbytes
    assert program.arena.nbytes >= sum(plan.layouts.blocks[block].nbytes for block in stage.kept) // stage.parts


def test_only_addresses_outside_the_stage_move() -> None:
    b = chain(4)
    plan = plan_of(b, "sm_90", dtype="fp16")
    (stage,) = stages(plan)
    program = plan.programs[0]
    assert len(program.kernels) == 3 < len(program.launches)
    moved: set[Value] = set()
    for first, second in zip(stage.part(0), stage.part(1), strict=True):
        (before,), (after,) = first.problems, second.problems
        for old, new in zip((*before.reads, before.output), (*after.reads, after.output), strict=True):
            if old.offset != new.offset:
                assert isinstance(old.source, Value)
                moved.add(old.source)
                assert new.offset - old.offset == math.prod(plan.layouts.placements[old.source].shape) // stage.parts
    assert moved == set(stage.shifts) and len(moved) == 2  # the input and the output


# -- reasons ----------------------------------------------------------------------------------------------------------
def test_short_stages_do_not_pay_and_the_reason_is_kept() -> None:
    plan = make_plan(chain(4).graph, Options(("sm_90",)))
    assert stages(plan) == []
    (reason,) = {decline.reason for decline in plan.programs[0].declines if decline.rule == RULE}
    assert reason.startswith("running ") and "parts of the batch" in reason and "us longer" in reason


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_that_cannot_be_halved_is_left_alone(batch: int) -> None:
    assert stages(plan_of(chain(batch))) == []


def test_switched_off() -> None:
    plan = plan_of(chain(4), switches=Switches(disable=(RULE,)))
    assert stages(plan) == [] and all(decline.rule != RULE for decline in plan.programs[0].declines)


def test_a_tensor_that_is_read_later_is_not_kept() -> None:
    b = chain(4)
    y = b.graph.inputs(b.graph.graph_outputs[0])[0]
    middle = next(Value(node.id) for node in b.graph.nodes() if node.op == "Clip")
    b.output(
        b.add(
            "Add",
            b.add("ReduceMax", y, axes=(1,), keepdims=True),
            b.add("ReduceMax", middle, axes=(0, 1), keepdims=True),
        )
    )
    plan = plan_of(b, dtype="fp32")
    home = plan.layouts.placements
    assert stages(plan) and any(stage.kept for stage in stages(plan))
    assert home[middle].block not in {block for stage in stages(plan) for block in stage.kept}
    for stage in stages(plan):
        inside = {region.id for launch in stage.launches for step in launch.steps for region in [step.work.region]}
        for value, placed in home.items():
            users = {plan.graph.node(use.node).region for use in plan.graph.users(value)}
            assert placed.block not in stage.kept or users <= inside


def test_a_stage_ends_where_the_batch_does() -> None:
    """Before a maximum over the images, and at a graph whose tensors have other first extents."""
    b = chain(4)
    y = b.graph.inputs(b.graph.graph_outputs[0])[0]
    y = b.add("Neg", b.add("ReduceMax", b.add("Exp", y), axes=(0,), keepdims=True))
    b.output(b.add("ReduceMax", y, axes=(2, 3), keepdims=False))
    plan = plan_of(b, switches=Switches(disable=("last-block",)))
    (stage,) = stages(plan)
    reductions = [problem for launch in stage.launches for problem in launch.problems if problem.family == "reduction"]
    assert reductions == [] and len(plan.programs[0].schedule) > 1


def test_a_launch_with_a_last_block_is_in_no_stage() -> None:
    b = chain(4)
    y = b.graph.inputs(b.graph.graph_outputs[0])[0]
    b.output(b.add("ReduceMax", b.add("Sqrt", b.add("Abs", y)), axes=(2, 3), keepdims=False))
    plan = plan_of(b, policy=Always(), switches=Switches(disable=("global-pool-epilogue",)))
    ends = [entry for entry in plan.programs[0].schedule if not isinstance(entry, Stage)]
    assert any(step.alone for launch in ends for step in launch.steps)
    assert not any(step.alone for stage in stages(plan) for launch in stage.launches for step in launch.steps)


@pytest.mark.parametrize("outermost", [True, False])
def test_tensors_are_kept_where_the_batch_is_outermost(outermost: bool) -> None:
    """Results that lie like a transposed tensor have their images inside."""
    b = Builder()
    x = b.add("Neg", b.input(integers(RANDOM, (4, 6, 5) if outermost else (6, 4, 5))))
    y = x if outermost else b.add("Transpose", x, perm=(1, 0, 2))
    for _ in range(3):
        y = b.add("Softmax", y, axis=2)
    b.output(y)
    assert bool(stages(plan_of(b))) == outermost


def test_a_problem_without_the_batch_is_not_divided() -> None:
    b = Builder()
    b.output(b.add("Abs", b.input(integers(RANDOM, (4, 5)))))
    plan = plan_of(b)
    (problem,) = plan.programs[0].problems
    assert divided(problem, plan.layouts, 2) is not None
    assert divided(problem, plan.layouts, 3) is None
    transposed = replace(problem, output=replace(problem.output, strides=(0,) * len(problem.dims)))
    assert divided(transposed, plan.layouts, 2) is None


# -- networks ---------------------------------------------------------------------------------------------------------
def test_resnet50_at_batch_256_is_predicted_to_gain() -> None:
    graph = zoo.build("resnet50", batch=256, weights="none").graph
    rest = ("back-to-back",)  # which keeps the largest of these tensors out of memory altogether
    with_it, without = (
        make_plan(graph, Options(batch=256, switches=Switches(disable=(*rest, *off)))) for off in ((), (RULE,))
    )
    assert stages(with_it) and with_it.programs[0].predicted_us < 0.99 * without.programs[0].predicted_us
    assert all(stage.parts <= slices.MOST_PARTS for stage in stages(with_it))


def test_at_batch_1_there_is_nothing_to_slice() -> None:
    plan = make_plan(zoo.build("resnet18", weights="none").graph, Options())
    assert stages(plan) == [] and all(decline.rule != RULE for decline in plan.programs[0].declines)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_a_batch_that_softmax_runs_along_is_not_divided(op: str) -> None:
    b = Builder()
    x = b.add("Neg", b.input(np.zeros((64, 48), np.float32)))
    b.output(b.add(op, x, axis=0))
    plan = planned(b.graph, "sm_90")
    parts = {problem.family: divided(problem, plan.layouts, 4) for problem in plan.programs[0].problems}
    assert parts["pointwise"] is not None and parts["softmax"] is None
