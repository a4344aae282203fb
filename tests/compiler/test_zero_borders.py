"""Tensors between zeros: what convolutions read there, who writes the zeros, where there are none, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chains import clipped, shape_of
from compiled import APART, Builder, Taking, conv, evaluate, integers, planned, run_planned, same
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import POOL, inside, weights

from convc.analysis.kernel_check import check_kernels
from convc.analysis.lint import examine_artifact
from convc.codegen.cache import KernelCache
from convc.compiler import compile_plan
from convc.ir import Value
from convc.ir.plan import Border
from convc.passes import Switches
from convc.passes.borders import RULE
from convc.passes.slices import RULE as SLICES
from convc.passes.slices import Stage
from convc.planner import make_plan
from convc.program import Options, Plan
from convc.runtime.network import CompiledNetwork

SOME = settings(settings.get_profile("shared-process"), max_examples=40)
PAIR = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0,) * 4}


WRITERS: dict[str, Callable[[Builder, Value], Value]] = {
    "chain": lambda b, x: b.add("Relu", b.add("Sub", x, b.constant(weights(32, 1, 1)))),
    "conv1x1": lambda b, x: clipped(b, conv(b, x, weights(40, 32, 1, 1), weights(40))),
    "conv": lambda b, x: clipped(b, conv(b, x, weights(48, 32, 3, 3), pads=(1, 0, 1, 2))),
    "groups": lambda b, x: clipped(b, conv(b, x, weights(64, 16, 3, 3), groups=2, pads=(1,) * 4)),
    "depthwise": lambda b, x: clipped(b, conv(b, x, weights(32, 1, 3, 3), groups=32, pads=(1,) * 4)),
    "pool": lambda b, x: b.add("MaxPool", x, **{**POOL, "strides": (1, 1)}),
    "conv_pool": lambda b, x: b.add(
        "MaxPool", clipped(b, conv(b, x, weights(32, 32, 3, 3), pads=(1,) * 4)), **{**POOL, **PAIR, "ceil_mode": True}
    ),
    "conv_overlapping": lambda b, x: b.add(
        "MaxPool", clipped(b, conv(b, x, weights(32, 32, 3, 3), pads=(1,) * 4)), **POOL
    ),
    "separable": lambda b, x: clipped(
        b, conv(b, conv(b, x, weights(32, 1, 3, 3), groups=32, pads=(1,) * 4), weights(48, 32, 1, 1))
    ),
    "back_to_back": lambda b, x: clipped(
        b, conv(b, clipped(b, conv(b, x, weights(32, 32, 3, 3), pads=(1,) * 4)), weights(72, 32, 1, 1))
    ),
}


def borders(plan: Plan) -> list[Border]:
    return [placed.border for placed in plan.layouts.placements.values() if placed.border is not None]


def plan_of(b: Builder, *targets: str, dtype: str = "fp16", **options: Any) -> Plan:
    given = {"policy": Taking(RULE), "switches": APART} | options
    return make_plan(b.graph, Options(targets or ("interpreter",), dtype, **given))


def padded(b: Builder, x: Value, draw: Any) -> Value:
    """A convolution that may leave its input on every side, by any number of positions."""
    _, channels, height, width = shape_of(b, x)
    r, s = draw(st.sampled_from([(3, 3), (1, 3), (3, 1), (5, 5), (2, 4)]))
    dilations = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    reach = ((r - 1) * dilations[0], (s - 1) * dilations[1])
    pads = tuple(draw(st.integers(0, most)) for most in (*reach, *reach))
    short = [max(0, reach[axis] + 1 - extent - pads[axis]) for axis, extent in enumerate((height, width))]
    pads = (*pads[:2], *(max(pad, least) for pad, least in zip(pads[2:], short, strict=True)))
    filters = draw(st.sampled_from([16, 24, 32, 40, 70]))
    strides = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]))
    return conv(b, x, weights(filters, channels, r, s), pads=pads, strides=strides, dilations=dilations)


@pytest.mark.usefixtures("interpreters")
@SOME
@given(st.data(), st.sampled_from(list(WRITERS)), st.sampled_from(["fp16", "fp32"]), st.booleans())
def test_what_convolutions_read_between_zeros(data: Any, writer: str, dtype: str, residual: bool) -> None:
    """Every writer, several readers with windows of their own, residuals, slices of a concatenation; whole numbers, so
    that one zero that is missing, or was NaN before, is a difference."""
    b = Builder(writer)
    shape = (data.draw(st.integers(1, 3)), 32, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)))
    x = WRITERS[writer](b, inside(b, *shape))
    first = clipped(b, padded(b, x, data.draw))
    if residual:
        first = clipped(b, b.add("Add", first, inside(b, *shape_of(b, first))))
    b.output(b.add("Neg", padded(b, first, data.draw)))
    again = conv(b, x, weights(33, shape_of(b, x)[1], 3, 3), pads=(1,) * 4)
    beside = b.add("Neg", x)
    b.output(b.add("Abs", b.add("Concat", again, beside, axis=1)))
    plan = planned(b.graph, dtype=dtype) if data.draw(st.booleans()) else plan_of(b, dtype=dtype)
    assert borders(plan)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def residual_chain(batch: int, size: int = 7) -> Builder:
    """Two blocks of padded convolutions whose sums take the memory of their residuals."""
    b = Builder("chain")
    x = clipped(b, conv(b, b.input(integers(np.random.default_rng(3), (batch, 8, size, size))), weights(32, 8, 1, 1)))
    for _ in range(2):
        y = clipped(b, conv(b, x, weights(32, 32, 3, 3), pads=(1,) * 4))
        y = conv(b, y, weights(32, 32, 3, 3), pads=(1,) * 4)
        x = clipped(b, b.add("Add", x, y))
    b.output(conv(b, x, weights(16, 32, 1, 1)))
    return b


@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("off", [(), ("update-in-place",)])
def test_sums_take_the_memory_of_residuals_between_zeros(off: tuple[str, ...]) -> None:
    b = residual_chain(1)
    plan = plan_of(b, switches=Switches(disable=(*APART.disable, *off)))
    assert len(borders(plan)) == 4
    offsets = plan.programs[0].arena.offsets
    values = [
        (launch.problems[0].output.source, operand.source)
        for launch in plan.programs[0].launches
        for operand in launch.problems[0].operands
        if isinstance(operand.source, Value) and operand.source in plan.layouts.placements
    ]
    blocks = [tuple(plan.layouts.placements[value].block for value in pair) for pair in values]
    shared = [
        offsets[target] == offsets[source] for target, source in blocks if target in offsets and source in offsets
    ]
    assert any(shared) == (not off)
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


@pytest.mark.usefixtures("interpreters")
def test_every_kernel_by_itself() -> None:
    b = residual_chain(2)
    plan = plan_of(b, switches=Switches())
    network = CompiledNetwork(compile_plan(plan))
    checks = list(check_kernels(plan, network, "interpreter", b.inputs))
    assert borders(plan) and all(check.ok and not check.overwrites for check in checks)


@pytest.mark.usefixtures("interpreters")
def test_parts_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of one part alone have their own margin; in others a part's margin is the end of the part before."""
    monkeypatch.setattr("convc.passes.slices.MARGIN", -1e9)
    b = residual_chain(4)
    plan = plan_of(b, policy=Taking(RULE, SLICES), switches=Switches())
    (stage,) = [entry for entry in plan.programs[0].schedule if isinstance(entry, Stage)]
    kept = [plan.layouts.blocks[block] for block in stage.kept]
    assert any(block.margin for block in kept)
    for block in kept:
        assert (block.nbytes - block.margin) % stage.parts == 0
        assert block.part_bytes(stage.parts) == block.margin + (block.nbytes - block.margin) // stage.parts
    images = {p.output.border.images for launch in stage.launches for p in launch.problems if p.output.border}
    assert images == {4 // stage.parts}
    same(run_planned(plan, b.inputs), evaluate(b.graph, b.inputs))


def reasons(plan: Plan) -> list[str]:
    return [decline.reason for decline in plan.layouts.declines if decline.rule == RULE]


def reader(b: Builder, x: Value, **attributes: Any) -> Value:
    channels = shape_of(b, x)[1] // attributes.get("groups", 1)
    return b.output(b.add("Abs", conv(b, x, weights(32, channels, 3, 3), **{"pads": (1,) * 4, **attributes})))


def test_where_there_are_no_zeros_and_why() -> None:
    narrow = Builder()
    reader(narrow, inside(narrow, 1, 24, 5, 5))
    assert reasons(plan_of(narrow)) == ["24 channels: a border is for 32 or more that fill 16 bytes each"]

    odd = Builder()
    reader(odd, inside(odd, 1, 36, 5, 5))
    assert reasons(plan_of(odd)) == ["36 channels: a border is for 32 or more that fill 16 bytes each"]
    assert borders(plan_of(odd, dtype="fp32")), "36 of four bytes each fill 9 vectors"

    viewed = Builder()
    x = inside(viewed, 1, 32, 5, 5)
    reader(viewed, x)
    viewed.output(viewed.add("Abs", viewed.add("Reshape", x, shape=(1, 800))))
    assert reasons(plan_of(viewed)) == ["a Reshape reads it in its own order"]

    joined = Builder()
    reader(joined, joined.add("Concat", inside(joined, 1, 16, 5, 5), inside(joined, 1, 16, 5, 5), axis=1))
    assert reasons(plan_of(joined)) == ["it lies in a concatenation, or in another order"]

    pooled = Builder()
    x = clipped(pooled, conv(pooled, inside(pooled, 1, 32, 5, 5), weights(32, 32, 1, 1)))
    reader(pooled, x)
    pooled.output(pooled.add("ReduceMean", x, axes=(2, 3), keepdims=True))
    assert reasons(plan_of(pooled, policy=Taking(RULE, "global-pool-epilogue"))) == ["its kernel pools what it stores"]

    leaving = Builder()
    reader(leaving, leaving.output(inside(leaving, 1, 32, 5, 5)))
    assert reasons(plan_of(leaving)) == ["it is a graph output"]

    refused = Builder()
    reader(refused, inside(refused, 1, 32, 5, 5))
    assert reasons(plan_of(refused, policy="never")) == ["the policy declines all choices"]
    costly = Builder()
    reader(costly, costly.add("MaxPool", inside(costly, 1, 128, 56, 56), **{**POOL, "strides": (1, 1)}), strides=(2, 2))
    assert reasons(plan_of(costly, "sm_90", policy="cost-model"))[0].endswith("us on sm_90")
    assert not borders(plan_of(refused, switches=Switches(disable=(RULE,))))


def test_who_asks_for_no_zeros() -> None:
    """Convolutions without padding, grouped ones, those that compute their operand or read a graph input."""
    for attributes in ({"pads": (0,) * 4}, {"groups": 2}):
        b = Builder()
        reader(b, inside(b, 1, 64, 5, 5), **attributes)
        assert not borders(plan_of(b)) and not reasons(plan_of(b))
    b = Builder()
    reader(b, b.input(weights(1, 32, 5, 5)))
    assert not borders(plan_of(b)) and not reasons(plan_of(b))
    b = Builder()
    reader(b, inside(b, 1, 32, 5, 5))
    assert not borders(plan_of(b, policy=Taking(RULE, "conv-prologue"))), "the convolution computes what it reads"


def test_readers_that_need_fewer_zeros_share_them() -> None:
    b = Builder()
    x = inside(b, 1, 32, 9, 8)
    for attributes in ({"dilations": (3, 1), "pads": (3, 1, 3, 1)}, {"pads": (0, 0, 1, 2)}):
        reader(b, x, **attributes)
    (border,) = borders(plan_of(b))
    assert border == Border(images=1, height=9, width=8, lines=3, columns=2, channels=32)
    assert border.strides == (12 * 10 * 32, 1, 10 * 32, 32)
    assert (border.margin, border.pixels, border.zeros) == (32, 32 + 120, 32 + 120 - 72)


def test_code_without_masks(tmp_path: Path) -> None:
    """Compiled for both GPUs: no spills, and loops of the same products with fewer instructions."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    b = Builder()
    reader(b, inside(b, 1, 128, 28, 28))
    lengths = []
    for off in ((), (RULE,)):
        plan = plan_of(b, "sm_80", "sm_90", switches=Switches(disable=(*APART.disable, "descriptors", *off)))
        assert any("inside" in text.source for text in plan.programs[1].kernels.values()) == bool(off)
        subjects = examine_artifact(compile_plan(plan, KernelCache(tmp_path)))
        assert all(subject.binary.spill_bytes == 0 for subject in subjects)
        loops = [s.code.main_loop for s in subjects if s.spec.name.startswith("conv3x3")]
        lengths.append([loop.ratio for loop in loops if loop is not None])
    assert len(lengths[0]) == 2 and all(without < masked for without, masked in zip(*lengths, strict=True))
