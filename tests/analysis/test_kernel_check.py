"""Kernels one by one against float64: correct ones stay within their bounds, a sabotaged one is found, and only it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compiled import Arrays, Builder, conv, inputs_of
from small_networks import KERNELS, NETWORKS, kernel_case, weights

from convc import errors
from convc.analysis.kernel_check import KernelCheck, check_kernels
from convc.analysis.placements import strided
from convc.codegen.emit import EmittedKernel, emit
from convc.compiler import compile_plan
from convc.ir import DType, Graph
from convc.ir.plan import Placement
from convc.passes import Switches, launches
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.interpreter import InterpreterExecutor
from convc.runtime.network import CompiledNetwork

pytestmark = pytest.mark.usefixtures("interpreters")


def plan_of(graph: Graph, dtype: str = "fp32", opt: str = "fuse", disable: str = "") -> Plan:
    return make_plan(graph, Options(("interpreter",), dtype, 1, Switches.parse(opt, disable)))


APART = "last-block,sibling-convolutions"
"""Rules that bring several kernels into one launch."""


def checked(plan: Plan, inputs: Arrays, device: str = "interpreter") -> list[KernelCheck]:
    return list(check_kernels(plan, CompiledNetwork(compile_plan(plan)), device, inputs))


def departing(checks: list[KernelCheck]) -> list[int]:
    return [check.launch for check in checks if not check.ok]


@pytest.mark.parametrize(
    ("dtype", "opt", "device"),
    [
        ("fp32", "fuse", "interpreter"),
        ("fp16", "fuse", "interpreter"),
        ("bf16", "none", "numpy"),
        ("fp16", "none", "numpy"),
    ],
)
@pytest.mark.parametrize("name", ["residual_block", "inception", "separable_block"])
def test_networks_stay_within_their_bounds(name: str, dtype: str, opt: str, device: str) -> None:
    graph = NETWORKS[name]()
    plan = plan_of(graph, dtype, opt)
    checks = checked(plan, inputs_of(graph), device)
    assert departing(checks) == []
    assert [check.kernel for check in checks] == [
        launch.kernel.name for launch in plan.programs[0].launches for region in launch.regions for _ in region.outputs
    ]
    assert all(0 < check.bound < np.inf and np.isfinite(check.accumulated_abs) for check in checks)
    assert checks[-1].accumulated_l2 > 0


def test_some_launches_alone() -> None:
    """They are found to be the same as among all; the whole network is not evaluated for them."""
    graph = NETWORKS["inception"]()
    plan = plan_of(graph, "fp16", disable=APART)
    inputs, network = inputs_of(graph), CompiledNetwork(compile_plan(plan))
    every = [check for check in check_kernels(plan, network, "interpreter", inputs) if check.launch in (1, 3)]
    some = list(check_kernels(plan, network, "interpreter", inputs, (1, 3)))
    assert [(c.launch, c.max_abs, c.bound, c.ok) for c in some] == [(c.launch, c.max_abs, c.bound, c.ok) for c in every]
    assert some and all(np.isnan(check.accumulated_l2) for check in some)


@pytest.mark.parametrize("copies", [1, 2])
def test_copies_in_the_launch_that_makes_what_they_copy(copies: int) -> None:
    b = Builder()
    y = b.add("Relu", b.input(weights(1, 4, 5, 5)))
    z = b.add("Concat", *[y] * (1 + copies), axis=1)
    b.output(b.add("MaxPool", z, kernel_shape=(2, 2), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1)))
    plan = make_plan(b.graph, Options(("interpreter",), policy="always"))
    first = plan.programs[0].launches[0]
    assert sum(region.output == z for region in first.regions) == copies and len(first.regions) > copies
    checks = checked(plan, b.inputs)
    assert departing(checks) == []
    assert sum(check.launch == 0 and check.origins == plan.graph.producer(z).origins for check in checks) == copies


@pytest.mark.parametrize("only", [None, (2,)])
def test_launches_between_the_two_of_a_scatter(only: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first has copied is overwritten when the second runs, and nothing needs it any more."""
    monkeypatch.setattr(launches, "LONGEST_CHAIN", 1)
    b = Builder()
    x = b.add("Neg", b.input(weights(8, 6)))
    other = b.add("Softmax", b.input(weights(2, 4, 6)), axis=2)
    b.output(b.add("ReduceSum", other, axes=(1,), keepdims=False))
    y = b.output(b.add("ScatterND", x, b.constant(np.array([[0], [5]])), b.input(weights(2, 6))))
    plan = make_plan(b.graph, Options(("interpreter",), policy="always"))
    (program,) = plan.programs
    storing = [y in [region.output for region in launch.regions] for launch in program.launches]
    assert storing == [True, False, True]
    assert len({program.arena.offsets[plan.layouts.placements[value].block] for value in (x, other)}) == 1
    checks = check_kernels(plan, CompiledNetwork(compile_plan(plan)), "interpreter", b.inputs, only)
    assert departing(list(checks)) == []


