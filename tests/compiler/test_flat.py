"""Convolutions whose rows are the pixels of their input: which are, what they compute, and what their code is like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import clipped, shape_of
from compiled import APART, Builder, Retile, Taking, contractions, conv, evaluate, retiled, run_planned, same
from hypothesis import example, given, settings
from hypothesis import strategies as st
from interpreted_gpu import InterpretedGpu
from small_networks import inside, weights

from convc.analysis.lint import examine_artifact, findings
from convc.codegen.cache import KernelCache
from convc.codegen.emit import emit
from convc.compiler import compile_plan
from convc.ir import Value
from convc.ir.flat import FlatContraction, flat_matrices, flattened, is_flat
from convc.ir.matrices import NotMatrices
from convc.ir.plan import SHIFTED, Tile
from convc.ir.problem import Axis, Contraction, Problem
from convc.passes import Switches
from convc.passes.borders import RULE
from convc.passes.tiling import ranked
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine
from convc.targets import target


def plan_of(b: Builder, *targets: str, dtype: str = "fp16", off: tuple[str, ...] = ()) -> Plan:
    switches = Switches(disable=(*APART.disable, *off))
    return make_plan(b.graph, Options(targets or ("interpreter",), dtype, switches=switches, policy=Taking(RULE)))


def flat_ones(plan: Plan) -> list[FlatContraction]:
    return [flattened(problem) for problem, tile in contractions(plan) if tile.access == SHIFTED]


def blocks(rows: int, cols: int, depth: int, split: int = 1) -> Retile:
    """Tiles of this size for everything that has a flat form."""

    def change(problem: Problem, tile: Tile) -> Tile:
        if not isinstance(problem, Contraction) or not is_flat(problem):
            return tile
        steps = problem.tap_count * -(-problem.depth // depth)
        return Tile(rows, cols, depth, split_k=split if steps % split == 0 else 1, access=SHIFTED)

    return change


@st.composite
def windows(draw: Any) -> dict[str, Any]:
    """Windows of stride 1, of any size and padding."""
    r, s = draw(st.sampled_from([(3, 3), (1, 3), (3, 1), (5, 5), (2, 4), (1, 1)]))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = ((r - 1) * dilations[0], (s - 1) * dilations[1])
    pads = tuple(draw(st.integers(most // 2, most)) for most in (*reach, *reach))
    return {"kernel": (r, s), "dilations": dilations, "pads": pads}


def windowed(b: Builder, x: Value, filters: int, kernel: tuple[int, int], **attributes: Any) -> Value:
    return clipped(b, conv(b, x, weights(filters, shape_of(b, x)[1], *kernel), weights(filters), **attributes))


def shuffled(b: Builder, x: Value) -> Value:
    """A channel shuffle in three groups or two, which the kernel in front does."""
    n, c, h, w = shape_of(b, x)
    groups = 3 if c % 3 == 0 else 2
    y = b.add("Reshape", x, shape=(n, groups, c // groups, h, w))
    return b.add("Reshape", b.add("Transpose", y, perm=(0, 2, 1, 3, 4)), shape=(n, c, h, w))


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@given(
    image=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    channels=st.sampled_from([32, 40, 72]),
    filters=st.sampled_from([32, 33, 48]),
    first=windows(),
    second=windows(),
    tile=st.tuples(st.sampled_from([32, 64]), st.sampled_from([16, 32]), st.sampled_from([16, 32])),
    split=st.sampled_from([1, 1, 2, 3]),
    ending=st.sampled_from(["plain", "residual", "slice", "shuffle", "chain"]),
    dtype=st.sampled_from(["fp16", "bf16"]),
)
@example((2, 7, 5), 40, 33, {"kernel": (3, 3), "dilations": (1, 1), "pads": (1,) * 4},
         {"kernel": (3, 3), "dilations": (1, 1), "pads": (1,) * 4}, (32, 32, 16), 3, "residual", "fp16")  # fmt: skip
@example((1, 5, 7), 32, 48, {"kernel": (3, 3), "dilations": (1, 1), "pads": (1,) * 4},
         {"kernel": (3, 3), "dilations": (1, 1), "pads": (1,) * 4}, (64, 16, 32), 1, "shuffle", "bf16")  # fmt: skip
@settings(settings.get_profile("shared-process"), max_examples=14)
def test_flat_convolutions_are_exact(
    image: tuple[int, int, int],
    channels: int,
    filters: int,
    first: dict[str, Any],
    second: dict[str, Any],
    tile: tuple[int, int, int],
    split: int,
    ending: str,
    dtype: str,
) -> None:
    """Tiles that stick out along rows, columns and depth, or cross images; split reductions; results that lie like the
    input, in borders of their own, and in a slice of a concatenation. The arena is NaN wherever nothing was written."""
    b, (n, h, w) = Builder(), image
    x = inside(b, n, channels, h, w)
    b.output(b.add("Abs", conv(b, x, weights(16, channels, 3, 3), pads=(1,) * 4)))
    y = windowed(b, x, filters, **first)
    if ending == "residual":
        y = clipped(b, b.add("Add", y, inside(b, *shape_of(b, y))))
    if ending == "slice":
        y = b.add("Concat", y, inside(b, *shape_of(b, y)), axis=1)
    if ending == "shuffle":
        y = shuffled(b, y)
    if ending == "chain":
        y = windowed(b, y, 32, **second)
    b.output(b.add("Abs", windowed(b, y, 24, (3, 3), pads=(1,) * 4)))
    plan = retiled(plan_of(b, dtype=dtype), blocks(*tile, split))
    assert flat_ones(plan)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def residual_block(batch: int = 2, channels: int = 64, size: int = 7) -> Builder:
    """Two padded convolutions and the sum of the second with the input of the first, everything between zeros."""
    b = Builder("block")
    x = b.add("Abs", inside(b, batch, channels, size, size))
    y = clipped(b, conv(b, x, weights(channels, channels, 3, 3), weights(channels), pads=(1,) * 4))
    y = conv(b, y, weights(channels, channels, 3, 3), pads=(1,) * 4)
    y = b.add("Relu", b.add("Add", y, x))
    b.output(b.add("Neg", conv(b, y, weights(32, channels, 3, 3), pads=(1,) * 4)))
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("rows", [16, 64])
def test_a_residual_block_stays_between_zeros(rows: int) -> None:
    b = residual_block()
    plan = plan_of(b)
    ones = flat_ones(plan)
    assert [one.whole for one in ones] == [True, True, False]
    residual = ones[1].operands[-1]
    assert residual.strides[ones[1].positions(Axis.ROW)[-1]] == 64, "it is read along the pixels, too"
    same(run_planned(retiled(plan, blocks(rows, 32, 32)), b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize(("channels", "flat"), [(64, True), (96, True), (40, False), (72, False)])
def test_infinite_filters_reach_only_what_they_are_multiplied_with(channels: int, flat: bool) -> None:
    """Steps of a tap end where its channels do: behind them lies the next tap, and zeros times infinity are no zeros.
    Where no step ends there, there is no flat form."""
    b = Builder()
    w = np.ones((16, channels, 3, 3), np.float32)
    w[0, 0, 1, 1] = np.inf
    x = b.add("Relu", conv(b, b.input(np.ones((1, 4, 5, 5), np.float32)), np.ones((channels, 4, 1, 1), np.float32)))
    b.output(conv(b, x, w, pads=(1,) * 4))
    for name in ("interpreter", "sm_90"):
        (problem, _) = contractions(plan_of(b, name))[-1]
        tiles = [tile for tile in ranked(problem, target(name)) if tile.access == SHIFTED]
        assert is_flat(problem) and bool(tiles) == flat
        assert all(channels % tile.depth == 0 for tile in tiles)
    plan = plan_of(b)
    best = next(
        (tile for tile in ranked(contractions(plan)[-1][0], target("interpreter")) if tile.access == SHIFTED), None
    )
    if best:
        plan = retiled(plan, lambda problem, tile: best if is_flat(problem) else tile)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


# -- which ------------------------------------------------------------------------------------------------------------
REFUSED: dict[str, tuple[Callable[[Builder], Value], str]] = {
    "strided": (
        lambda b: conv(b, inside(b, 1, 32, 9, 9), weights(32, 32, 3, 3), pads=(1,) * 4, strides=(2, 2)),
        "windows move in steps, or leave the zeros",
    ),
    "no zeros": (
        lambda b: conv(b, inside(b, 1, 24, 9, 9), weights(32, 24, 3, 3), pads=(1,) * 4),
        "x lies between no zeros",
    ),
    "fp32": (
        lambda b: conv(b, inside(b, 1, 32, 9, 9), weights(32, 32, 3, 3), pads=(1,) * 4),
        "x is fp32, and not of a 16-bit type",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_flat_form(case: str) -> None:
    build, reason = REFUSED[case]
    b = Builder()
    b.output(b.add("Abs", build(b)))
    ((problem, tile),) = contractions(plan_of(b, dtype="fp32" if case == "fp32" else "fp16"))
    assert tile.access == "pointers"
    with pytest.raises(NotMatrices, match=reason):
        flat_matrices(flattened(problem))


def test_descriptors_decide_on_gpus() -> None:
    """Older GPUs have none, and a switch turns them off; pointers read the same zeros then."""
    b = residual_block(8, 64, 56)
    assert flat_ones(plan_of(b, "sm_90")) and not flat_ones(plan_of(b, "sm_80"))
    assert not flat_ones(plan_of(b, "sm_90", off=("descriptors",))) and not flat_ones(plan_of(b, "sm_90", off=(RULE,)))


def test_counts() -> None:
    """Programs and work done again are those of all pixels; the multiply-adds those of the places."""
    problem, _ = contractions(plan_of(residual_block()))[0]
    flat, tile = flattened(problem), Tile(64, 64, 64, access=SHIFTED)
    assert flat.extent(Axis.ROW) == 2 * 8 * 8 and problem.extent(Axis.ROW) == 2 * 7 * 7
    assert problem.programs(tile) == flat.programs(tile) == 2
    assert problem.programs(replace(tile, rows=32)) == problem.programs(Tile(32, 64, 64)) == 4
    assert (problem.macs, flat.macs) == (98 * 64 * 64 * 9, 128 * 64 * 64 * 9)
    assert problem.recomputed_macs(tile) == (128 - 98) * 64 * 64 * 9 and problem.recomputed_macs(Tile(64, 64, 64)) == 0
    found = flat_matrices(flat)
    assert (found.x.rows, found.x.cols, found.x.pitch, found.first_row) == (9 + 128, 64, 64, 9)
    assert (found.w.rows, found.w.cols, found.w.pitch) == (9 * 64, 64, 64)


# -- code -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("number", "name"), [(1, "conv3x3_flat"), (2, "conv3x3_flat_places")])
def test_source(number: int, name: str, golden: Callable[[str, str], None]) -> None:
    problem, _ = contractions(plan_of(residual_block(), "sm_90"))[number]
    tile = Tile(64, 64, 64, access=SHIFTED)
    golden(f"kernels/{name}.py", emit(problem, tile, lambda operand: operand.offset % 8 == 0).source)


def test_machine_code(tmp_path: Path) -> None:
    """Large tiles of many channels: at most 14 instructions for each one on tensor cores, no spills, no warnings."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    plan = retiled(plan_of(residual_block(4, 128, 28), "sm_90"), blocks(128, 128, 64))
    assert len(flat_ones(plan)) == 3
    subjects = examine_artifact(compile_plan(plan, KernelCache(tmp_path)))
    flat = [subject for subject in subjects if subject.code.counts["UTMALDG"]]
    assert len(flat) == 2, "the third, whose result lies in another order, spills with that tile and gets another"
    assert findings(flat) == []
    for subject in flat:
        assert subject.code.main_loop is not None and subject.code.main_loop.ratio <= 14
        assert subject.binary.spill_bytes == 0


@pytest.mark.usefixtures("interpreters")
def test_what_reaches_the_driver(tmp_path: Path) -> None:
    """The sources are run on the arrays of the tensor maps, as a fake driver finds them at the launch."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    b = residual_block(1, 64, 7)
    plan = retiled(plan_of(b, "sm_90"), blocks(64, 64, 32))
    artifact = compile_plan(plan, KernelCache(tmp_path))
    gpu = InterpretedGpu(artifact, artifact.manifest.programs[0])
    with Engine(artifact, CudaExecutor(driver=Driver(gpu))) as engine:
        same(engine.run(b.inputs), evaluate(b.graph, b.inputs))
    assert gpu.violations == [] and len(gpu.maps.records) == 2 * len(flat_ones(plan))
