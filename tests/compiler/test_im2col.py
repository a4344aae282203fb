"""Convolutions in Gluon: the walk of the copy engine against a model of it, the code, and what reaches the driver.

Nothing here runs such a kernel: Triton's interpreter cannot.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import APART, Builder, Retile, contractions, conv, evaluate, integers, retiled
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from convc import ConvcError
from convc.analysis.lint import examine_artifact, findings
from convc.codegen.cache import KernelCache
from convc.codegen.emit import emit
from convc.codegen.sass import disassemble
from convc.compiler import compile_plan
from convc.ir import Value
from convc.ir.digest import problem_digest
from convc.ir.im2col import Im2col, im2col
from convc.ir.matrices import NotMatrices
from convc.ir.plan import IM2COL, Tile
from convc.ir.problem import Axis, Contraction
from convc.passes import Switches
from convc.passes.im2col_tiles import candidates
from convc.passes.measured import with_measured_tiles
from convc.passes.policies import Always
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine
from convc.runtime.interpreter import InterpreterExecutor
from convc.targets.tuned import Entry, Measured, schedule_of

sys.path.append(str(Path(__file__).parent.parent / "runtime"))
from fake_driver import FakeDriver

RANDOM = np.random.default_rng(11)


def stored(b: Builder, *shape: int) -> Value:
    """A tensor that a kernel stored, channels last, and that is read by others too."""
    x = b.add("Neg", b.input(integers(RANDOM, shape, 1)))
    b.output(b.add("Abs", x))
    return x


def plan_of(b: Builder, target: str = "sm_90", on: tuple[str, ...] = ("im2col",), **options: Any) -> Plan:
    switches = Switches(disable=(*APART.disable, "conv-prologue", "conv-pool", "back-to-back"), enable=on)
    return make_plan(b.graph, Options((target,), "fp16", switches=switches, policy=Always(), **options))


# -- the walk ---------------------------------------------------------------------------------------------------------
def fetched(
    x: np.ndarray, walk: Im2col, start: tuple[int, int, int], pixels: int, offset: tuple[int, int]
) -> np.ndarray:
    """What the copy engine brings of images x (N, H, W, C), as the documentation of tensor maps has it: from a pixel on
    it steps along W, H and N inside the corners, and reads ``offset`` further, zeros where that is outside."""
    (n, h, w), (lines, columns) = start, (walk.lines, walk.columns)
    found = np.zeros((pixels, x.shape[3]), x.dtype)
    for index in range(pixels):
        line, column = h + offset[0], w + offset[1]
        if 0 <= n < x.shape[0] and 0 <= line < x.shape[1] and 0 <= column < x.shape[2]:
            found[index] = x[n, line, column]
        w += columns.step
        if w > columns.extent - 1 + columns.upper:
            w, h = columns.lower, h + lines.step
        if h > lines.extent - 1 + lines.upper:
            h, n = lines.lower, n + 1
    return found


def multiplied(x: np.ndarray, filters: np.ndarray, walk: Im2col, rows: int, block: int) -> np.ndarray:
    """The convolution as (rows, filters), a tile of ``block`` rows after the other, from the kernel's coordinates."""
    lines, columns = walk.lines, walk.columns
    positions = np.moveaxis(filters.reshape(*filters.shape[:2], -1), (2, 1), (0, 1))
    tiles = []
    for first in range(0, rows, block):
        image = first // (lines.outputs * columns.outputs)
        line = first // columns.outputs % lines.outputs * lines.step - lines.pad
        column = first % columns.outputs * columns.step - columns.pad
        total = 0
        for r in range(lines.size):
            for s in range(columns.size):
                offset = (r * lines.dilation, s * columns.dilation)
                total += fetched(x, walk, (image, line, column), block, offset) @ positions[r * columns.size + s]
        tiles.append(total)
    return np.concatenate(tiles)[:rows]