def test_a_constant_in_a_concatenation_and_one_that_the_host_makes() -> None:
    b = Builder()
    x = b.add("Relu", b.input(weights(1, 4, 5, 5)))
    b.output(b.add("Neg", b.add("Concat", x, b.constant(weights(1, 2, 5, 5)), axis=1)))
    b.output(b.add("TopK", b.add("Concat", x, x, axis=2), k=3, axis=2))
    plan = plan_of(b.graph)
    assert plan.programs[0].host_steps
    assert departing(checked(plan, b.inputs)) == []


@pytest.mark.parametrize("case", KERNELS)
def test_every_kind_of_kernel_stays_within_its_bound(case: str) -> None:
    b = kernel_case(case)
    checks = checked(plan_of(b.graph, "fp16"), inputs_of(b.graph))
    assert departing(checks) == []


def test_bounds_are_near_the_rounding_of_the_store() -> None:
    """In fp16 a bound allows a few units in the last place of the largest result, not some part of it."""
    graph = NETWORKS["residual_block"]()
    for check in checked(plan_of(graph, "fp16"), inputs_of(graph)):
        largest = check.max_abs / check.rel_l2  # at least as large as the root of the sum of squares over √size
        assert check.bound < 16 * DType.FP16.epsilon * largest


def quantised_convolution() -> Graph:
    """Conv, rounded to whole numbers, kept within a byte: once as int8, and once as a real number again.

    Of whole inputs some sums lie halfway between two numbers.
    """
    b = Builder("quantised")
    wide = conv(b, b.input(np.zeros((1, 8, 6, 6), np.float32)), weights(8, 8, 3, 3) * 2.5)
    whole = b.add("Clip", b.add("Add", b.add("Round", wide), b.constant(3.0)), min=-128.0, max=127.0)
    narrow = b.output(b.add("Cast", whole, dtype=DType.INT8))
    b.output(b.add("Mul", b.add("Cast", narrow, dtype=DType.FP32), b.constant(0.25)))
    return b.graph


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_quantised_result_may_be_one_step_off_and_no_more(dtype: str) -> None:
    graph = quantised_convolution()
    inputs = {name: np.rint(3 * array) for name, array in inputs_of(graph).items()}
    checks = checked(plan_of(graph, dtype, disable=APART), inputs)
    assert departing(checks) == []
    assert checks[0].bound == 1.0


SABOTAGE: dict[str, tuple[str, str]] = {
    # what: (pattern in the emitted text, what it becomes)
    "a bias is dropped": (r"acc \+ bias_tile", "acc"),
    "a mask lets padding through": (r"other=0\.0", "other=1.0"),
    "a tap is skipped": (r"for _ in range\(steps\)", "for _ in range(steps - 1)"),
    "the activation is forgotten": (r"tl\.maximum\((v\d+), 0\.0[^\n]*", r"\1"),
    "the store goes one element astray": (r"tl\.store\(y \+ ", "tl.store(y + 1 + "),
}


