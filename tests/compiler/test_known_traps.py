"""Where other compilers' convolutions went wrong, or their kernels were slow or could not be launched.

- A main loop over window positions and channels together, on 8 warps, with strides and odd padding, gave wrong results
  in PyTorch (pytorch#173068).
- A trip count that is known when compiling has the loop unrolled; one that may be 0 has products wait for each other.
- Triton compiles kernels that need more shared memory than a block can have.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, integers, planned, run_planned, same
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import KERNELS, NETWORKS, POOL, kernel_case, weights

from convc.analysis.lint import examine_artifact
from convc.analysis.lint_checks import Subject, findings
from convc.codegen.cache import KernelCache
from convc.codegen.emit import emit
from convc.codegen.pool import Job, compile_kernels
from convc.codegen.worker import Compiled, Request
from convc.compiler import compile_plan, compile_programs, settled
from convc.errors import CompileError
from convc.frontends import zoo
from convc.ir.plan import Tile
from convc.ir.problem import Contraction, Problem
from convc.passes import tiling
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.targets import TARGETS, Target

FILTERS, STRIDES, PADS = 20, (2, 3), (4, 5, 4, 5)


def trap(channels: int, dilation: int = 1, size: int = 14) -> Builder:
    """The convolution of pytorch#173068: 3x3, strides 2 and 3, padding 4 and 5; channels that need not fill a step."""
    b = Builder("trap")
    x = b.add("Neg", b.input(integers(np.random.default_rng(0), (2, channels, size, size + 3))))
    b.output(b.add("Abs", x))  # so that x is not computed while the convolution loads it
    y = conv(
        b,
        x,
        weights(FILTERS, channels, 3, 3),
        weights(FILTERS),
        strides=STRIDES,
        pads=PADS,
        dilations=(dilation,) * 2,
    )
    b.output(y)
    return b


def tiled(monkeypatch: pytest.MonkeyPatch, tile: Tile) -> None:
    """Every contraction takes this tile."""
    before = tiling.ranked

    def ranked(problem: Problem, target: Target) -> list[Tile]:
        return [tile] if isinstance(problem, Contraction) else before(problem, target)

    monkeypatch.setattr(tiling, "ranked", ranked)


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(
    ("channels", "tile"),
    [
        (40, Tile(1024, 16, 16, num_warps=8)),
        (40, Tile(128, 32, 16, num_warps=8)),
        (40, Tile(64, 16, 32, num_warps=8, split_k=3)),
        (48, Tile(32, 16, 16, num_warps=8, split_k=9)),
        (3, Tile(128, 16, 16, num_warps=8)),
    ],
)
def test_flattened_loops_with_strides_and_odd_padding_are_exact(
    monkeypatch: pytest.MonkeyPatch, channels: int, tile: Tile, dilation: int
) -> None:
    b = trap(channels, dilation)
    tiled(monkeypatch, tile)
    plan = planned(b.graph, dtype="fp16")
    tiles = [step.tile for launch in plan.programs[0].launches for step in launch.steps]
    assert tile in [replace(found, reason="") for found in tiles]
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def compiled(plan: Plan, cache: KernelCache) -> list[Subject]:
    return examine_artifact(compile_plan(plan, cache))


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize(
    "tile",
    [Tile(256, 32, 32, num_warps=8), Tile(128, 32, 64, num_warps=8, num_stages=2), Tile(64, 32, 16, num_warps=4)],
)
def test_a_flattened_loop_does_one_step_at_a_time(
    monkeypatch: pytest.MonkeyPatch, cache: KernelCache, target: str, tile: Tile
) -> None:
    """One loop, with just the products that one step of the tile takes: it is neither unrolled nor cut up."""
    tiled(monkeypatch, tile)
    plan = planned(trap(64, size=40).graph, target, dtype="fp16")
    subjects = compiled(plan, cache)
    assert findings(subjects) == []
    (subject,) = [subject for subject in subjects if subject.spec.family == "contraction"]
    assert subject.binary.threads == 32 * tile.num_warps
    (loop,) = subject.code.loops
    if target == "sm_90":  # m64nNk16 by each group of 4 warps
        products = tile.rows // 64 * (tile.depth // 16) // (tile.num_warps // 4)
    else:  # m16n8k16 by each warp
        products = tile.rows // 16 * (tile.cols // 8) * (tile.depth // 16) // tile.num_warps
    assert loop.tensor_core == subject.code.tensor_core == products