@given(
    image=st.tuples(st.integers(1, 3), st.integers(3, 9), st.integers(3, 9)),
    window=st.tuples(st.sampled_from([1, 2, 3, 5]), st.sampled_from([1, 2, 3])),
    steps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.integers(1, 2),
    borders=st.booleans(),
)
@example((2, 7, 7), (3, 3), (1, 1), (1, 1, 1, 1), 1, True)
@example((2, 8, 9), (3, 3), (2, 2), (1, 1, 1, 1), 1, False)
@example((3, 5, 6), (1, 1), (2, 2), (0, 0, 0, 0), 1, False)
@example((2, 6, 6), (1, 3), (1, 1), (0, 1, 0, 1), 1, False)
@settings(settings.get_profile("shared-process"), max_examples=60)
def test_the_walk_reads_what_the_convolution_does(
    image: tuple[int, int, int],
    window: tuple[int, int],
    steps: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: int,
    borders: bool,
) -> None:
    """Any window, step, padding on each side and dilation; tiles that cross lines and images."""
    (n, h, w), (r, s) = image, window
    assume(h + pads[0] + pads[2] > (r - 1) * dilation and w + pads[1] + pads[3] > (s - 1) * dilation)
    b = Builder()
    filters = integers(RANDOM, (8, 32, r, s), 1)
    y = conv(b, stored(b, n, 32, h, w), filters, strides=steps, pads=pads, dilations=(dilation, dilation))
    b.output(b.add("Abs", y))
    switches = Switches(disable=(*APART.disable, *(() if borders else ("zero-borders",))))
    plan = make_plan(b.graph, Options(("sm_90",), "fp16", switches=switches, policy=Always()))
    ((problem, _),) = contractions(plan)
    try:
        walk = im2col(problem)
    except NotMatrices as reason:  # places follow each other evenly from line to line, or there is one
        assume(not str(reason).startswith(("places of the window", "rows are not")))
        raise
    found = np.abs(multiplied(images_of(plan, problem, b), filters, walk, problem.extent(Axis.ROW), 16))
    expected = np.moveaxis(evaluate(b.graph, b.inputs)["y1"], 1, 3).reshape(-1, 8)
    np.testing.assert_array_equal(found, expected)


def images_of(plan: Plan, problem: Contraction, b: Builder) -> np.ndarray:
    """The images that the descriptor describes, in a memory that holds x as it is placed, and NaN elsewhere."""
    (x,) = b.inputs.values()
    placed, walk = plan.layouts.placements[problem.x.source], im2col(problem)
    memory = np.full(placed.offset + placed.span + 1000, np.nan)
    strides = tuple(stride * memory.itemsize for stride in placed.strides)
    np.lib.stride_tricks.as_strided(memory[placed.offset :], placed.shape, strides)[...] = -x
    steps = tuple(stride * memory.itemsize for stride in walk.strides)
    return np.lib.stride_tricks.as_strided(memory[problem.x.offset :], walk.shape, steps)


# -- which ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda b: conv(b, stored(b, 1, 24, 9, 9), integers(RANDOM, (8, 24, 3, 3))), "no multiple of 16"),
        (lambda b: conv(b, stored(b, 1, 32, 9, 9), integers(RANDOM, (32, 16, 3, 3)), groups=2), "groups"),
        (lambda b: b.add("Conv", stored(b, 1, 16, 9, 9), stored(b, 8, 16, 3, 3), **WINDOW), "weights are computed"),
        (lambda b: conv(b, stored(b, 1, 16, 40, 40), integers(RANDOM, (8, 16, 3, 3)), strides=(9, 9)), "more than 8"),
        (lambda b: conv(b, stored(b, 1, 16, 300, 4), integers(RANDOM, (8, 16, 200, 2))), "too far"),
        (lambda b: conv(b, b.input(integers(RANDOM, (1, 16, 9, 9))), integers(RANDOM, (8, 16, 3, 3))), "x is fp32"),
        (lambda b: conv(b, stored(b, 1, 16, 9, 9, 9), integers(RANDOM, (8, 16, 3, 3, 3))), "three dimensions"),
    ],
)
def test_what_the_engine_does_not_walk(build: Callable[[Builder], Value], reason: str) -> None:
    b = Builder()
    b.output(b.add("Abs", build(b)))
    plan = plan_of(b)
    ((problem, tile),) = contractions(plan)
    with pytest.raises(NotMatrices, match=reason):
        im2col(problem)
    assert tile.access == "pointers"


WINDOW = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), "groups": 1}


def network(batch: int = 32) -> Builder:
    """Convolutions with a residual, with a step and many functions behind it, and with a step and one position."""
    b = Builder()
    x = stored(b, batch, 128, 14, 14)
    y = conv(b, x, integers(RANDOM, (128, 128, 3, 3), 1), integers(RANDOM, (128,)), pads=(1,) * 4)
    y = b.add("Relu", b.add("Add", y, stored(b, batch, 128, 14, 14)))
    z = conv(b, y, integers(RANDOM, (100, 128, 3, 3), 1), strides=(2, 2), pads=(1,) * 4)
    for function in ("Sigmoid", "HardSwish", "Erf", "Softplus", "Tanh", "Neg", "Abs", "Exp", "Sqrt"):
        z = b.add(function, z)
    b.output(b.add("Clip", b.add("LeakyRelu", z, alpha=0.5), min=-1.0, max=2.0))
    b.output(b.add("Neg", conv(b, y, integers(RANDOM, (512, 128, 1, 1), 1), strides=(2, 2))))
    return b


