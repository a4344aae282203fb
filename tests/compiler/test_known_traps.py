"""Where other compilers' convolutions went wrong, or their kernels were slow or could not be launched.

- A main loop over window positions and channels together, on 8 warps, with strides and odd padding, gave wrong results
  in PyTorch (pytorch#173068).
- A trip count that is known when compiling has the loop unrolled; one that may be 0 has products wait for each other.
- Triton compiles kernels that need more shared memory than a block can have.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from compiled import Builder, conv, evaluate, integers, planned, run_planned, same
from small_networks import KERNELS, NETWORKS, kernel_case, weights

from convc.analysis.lint import Subject, examine_artifact, findings
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.ir.plan import Tile
from convc.ir.problem import Contraction, Problem
from convc.passes import tiling
from convc.planner import Options, Plan, make_plan
from convc.targets import Target

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


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> KernelCache:
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    return KernelCache(tmp_path_factory.mktemp("kernels"))


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


def test_loops_are_found_in_the_text() -> None:
    """Products that are used at once do not wait for the next ones."""
    sums = "    tl.assume(steps > 0)\n    for _ in range(steps):\n        acc = tl.dot(a, b, acc)\n        c += 1\n"
    others = "    for i in range(3):\n        x = tl.dot(a, b)\n"
    assert main_loops(sums + others) == [("tl.assume(steps > 0)", "range(steps)")]
    assert main_loops(sums.replace("range(steps)", "range(9)").replace("assume", "device_assert")) == [
        ("tl.device_assert(steps > 0)", "range(9)")
    ]