# -- trip counts ------------------------------------------------------------------------------------------------------
LOOP = re.compile(r"^(?P<indent> +)for \w+ in (?P<range>.*):\n(?P<body>(?:(?P=indent) +.*\n|\n)+)", re.MULTILINE)


SUM = re.compile(r"acc = tl\.dot\(.*, acc\b")


def main_loops(source: str) -> list[tuple[str, str]]:
    """(what stands in front, range) of each loop that adds up products of matrices."""
    found = []
    for match in LOOP.finditer(source):
        if SUM.search(match["body"]):
            found.append((source[: match.start()].rstrip().rpartition("\n")[2].strip(), match["range"]))
    return found


def sources(plan: Plan) -> list[str]:
    return [kernel.source for program in plan.programs for kernel in program.kernels.values()]


@pytest.mark.parametrize("case", [*KERNELS, *NETWORKS])
def test_trip_counts_come_at_run_time_and_are_above_0(case: str) -> None:
    graph = kernel_case(case).graph if case in KERNELS else NETWORKS[case]()
    for dtype in ("fp32", "fp16"):
        for source in sources(make_plan(graph, Options(("sm_80", "sm_90"), dtype))):
            assert set(main_loops(source)) <= {("tl.assume(steps > 0)", "range(steps)")}, source


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("name", ["resnet50", "vgg16", "mobilenet_v2", "efficientnet_b0", "googlenet"])
def test_so_do_those_of_whole_networks(name: str, batch: int) -> None:
    """Every loop with a trip count of its own, and there are some."""
    graph = zoo.build(name, batch=batch, weights="none").graph
    found = [main_loops(source) for source in sources(make_plan(graph, Options(("sm_80", "sm_90"), "fp16")))]
    assert {loop for loops in found for loop in loops} == {("tl.assume(steps > 0)", "range(steps)")}


def test_loops_are_found_in_the_text() -> None:
    """Products that are used at once do not wait for the next ones."""
    sums = "    tl.assume(steps > 0)\n    for _ in range(steps):\n        acc = tl.dot(a, b, acc)\n        c += 1\n"
    others = "    for i in range(3):\n        x = tl.dot(a, b)\n"
    assert main_loops(sums + others) == [("tl.assume(steps > 0)", "range(steps)")]
    assert main_loops(sums.replace("range(steps)", "range(9)").replace("assume", "device_assert")) == [
        ("tl.device_assert(steps > 0)", "range(9)")
    ]


def test_a_tile_whose_products_wait_gives_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ptxas says so of the first choice, and of no other tile."""
    plan = planned(shaped((8, 128, 56, 256, 3, 1)).graph, "sm_90", dtype="fp16")
    (first,) = [launch for launch in plan.programs[0].launches if launch.kernel.family == "contraction"]

    def compiled_as(jobs: list[Job], *_: object) -> list[Compiled]:
        waits = {first.kernel.name: ("(C7517) wgmma.wait_group is injected",)}
        return [Compiled(b"", 128, 0, 32, 0, 1, 0, 1, warnings=waits.get(job.request.name, ())) for job in jobs]

    monkeypatch.setattr("convc.compiler.compile_kernels", compiled_as)
    (program,), binaries = compile_programs(plan, KernelCache(tmp_path))
    (second,) = [launch for launch in program.launches if launch.kernel.family == "contraction"]
    before, after = first.steps[0].tile, second.steps[0].tile
    assert before.rows * (before.cols + before.depth) > after.rows * (after.cols + after.depth)
    assert not binaries["sm_90", second.kernel.name].warnings


# -- shared memory ----------------------------------------------------------------------------------------------------
def stem() -> Plan:
    """The beginning of a ResNet for a GPU with little shared memory."""
    b = Builder("stem")
    y = conv(b, b.input(weights(1, 3, 224, 224)), weights(64, 3, 7, 7), strides=(2, 2), pads=(3,) * 4)
    b.output(b.add("MaxPool", y, **POOL))
    return make_plan(b.graph, Options(("sm_89",), "fp16"))


def test_a_tile_that_needs_more_shared_memory_than_there_is_gives_way(cache: KernelCache) -> None:
    """The best tile's estimate is too low: pooling in registers takes memory of its own for the exchange."""
    plan = settled(stem(), cache)
    (chosen,), (launch,), (subject,) = stem().programs[0].launches, plan.programs[0].launches, compiled(plan, cache)
    before, after = chosen.steps[0].tile, launch.steps[0].tile
    assert (after.rows, after.cols, after.depth) == (before.rows, before.cols, before.depth)
    assert after.num_stages < before.num_stages, "less is loaded ahead"
    assert findings([subject]) == []