def sabotaged(monkeypatch: pytest.MonkeyPatch, pattern: str, new: str, victim: int) -> Callable[[Graph], Plan]:
    """Plans whose emitted kernel number ``victim``, of those that the pattern is found in, is changed."""
    seen: list[str] = []

    def emit_wrong(*arguments: Any) -> EmittedKernel:
        kernel = emit(*arguments)
        changed = re.sub(pattern, new, kernel.source)
        if changed != kernel.source:
            seen.append(kernel.name)
            if len(seen) == victim + 1:
                return _renamed(kernel, changed)
        return kernel

    monkeypatch.setattr("convc.planner.emit", emit_wrong)
    return lambda graph: plan_of(graph, disable=APART)


def _renamed(kernel: EmittedKernel, source: str) -> EmittedKernel:
    """Another name, because kernels of one name share their text."""
    name = f"{kernel.name}_wrong"
    return replace(kernel, name=name, source=source.replace(kernel.name, name))


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("what", SABOTAGE)
def test_a_sabotaged_kernel_is_found_and_no_other(what: str, victim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = NETWORKS["residual_block"]()
    plan = sabotaged(monkeypatch, *SABOTAGE[what], victim)(graph)
    wrong = [i for i, launch in enumerate(plan.programs[0].launches) if launch.kernel.name.endswith("_wrong")]
    assert len(wrong) == 1
    checks = checked(plan, inputs_of(graph))
    assert departing(checks) == wrong
    assert checks[wrong[0]].max_abs > checks[wrong[0]].bound and not checks[wrong[0]].overwrites


def _overlaps(plan: Plan) -> Iterator[tuple[int, int, int]]:
    """(launch, block it writes, another block of the arena that a later launch reads)."""
    layouts, launches = plan.layouts, plan.programs[0].launches

    def block(value: Any) -> int:
        return layouts.placements[value].block

    for number, launch in enumerate(launches):
        mine = block(launch.regions[0].output)
        earlier = {block(other.regions[0].output) for other in launches[:number]}
        later = {
            block(operand.source)
            for other in launches[number + 1 :]
            for operand in other.problems[0].reads
            if operand.source in layouts.placements
        }
        reads = {block(o.source) for o in launch.problems[0].reads if o.source in layouts.placements}
        for other in sorted((earlier & later) - reads - {mine}):
            if mine in plan.programs[0].arena.offsets and other in plan.programs[0].arena.offsets:
                yield number, mine, other


def test_overlapping_memory_is_found_where_it_is_destroyed() -> None:
    graph = NETWORKS["residual_block"]()
    plan = plan_of(graph, disable=APART)
    launch, mine, other = next(_overlaps(plan))
    offsets = plan.programs[0].arena.offsets
    offsets[mine] = offsets[other]
    (check,) = [check for check in checked(plan, inputs_of(graph)) if not check.ok]
    assert check.launch == launch and len(check.overwrites) == 1
    assert check.max_abs <= check.bound  # its own result is right


def test_a_shifted_argument_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import convc.compiler as compiler

    graph = NETWORKS["residual_block"]()
    plan = plan_of(graph, disable=APART)
    wrong = 1
    located = compiler._located

    def shifted(plan: Plan, program: Any, operand: Any, weights: Any) -> Any:
        found = located(plan, program, operand, weights)
        is_output = operand is program.launches[wrong].problems[0].output
        return type(found)(found.buffer, found.offset + 64) if is_output else found

    monkeypatch.setattr(compiler, "_located", shifted)
    assert departing(checked(plan, inputs_of(graph)))[0] == wrong


def test_nan_and_infinity_agree_where_they_should() -> None:
    graph = NETWORKS["inception"]()
    inputs = inputs_of(graph)
    (x,) = inputs.values()
    x.reshape(-1)[7] = np.nan
    assert departing(checked(plan_of(graph, "fp16"), inputs)) == []


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_what_loses_a_special_value_is_found(special: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN and infinity have no bound, but where they must be, nothing else may stand."""
    kept = {np.nan: r", propagate_nan=tl\.PropagateNan\.ALL", np.inf: r"(?<=, )(v\d+)(?=\.to\(tl\.float32\)\))"}
    lost = {np.nan: "", np.inf: r"tl.minimum(\1, 1e30)"}
    graph = NETWORKS["residual_block"]()
    inputs = inputs_of(graph)
    (x,) = inputs.values()
    x.reshape(-1)[7] = special
    assert departing(checked(plan_of(graph, disable=APART), inputs)) == []
    plan = sabotaged(monkeypatch, kept[special], lost[special], 0)(graph)
    wrong = [i for i, launch in enumerate(plan.programs[0].launches) if launch.kernel.name.endswith("_wrong")]
    assert departing(checked(plan, inputs)) == wrong != []


@pytest.mark.parametrize("device", ["numpy", "interpreter"])
def test_the_logarithm_of_a_sum_near_one(device: str) -> None:
    """Its value is next to nothing, its error that of the sum."""
    shares = np.random.default_rng(0).random((64, 32), np.float32)
    b = Builder()
    x = b.input(shares / shares.sum(axis=1, keepdims=True))
    b.output(b.add("ReduceLogSum", x, axes=(1,), keepdims=True))
    (check,) = checked(plan_of(b.graph), b.inputs, device)
    assert check.ok and 0 < check.max_abs <= check.bound < 1e-5


@pytest.mark.parametrize("device", ["interpreter", "numpy"])
def test_a_slice_of_an_output_is_stored_in_its_precision(device: str) -> None:
    """The operands of a concatenation that is a graph output lie in fp32, in a network stored in fp16."""
    b = Builder("halves")
    x = b.input(np.linspace(0, 1, 24, dtype=np.float32).reshape(1, 6, 2, 2))
    b.output(b.add("Concat", b.add("Sub", x, b.constant(0.1)), b.add("Tanh", x), axis=1))
    checks = checked(plan_of(b.graph, "fp16"), b.inputs, device)
    assert departing(checks) == [] and all(check.bound < DType.FP16.epsilon / 100 for check in checks)


def test_devices_that_cannot_be_looked_into_are_refused() -> None:
    class Opaque:
        def prepare(self, *_: object) -> None: ...
        def close(self) -> None: ...

    graph = NETWORKS["lenet5"]()
    plan = plan_of(graph, disable=APART)
    with pytest.raises(errors.DeviceError, match="one by one"):
        next(check_kernels(plan, CompiledNetwork(compile_plan(plan)), Opaque(), inputs_of(graph)))  # type: ignore[arg-type]


def test_launches_run_in_ranges_give_the_same_result() -> None:
    graph = NETWORKS["lenet5"]()
    network = CompiledNetwork(compile_plan(plan_of(graph)))
    inputs = inputs_of(graph)
    with network.engine("interpreter") as engine:
        expected = engine.run(inputs)["output"]
    with network.engine("interpreter") as engine:
        executor = engine.executor
        assert isinstance(executor, InterpreterExecutor)
        executor.load(list(inputs.values()))
        count = len(network.plan.launches)
        assert [len(executor.advance(*span)) for span in ((0, 2), (2, 2), (2, 3), (3, -1))] == [2, 0, 1, count - 3]
        found = executor.buffer("output:0").view(np.float32)
        np.testing.assert_array_equal(found[: expected.size], expected.reshape(-1))


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((3, 4), (4, 1), 0), ((4, 3), (1, 4), 2), ((3, 2), (-4, 1), 10), ((2, 3), (0, -2), 9), ((0, 3), (3, 1), 0)],
)
def test_tensors_are_read_through_their_strides(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> None:
    memory = np.arange(20, dtype=np.float32)
    base = 2 * memory.itemsize
    found = strided(memory.view(np.uint8), Placement(0, DType.FP32, shape, strides, offset), base)
    for index in np.ndindex(*shape):
        assert found[index] == 2 + offset + sum(i * s for i, s in zip(index, strides, strict=True))
    assert found.shape == shape
