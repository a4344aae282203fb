"""Contractions whose operands come through descriptors: which do, what they compute, and what their code is like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from compiled import APART, Builder, Retile, contractions, conv, evaluate, retiled, run_planned, same
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreted_gpu import InterpretedGpu

from convc.analysis.lint import examine_artifact
from convc.analysis.lint_checks import findings
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.ir import Value
from convc.ir.matrices import NotMatrices, has_matrices, matrices
from convc.ir.plan import Tile
from convc.ir.problem import Contraction, Problem
from convc.passes import Switches
from convc.passes.policies import Always
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine
from convc.targets import GPUS

RANDOM = np.random.default_rng(7)
SIGNS = [-1, 0, 0, 1]


def signs(*shape: int) -> np.ndarray:
    """Sums of 100 products of these are whole numbers that bf16 holds."""
    return RANDOM.choice(SIGNS, shape).astype(np.float32)


def stored(b: Builder, *shape: int) -> Value:
    """A tensor that a kernel stored, channels last, and that is read by others too."""
    x = b.add("Neg", b.input(signs(*shape)))
    b.output(b.add("Abs", x))
    return x


def plan_of(b: Builder, dtype: str = "fp16", target: str = "interpreter", **switches: Any) -> Plan:
    off = (*APART.disable, "conv-prologue", "conv-pool", "back-to-back")
    options = Options((target,), dtype, switches=Switches(disable=off, **switches), policy=Always())
    return make_plan(b.graph, options)


def blocks(rows: int, cols: int, depth: int, split: int = 1, warps: int = 4, stages: int = 3) -> Retile:
    """Tiles of this size for everything that can come through descriptors."""

    def change(problem: Problem, tile: Tile) -> Tile:
        if not isinstance(problem, Contraction) or not has_matrices(problem):
            return tile
        steps = -(-problem.depth // depth)
        splits = split if steps % split == 0 else 1
        return Tile(rows, cols, depth, warps, stages, splits, access="descriptors")

    return change


def by_descriptors(plan: Plan) -> int:
    return sum(tile.access == "descriptors" for _, tile in contractions(plan))


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@given(
    image=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    channels=st.integers(1, 12),
    filters=st.integers(1, 70),
    blocks_of=st.tuples(st.sampled_from([16, 32]), st.sampled_from([16, 64]), st.sampled_from([16, 32])),
    split=st.integers(1, 3),
    residual=st.booleans(),
    dtype=st.sampled_from(["fp16", "bf16"]),
)
@example((2, 7, 7), 12, 33, (16, 16, 16), 3, True, "bf16")
@example((1, 1, 1), 8, 70, (16, 16, 32), 2, False, "fp16")
@settings(settings.get_profile("shared-process"), max_examples=12)
def test_convolutions_are_exact(
    image: tuple[int, int, int],
    channels: int,
    filters: int,
    blocks_of: tuple[int, int, int],
    split: int,
    residual: bool,
    dtype: str,
) -> None:
    """Tiles that stick out along rows, columns and depth; split reductions; what follows the sums."""
    b, (n, h, w) = Builder(), image
    y = conv(b, stored(b, n, 8 * channels, h, w), signs(filters, 8 * channels, 1, 1), signs(filters))
    if residual:
        y = b.add("Add", y, stored(b, n, filters, h, w))
    b.output(b.add("Abs", b.add("Relu", y)))
    plan = plan_of(b, dtype)
    assert by_descriptors(plan) == 1
    small = retiled(plan, blocks(*blocks_of, split))
    same(run_planned(small, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@given(
    rows=st.integers(1, 40),
    depth=st.integers(1, 12),
    cols=st.integers(1, 40),
    transposed=st.booleans(),
    computed=st.booleans(),
    dtype=st.sampled_from(["fp16", "bf16"]),
)
@example(17, 5, 24, True, True, "fp16")
@example(17, 5, 24, False, True, "bf16")
@settings(settings.get_profile("shared-process"), max_examples=10)
def test_matrix_products_are_exact(
    rows: int, depth: int, cols: int, transposed: bool, computed: bool, dtype: str
) -> None:
    """The second matrix constant or computed, contiguous along either dimension."""
    b, k = Builder(), 8 * depth
    cols = 8 * cols if computed and not transposed else cols
    shape = (cols, k) if transposed else (k, cols)
    w = stored(b, *shape) if computed else b.constant(signs(*shape))
    bias = b.constant(signs(cols))
    b.output(b.add("Abs", b.add("Gemm", stored(b, rows, k), w, bias, trans_b=transposed)))
    plan = plan_of(b, dtype)
    assert by_descriptors(plan) == 1
    same(run_planned(retiled(plan, blocks(16, 16, 16)), b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("before", [8, 12])
def test_slices_of_a_concatenation_are_matrices_where_they_are_aligned(before: int) -> None:
    """Read from the second slice of one, and written into the second slice of another."""
    b = Builder()
    parts = [b.add("Neg", b.input(signs(2, channels, 5, 5))) for channels in (before, 32 - before)]
    b.output(b.add("Abs", b.add("Concat", *parts, axis=1)))
    y = b.add("Relu", conv(b, parts[1], signs(24, 32 - before, 1, 1)))
    b.output(b.add("Abs", b.add("Concat", stored(b, 2, 9, 5, 5), y, axis=1)))
    plan = plan_of(b)
    ((problem, _),) = contractions(plan)
    assert problem.x.offset == before and problem.output.offset == 9
    assert by_descriptors(plan) == (before % 8 == 0)
    same(run_planned(retiled(plan, blocks(16, 16, 16)), b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("mode", ["mean", "max"])
def test_pooling_over_whole_images(mode: str) -> None:
    """Images are groups, and a tile reaches into the next one; a mean takes no part of it, a maximum would."""
    b = Builder()
    y = b.add("Relu", conv(b, stored(b, 3, 16, 5, 5), signs(24, 16, 1, 1)))
    op = {"mean": "ReduceMean", "max": "ReduceMax"}[mode]
    b.output(b.add(op, b.add("Mul", y, b.constant(25.0)), axes=(2, 3), keepdims=False))
    plan = plan_of(b)
    ((problem, _),) = contractions(plan)
    assert problem.pool is not None
    assert by_descriptors(plan) == (mode == "mean")
    same(run_planned(retiled(plan, blocks(16, 16, 16)), b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_neighbours_that_are_not_finite_stay_out() -> None:
    """The image behind a tile, and rows of weights behind the last, meet zeros or sums that nobody stores."""
    b = Builder()
    x = signs(1, 24, 3, 3)
    x[0, 3, 2, 2] = np.inf
    y = conv(b, b.add("Neg", b.input(x)), np.abs(signs(20, 24, 1, 1)) + 1)
    b.output(b.add("Abs", y))
    plan = retiled(plan_of(b), blocks(16, 16, 32))
    (found,) = run_planned(plan, b.inputs).values()
    assert np.isinf(found[0, :, 2, 2]).all() and np.isfinite(found[0, :, :2]).all()


def siblings() -> Builder:
    """Two convolutions of one tensor, and a small product of the mean of one of them, for the last block."""
    b = Builder()
    x = stored(b, 2, 64, 6, 6)
    first, second = (b.add("Relu", conv(b, x, signs(k, 64, 1, 1))) for k in (40, 72))
    b.output(b.add("Abs", first))
    b.output(b.add("Abs", conv(b, second, signs(16, 72, 1, 1))))
    return b


def together(b: Builder, target: str) -> Plan:
    switches = Switches(disable=("conv-prologue", "back-to-back", "l2-slices"))
    return make_plan(b.graph, Options((target,), "fp16", switches=switches, policy=Always()))


@pytest.mark.usefixtures("interpreters")
def test_steps_of_one_launch() -> None:
    """Siblings share the descriptor of what both read; what the last block runs reads by pointers."""
    b = siblings()
    plan = retiled(together(b, "interpreter"), blocks(16, 16, 32))
    launch = next(launch for launch in plan.programs[0].launches if len(launch.steps) > 2)
    access = [(step.alone, step.tile.access) for step in launch.steps if isinstance(step.work.problem, Contraction)]
    assert access == [(False, "descriptors"), (False, "descriptors"), (True, "pointers")]
    types = [type for _, type, _ in launch.kernel.parameters]
    assert len([type for type in types if type.startswith("tensordesc")]) == 3
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


# -- which ------------------------------------------------------------------------------------------------------------
def declined(build: Callable[[Builder], Value], dtype: str = "fp16", **switches: Any) -> str:
    """Why the one contraction of a network does not come through descriptors."""
    b = Builder()
    b.output(b.add("Abs", build(b)))
    ((problem, tile),) = contractions(plan_of(b, dtype, **switches))
    with pytest.raises(NotMatrices) as reason:
        matrices(problem)
    assert tile.access == "pointers"
    return str(reason.value)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda b: conv(b, stored(b, 1, 12, 4, 4), signs(8, 12, 1, 1)), "rows of x are not multiples of 16 bytes"),
        (lambda b: conv(b, stored(b, 1, 16, 4, 4), signs(8, 16, 3, 3)), "more than one position"),
        (lambda b: conv(b, stored(b, 1, 16, 5, 5), signs(8, 16, 1, 1), strides=(2, 2)), "x steps unevenly"),
        (lambda b: conv(b, stored(b, 1, 32, 4, 4), signs(32, 16, 1, 1), groups=2), "weights of its own"),
        (lambda b: conv(b, b.input(signs(1, 16, 4, 4)), signs(8, 16, 1, 1)), "x is fp32"),
        (lambda b: b.add("MatMul", stored(b, 5, 16), stored(b, 16, 12)), "rows of w are not multiples of 16 bytes"),
        (lambda b: b.add("MatMul", stored(b, 2, 5, 16), stored(b, 2, 16, 8)), "weights of its own"),
    ],
)
def test_what_is_read_by_pointers(build: Callable[[Builder], Value], reason: str) -> None:
    assert reason in declined(build)


def test_fp32_is_read_by_pointers() -> None:
    assert "16-bit" in declined(lambda b: conv(b, stored(b, 1, 16, 4, 4), signs(8, 16, 1, 1)), dtype="tf32")


@pytest.mark.parametrize("target", [gpu.name for gpu in GPUS] + ["interpreter"])
def test_targets_that_have_tensor_maps(target: str) -> None:
    b = Builder()
    b.output(b.add("Abs", conv(b, stored(b, 8, 256, 28, 28), signs(512, 256, 1, 1))))
    has = target == "interpreter" or int(target.removeprefix("sm_")) >= 90
    assert by_descriptors(plan_of(b, target=target)) == has
    off = make_plan(b.graph, Options((target,), "fp16", switches=Switches(disable=("descriptors",))))
    assert by_descriptors(off) == 0


# -- machine code -----------------------------------------------------------------------------------------------------
def bottleneck(rows: int = 28) -> Builder:
    """A convolution with bias, residual and ReLU, and a product of matrices whose second is transposed."""
    b = Builder()
    y = conv(b, stored(b, 2, 256, rows, rows), signs(256, 256, 1, 1), signs(256))
    y = b.add("Relu", b.add("Add", y, stored(b, 2, 256, rows, rows)))
    window = {"kernel_shape": (2, 2), "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "ceil_mode": False}
    b.output(b.add("MaxPool", y, **window))
    b.output(b.add("Abs", b.add("Gemm", stored(b, 200, 256), stored(b, 256, 256), trans_b=True)))
    return b


@pytest.mark.parametrize(("target", "warps"), [("sm_90", 4), ("sm_100", 8)])
def test_machine_code_of_large_tiles(target: str, warps: int, cache: KernelCache) -> None:
    """Copies by the copy engine, no masks and no spills, and few instructions beside the products."""
    plan = retiled(plan_of(bottleneck(), target=target), blocks(128, 128, 64, warps=warps, stages=4))
    subjects = [s for s in examine_artifact(compile_plan(plan, cache)) if s.spec.family == "contraction"]
    assert findings(subjects) == [] and len(subjects) == 2
    for subject in subjects:
        assert (subject.spec.parameters[0].type, subject.tile) == ("tensordesc<fp16[128,64]>", "128x128x64")
        assert len(subject.binary.tensor_maps) == 2
        assert subject.code.counts["UTMALDG"] >= 2 and subject.code.counts["LDGSTS"] == 0
        assert subject.binary.spill_bytes == 0
        if target == "sm_90":
            assert subject.code.main_loop.ratio <= 14


def test_machine_code_that_multiplies_out_of_registers(cache: KernelCache) -> None:
    plan = retiled(plan_of(bottleneck(), target="sm_120"), blocks(64, 128, 64))
    assert by_descriptors(plan) == 2
    assert findings(examine_artifact(compile_plan(plan, cache))) == []


def test_machine_code_of_several_steps(cache: KernelCache) -> None:
    """Functions that a kernel calls take descriptors too."""
    plan = retiled(together(siblings(), "sm_90"), blocks(64, 64, 64))
    subjects = [s for s in examine_artifact(compile_plan(plan, cache)) if s.spec.family == "group"]
    assert subjects and findings(subjects) == []
    assert max(len(subject.binary.tensor_maps) for subject in subjects) == 3


@pytest.mark.usefixtures("interpreters")
def test_what_reaches_the_driver(cache: KernelCache) -> None:
    """The sources are run on the arrays of the tensor maps, as a fake driver finds them at the launch."""
    b = bottleneck(5)
    artifact = compile_plan(retiled(plan_of(b, target="sm_90"), blocks(64, 64, 32)), cache)
    (program,) = artifact.manifest.programs
    gpu = InterpretedGpu(artifact, program)
    with Engine(artifact, CudaExecutor(driver=Driver(gpu))) as engine:
        same(engine.run(b.inputs), evaluate(b.graph, b.inputs))
    assert gpu.violations == [] and len(gpu.maps.records) == 4