def test_where_no_tile_is_small_enough_compiling_fails(monkeypatch: pytest.MonkeyPatch, cache: KernelCache) -> None:
    monkeypatch.setattr("convc.compiler.with_smaller_tiles", lambda schedule, short, target: schedule)
    with pytest.raises(CompileError, match="bytes of shared memory in a block, and sm_89 has 101376") as raised:
        compile_plan(stem(), cache)
    assert raised.value.node


def staged(tile: Tile, itemsize: int) -> int:
    """Bytes of the operands that are loaded ahead."""
    return tile.num_stages * tile.depth * (tile.rows + tile.cols) * itemsize


SHAPES = st.tuples(
    st.sampled_from([1, 8]),  # batch
    st.sampled_from([3, 16, 64, 200, 512]),  # channels
    st.sampled_from([7, 20, 56]),  # height and width
    st.sampled_from([16, 72, 256]),  # filters
    st.sampled_from([1, 3, 7]),  # window
    st.sampled_from([1, 2]),  # stride
)


@settings(settings.get_profile("shared-process"), max_examples=40)
@given(SHAPES, st.sampled_from(["sm_80", "sm_89", "sm_90", "sm_120"]), st.sampled_from(["fp16", "fp32"]))
def test_no_candidate_stages_more_than_a_block_can_have(shape: tuple[int, ...], name: str, dtype: str) -> None:
    problem = convolution(shape, name, dtype)
    target = TARGETS[name]
    candidates = tiling.ranked(problem, target)
    assert candidates
    for tile in candidates:
        assert staged(tile, problem.compute.itemsize) <= target.shared_bytes, tile
        assert 4 * tile.rows * tile.cols <= target.shared_bytes, "the result is exchanged between threads in fp32"


def shaped(shape: tuple[int, ...]) -> Builder:
    """A convolution that reads what a kernel wrote."""
    batch, channels, size, filters, window, stride = shape
    b = Builder("shape")
    x = b.add("Neg", b.input(np.zeros((batch, channels, size, size), np.float32)))
    b.output(b.add("Abs", x))
    w = np.zeros((filters, channels, window, window), np.float32)
    b.output(conv(b, x, w, strides=(stride,) * 2, pads=(window // 2,) * 4))
    return b


def convolution(shape: tuple[int, ...], target: str, dtype: str) -> Contraction:
    problems = planned(shaped(shape).graph, target, dtype=dtype).programs[0].problems
    (found,) = [problem for problem in problems if isinstance(problem, Contraction)]
    return found


@pytest.mark.parametrize("name", ["sm_80", "sm_89", "sm_90"])
def test_the_largest_candidates_fit_as_compiled(cache: KernelCache, name: str) -> None:
    """The candidate that stages most, and the one with the largest result, as Triton compiles them."""
    target = TARGETS[name]
    for shape in ((8, 512, 56, 256, 3, 1), (8, 200, 56, 256, 1, 2)):
        problem = convolution(shape, name, "fp16")
        candidates = [tile for tile in tiling.ranked(problem, target) if tile.split_k == 1]
        most = max(candidates, key=lambda tile: (staged(tile, 2), tile.rows * tile.cols))
        largest = max(candidates, key=lambda tile: (tile.rows * tile.cols, staged(tile, 2)))
        for tile in dict.fromkeys((most, largest)):
            kernel = emit(problem, tile, lambda operand: True)
            request = Request(
                kernel.name, kernel.source, kernel.parameters, target.capability, tile.num_warps, tile.num_stages
            )
            (made,) = compile_kernels([Job(request, "conv")], cache)
            assert made.shared_bytes <= target.shared_bytes, tile
            assert made.shared_bytes <= max(staged(tile, 2) + 4096, 4 * tile.rows * (tile.cols + 8)), tile
            assert made.warnings == (), tile
