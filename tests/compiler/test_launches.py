"""Several kernels in one launch: siblings side by side, and what the last block does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled import Builder, Taking, conv, evaluate, integers, run, same
from small_networks import NETWORKS

import convc
from convc.analysis.explain import explain
from convc.analysis.kernel_check import check_kernels
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.frontends import zoo
from convc.ir import Value
from convc.passes import Switches, launches
from convc.passes.launches import LAST_BLOCK, SIBLINGS
from convc.passes.policies import Always
from convc.passes.tiling import Tiles
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.network import CompiledNetwork

RANDOM = np.random.default_rng(5)
MODES = ("fp32", "fp16", "bf16")


ALL = Always()
PLAIN = Switches(disable=("back-to-back", "global-pool-epilogue"))


def plan_of(b: Builder, *targets: str, **options: Any) -> Plan:
    return make_plan(b.graph, Options(targets or ("sm_90",), **options))


def rules(plan: Plan) -> list[tuple[str, ...]]:
    return [launch.rules for launch in plan.programs[0].launches]


def reasons(plan: Plan, rule: str) -> list[str]:
    return [decline.reason for decline in plan.programs[0].declines if decline.rule == rule]


def numbers(b: Builder, dtype: str, policy: Any = ALL) -> None:
    """The kernels give the exact result, twice: counters are left as they were found."""
    plan = make_plan(b.graph, Options(("interpreter",), dtype, policy=policy))
    assert any(len(launch.steps) > 1 for launch in plan.programs[0].launches)
    with CompiledNetwork(compile_plan(plan)).engine("interpreter") as engine:
        for _ in range(2):
            same(engine.run(b.inputs), evaluate(b.graph, b.inputs))


def pointwise(b: Builder, x: Value, filters: int, *bias: np.ndarray, **attributes: Any) -> Value:
    channels = int(b.graph.type(x).shape[1])
    return conv(b, x, integers(RANDOM, (filters, channels, 1, 1), 1), *bias, **attributes)


def heads() -> Builder:
    """Five convolutions on one tensor: other widths, windows, strides, epilogues, one with a residual sum."""
    b = Builder("heads")
    x, r = b.input(integers(RANDOM, (2, 20, 9, 7))), b.input(integers(RANDOM, (2, 24, 9, 7)))
    b.output(b.add("Relu", pointwise(b, x, 8, integers(RANDOM, (8,)))))
    b.output(b.add("Relu", b.add("Add", pointwise(b, x, 24), r)))
    b.output(b.add("Abs", conv(b, x, integers(RANDOM, (40, 20, 3, 3), 1), pads=(1,) * 4)))
    b.output(pointwise(b, x, 33, strides=(2, 2)))
    b.output(conv(b, x, integers(RANDOM, (12, 10, 3, 3), 1), pads=(1,) * 4, groups=2, dilations=(1, 1)))
    return b


def classifier(batch: int = 1) -> Builder:
    """A convolution, the maximum of each channel, two products and an elementwise end."""
    b = Builder("classifier")
    y = pointwise(b, b.input(integers(RANDOM, (batch, 16, 5, 6))), 32)
    y = b.add("ReduceMax", b.add("Relu", y), axes=(2, 3), keepdims=True)
    y = b.add("Relu", pointwise(b, y, 8, integers(RANDOM, (8,))))
    b.output(b.add("Clip", pointwise(b, y, 32), min=0.0, max=6.0))
    return b


def apart(b: Builder, steps: int) -> Builder:
    """A long branch beside a short one, so that the launch in the middle waits for more than one other."""
    x = b.input(integers(RANDOM, (1, 16, 6, 6)))
    y = pointwise(b, x, 16)
    for _ in range(steps):
        y = b.add("Relu", conv(b, y, integers(RANDOM, (16, 16, 3, 3), 1), pads=(1,) * 4))
        y = b.add("Clip", y, min=-2.0, max=2.0)
    b.output(b.add("Add", y, pointwise(b, x, 16)))
    return b


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", MODES)
@pytest.mark.parametrize("build", [heads, classifier, lambda: classifier(3), lambda: apart(Builder(), 3)])
def test_exact_on_whole_numbers(build: Callable[[], Builder], dtype: str) -> None:
    numbers(build(), dtype)


def test_siblings_share_one_launch_and_read_their_tensor_once() -> None:
    b = heads()
    plan = plan_of(b, dtype="fp16", switches=Switches(only=(SIBLINGS, "conv-epilogue", "fold-shift")))
    (launch,) = plan.programs[0].launches
    assert len(launch.steps) == 5 and launch.rules == (SIBLINGS,)
    written = 2 * (8 * 63 + 24 * 63 + 40 * 63 + 33 * 20 + 12 * 63)
    assert launch.traffic.activations == 4 * (2 * 20 * 63 + 2 * 24 * 63 + written)  # inputs and outputs are fp32


def test_the_last_block_does_a_chain() -> None:
    plan = plan_of(classifier(), dtype="fp16", policy=ALL, switches=PLAIN)
    (launch,) = plan.programs[0].launches
    assert [step.alone for step in launch.steps] == [False, True, True, True] and launch.rules == (LAST_BLOCK,)
    edges = [edge for edge in explain(plan) if edge.fused and edge.rule == LAST_BLOCK]
    assert len(edges) == 3 and all("last block" in (edge.reason or "") for edge in edges)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("name", ["inception", "residual_block", "separable_block"])
def test_every_region_of_a_launch_is_compared(name: str) -> None:
    graph = NETWORKS[name]()
    plan = make_plan(graph, Options(("interpreter",), "fp16", policy=ALL))
    from compiled import inputs_of

    checks = list(check_kernels(plan, CompiledNetwork(compile_plan(plan)), "interpreter", inputs_of(graph)))
    assert len(checks) == sum(len(region.outputs) for launch in plan.programs[0].launches for region in launch.regions)
    assert all(check.ok and check.bound > 0 for check in checks)


# -- reasons ----------------------------------------------------------------------------------------------------------
def test_siblings_that_depend_on_each_other_stay_apart() -> None:
    b = Builder()
    x = b.input(integers(RANDOM, (1, 16, 6, 6)))
    y = pointwise(b, x, 16)
    b.output(b.add("Add", pointwise(b, x, 16), pointwise(b, b.add("Relu", y), 16)))
    b.output(b.add("Add", pointwise(b, x, 16), y))
    plan = plan_of(b, switches=Switches(disable=(LAST_BLOCK,)), policy=ALL)
    assert "it also reads, through other kernels, what a sibling computes" in reasons(plan, SIBLINGS)


def test_siblings_without_a_common_number_of_warps_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tiles, "with_warps", lambda *_: None)
    plan = plan_of(heads(), switches=Switches(disable=(LAST_BLOCK,)), policy=ALL)
    assert set(rules(plan)) == {()} and set(reasons(plan, SIBLINGS)) == {"no number of warps suits all of them"}


def test_siblings_that_take_longer_together_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "side_by_side", lambda parts, _: 10e-6 * len(parts) ** 2)
    b = Builder()
    x = b.input(integers(RANDOM, (1, 16, 6, 6)))
    b.output(pointwise(b, x, 8))
    b.output(pointwise(b, x, 24))
    (reason,) = reasons(plan_of(b), SIBLINGS)
    assert reason == "one number of warps for all of them is predicted to take 20.0 us longer than it saves"


@pytest.mark.parametrize("size", [4, 112])
def test_a_kernel_that_waits_for_a_launch_behind_this_one_is_not_done_by_its_last_block(size: int) -> None:
    """The last product reads both maxima: where the kernel between them is small, the last block does everything."""
    b = Builder()
    x = b.input(integers(RANDOM, (1, 64, size, size)))
    first = b.add("ReduceMax", pointwise(b, x, 64), axes=(2, 3), keepdims=True)
    second = b.add("ReduceMax", b.add("Mul", x, first), axes=(2, 3), keepdims=True)
    b.output(b.add("MatMul", b.add("Reshape", first, shape=(64, 1)), b.add("Reshape", second, shape=(1, 64))))
    plan = plan_of(b, dtype="fp16", policy=ALL, switches=Switches(only=(LAST_BLOCK,)))
    alone = [[step.alone for step in launch.steps] for launch in plan.programs[0].launches]
    assert alone == ([[False, True], [False, True, True]] if size > 4 else [[False, True, True, True, True]])


def test_a_policy_can_keep_everything_apart() -> None:
    for build, rule in ((heads, SIBLINGS), (classifier, LAST_BLOCK)):
        plan = plan_of(build(), policy=Taking())
        assert set(rules(plan)) == {()} and set(reasons(plan, rule)) == {"not this one"}


def test_rules_that_are_off_do_nothing_and_say_nothing() -> None:
    for build, rule in ((heads, SIBLINGS), (classifier, LAST_BLOCK)):
        plan = plan_of(build(), switches=Switches(disable=(rule,)))
        assert all(rule not in found for found in rules(plan)) and reasons(plan, rule) == []


def test_one_block_does_not_do_a_large_kernel() -> None:
    b = Builder()
    y = pointwise(b, b.input(integers(RANDOM, (8, 64, 28, 28))), 64)
    b.output(conv(b, y, integers(RANDOM, (128, 64, 3, 3), 1), pads=(1,) * 4))
    plan = plan_of(b, dtype="fp16")
    assert rules(plan) == [(), ()]


def test_a_kernel_that_takes_longer_alone_is_declined_with_its_microseconds() -> None:
    b = Builder()
    y = pointwise(b, b.input(integers(RANDOM, (1, 64, 14, 14))), 64)
    b.output(b.add("ReduceMax", y, axes=(1,), keepdims=True))
    plan = plan_of(b, dtype="fp16")
    (reason,) = reasons(plan, LAST_BLOCK)
    assert "one block does alone" in reason and "us longer" in reason
    (edge,) = [edge for edge in explain(plan) if edge.target.startswith("reducemax")]
    assert (edge.rule, edge.reason) == (LAST_BLOCK, reason)


# -- networks ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "siblings"), [("resnet18", 3), ("resnet50", 4), ("squeezenet1_1", 8), ("googlenet", 9)]
)
def test_siblings_of_the_zoo(name: str, siblings: int) -> None:
    """Projections beside the first convolution of their block, fire modules, inception modules."""
    network = zoo.build(name, weights="none")
    found = [launch for launch in make_plan(network.graph, Options()).programs[0].launches if SIBLINGS in launch.rules]
    assert len(found) == siblings
    for launch in found:
        sources = {step.work.problem.x.source for step in launch.steps if not step.alone}  # type: ignore[attr-defined]
        assert len(sources) == 1 and len({step.tile.num_warps for step in launch.steps}) == 1


# -- text and machine code --------------------------------------------------------------------------------------------
def mixed() -> Builder:
    """Two siblings, one of them a product split along its reduction, and a chain behind them."""
    b = Builder("mixed")
    x = b.input(integers(RANDOM, (1, 128, 7, 7)))
    narrow = b.add("Relu", pointwise(b, x, 16))
    wide = conv(b, x, integers(RANDOM, (32, 128, 3, 3), 1), pads=(1,) * 4)
    y = b.add("ReduceMax", b.add("Concat", narrow, wide, axis=1), axes=(2, 3), keepdims=True)
    b.output(b.add("Relu", pointwise(b, y, 10)))
    return b


def test_source(golden: Callable[[str, str], None]) -> None:
    (launch,) = plan_of(mixed(), dtype="fp16", policy=ALL).programs[0].launches
    source = launch.kernel.source
    golden("kernels/group.py", source)
    assert source.count("@triton.jit") == 5 and "if pid <" in source and "arrived" in source
    assert launch.kernel.counter_bytes > 0


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_what_the_text_computes(dtype: str) -> None:
    numbers(mixed(), dtype)


def test_compiled_for_gpus(cache: KernelCache) -> None:
    plan = plan_of(mixed(), "sm_80", "sm_90", dtype="fp16", policy=ALL)
    for program in compile_plan(plan, cache).manifest.programs:
        assert len(program.launches) == 1
        for kernel in program.kernels:
            assert kernel.binary is not None and kernel.binary.spill_bytes == 0
            assert kernel.binary.tensor_core_instructions > 0


def test_switched_off_in_the_public_interface() -> None:
    b = classifier()
    found = run(b.graph, b.inputs, disable=f"{LAST_BLOCK},{SIBLINGS}")
    same(found, evaluate(b.graph, b.inputs))
    network = convc.compile(b.graph, target="interpreter", disable=LAST_BLOCK)
    assert all(LAST_BLOCK not in launch.rules for launch in network.plan.launches)