def test_the_form_is_off_unless_it_is_switched_on() -> None:
    b = network()
    assert [tile.access for _, tile in contractions(plan_of(b, on=()))].count("im2col") == 0
    assert [tile.access for _, tile in contractions(plan_of(b))].count("im2col") >= 1
    for target in ("sm_80", "sm_100", "sm_120", "interpreter"):
        assert [tile.access for _, tile in contractions(plan_of(b, target))].count("im2col") == 0


def test_measured_schedules_may_be_of_this_form() -> None:
    """Only where it is switched on: a table knows the schedule, planning must still be allowed to take it."""
    b = network()
    on, off = plan_of(b), plan_of(b, on=())
    problem, tile = contractions(on)[0]
    slower = next(t for t in candidates(problem, on.programs[0].target) if t.access == "im2col" and t.cols == 64)
    measured = Measured("H200", {problem_digest(problem): Entry(schedule_of(slower), 1.0, 2.0, 8)})
    for plan, access in ((on, slower), (off, contractions(off)[0][1])):
        (program,) = plan.programs
        launches = with_measured_tiles(program.schedule, program.target, measured)
        tiles = [launch.steps[0].tile for launch in launches if isinstance(launch.steps[0].work.problem, Contraction)]
        assert schedule_of(tiles[0]) == schedule_of(access)
    assert tile.access == "im2col" and slower.cols != tile.cols


# -- the code ---------------------------------------------------------------------------------------------------------
def test_source(golden: Callable[[str, str], None]) -> None:
    (problem, _), *_ = contractions(plan_of(network()))
    tile = Tile(128, 128, 64, 8, 3, access="im2col", producers=1)
    kernel = emit(problem, tile, lambda operand: True)
    golden("kernels/conv3x3_im2col.py", kernel.source)
    alone = emit(problem, replace(tile, producers=0), lambda operand: True)
    assert "warp_specialize" in kernel.source and "warp_specialize" not in alone.source
    assert [type for _, type, _ in kernel.parameters[:2]] == [
        f"tensordesc_im2col<fp16[128,64],input_rank=4,{LAYOUT}>",
        f"tensordesc<fp16[64,128],{LAYOUT}>",
    ]


LAYOUT = (
    "NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2, transposed=False, fp4_padded=False, "
    "cga_layout=[])"
)


def forced(producers: int = 1) -> Retile:
    """Tiles of this form for all convolutions."""
    rows, warps = (128, 8) if producers else (64, 4)
    chosen = Tile(rows, 128, 64, warps, 3, access=IM2COL, producers=producers)
    return lambda problem, tile: chosen if isinstance(problem, Contraction) else tile


@pytest.mark.parametrize("producers", [1, 0])
def test_machine_code(producers: int, cache: KernelCache) -> None:
    """Copies that walk, no masks, no spills; with a producer few instructions beside the products."""
    artifact = compile_plan(retiled(plan_of(network()), forced(producers)), cache)
    subjects = [s for s in examine_artifact(artifact) if any(step.access == "im2col" for step in s.spec.steps)]
    assert len(subjects) == 3 and findings(subjects) == []
    for subject in subjects:
        (code,) = disassemble([subject.cubin.code], 90)
        assert any(found.name == "UTMALDG" and "IM2COL" in found.opcode for found in code)
        assert subject.code.counts["LDGSTS"] == 0 and subject.binary.spill_bytes == 0
        assert subject.binary.threads == (384 if producers else 128)
        if producers:
            assert subject.code.main_loop.ratio <= 14


def test_what_reaches_the_driver(cache: KernelCache) -> None:
    """A fake driver checks the walks as the real one would; the launches compute nothing there."""
    b = network()
    artifact = compile_plan(retiled(plan_of(b), forced()), cache)
    gpu = FakeDriver()
    with Engine(artifact, CudaExecutor(driver=Driver(gpu))) as engine:
        engine.run(b.inputs)
    assert gpu.violations == []
    walks = sorted((record.lower, record.upper, record.steps) for record in gpu.maps.records if record.steps)
    assert walks == [
        ((-1, -1), (-2, -2), (1, 2, 2, 1)),
        ((-1, -1), (-1, -1), (1, 1, 1, 1)),
        ((0, 0), (0, 0), (1, 1, 1, 1)),
    ]


def test_the_interpreter_says_that_it_cannot(cache: KernelCache) -> None:
    artifact = compile_plan(plan_of(network()), cache)
    (program,) = artifact.manifest.programs
    with pytest.raises(ConvcError, match="written in Gluon, which Triton's interpreter cannot run"):
        InterpreterExecutor().prepare(artifact, program)
