"""The memory plan: nothing that lives at the same time overlaps, and hardly anything is wasted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convc.frontends import zoo
from convc.ir import Value
from convc.passes import Switches
from convc.passes.memory import ALIGNMENT, Interval, _arrange
from convc.planner import Options, Plan, TargetPlan, make_plan

intervals = st.lists(
    st.tuples(st.integers(1, 64), st.integers(0, 20), st.integers(0, 6)),
    max_size=30,
).map(lambda drawn: [Interval(i, size * ALIGNMENT, first, first + n) for i, (size, first, n) in enumerate(drawn)])


@settings(max_examples=200, derandomize=True, deadline=None)
@given(intervals)
def test_live_blocks_never_overlap(blocks: list[Interval]) -> None:
    arena = _arrange(blocks)
    assert sorted(arena.offsets) == sorted(block.block for block in blocks)
    for i, a in enumerate(blocks):
        start = arena.offsets[a.block]
        assert start % ALIGNMENT == 0 and start >= 0 and start + a.nbytes <= arena.nbytes
        for b in blocks[:i]:
            if a.first <= b.last and b.first <= a.last:
                other = arena.offsets[b.block]
                assert start + a.nbytes <= other or other + b.nbytes <= start
    loads = [sum(b.nbytes for b in blocks if b.first <= moment <= b.last) for moment in range(30)]
    assert arena.lower_bound == max(loads) and arena.nbytes >= arena.lower_bound


def live_ranges(plan: Plan, program: TargetPlan) -> dict[int, tuple[int, int]]:
    """First and last launch that touch each arena block, read off the launches themselves."""
    ranges: dict[int, tuple[int, int]] = {}
    for number, launch in enumerate(program.launches):
        for operand in (o for problem in launch.problems for o in (*problem.reads, *problem.stores)):
            if isinstance(operand.source, Value):
                block = plan.layouts.placements[operand.source].block
                if plan.layouts.blocks[block].buffer == "arena":
                    ranges[block] = (ranges.get(block, (number, 0))[0], number)
        if launch.kernel.workspace_bytes:
            ranges[-1 - number] = (number, number)
    return ranges


def overlaps(plan: Plan, program: TargetPlan) -> list[tuple[int, int, int]]:
    """Pairs of blocks that share bytes, and the launch where both are in use."""
    ranges, offsets = live_ranges(plan, program), program.arena.offsets
    sizes = {
        b: plan.layouts.blocks[b].nbytes if b >= 0 else program.launches[-1 - b].kernel.workspace_bytes for b in ranges
    }
    found = []
    for a, (first, last) in ranges.items():
        for b, (begin, end) in ranges.items():
            apart = offsets[a] + sizes[a] <= offsets[b] or offsets[b] + sizes[b] <= offsets[a]
            if a < b and not apart and first <= end and begin <= last:
                found.append((a, b, max(first, begin)))
    return found


def planned(name: str, *disable: str) -> Plan:
    network = zoo.build(name, weights="none")
    switches = Switches.parse("fuse", disable)
    return make_plan(network.graph, Options(("sm_90",), "fp16", switches=switches))


@pytest.mark.parametrize("name", ["resnet20", "squeezenet1_1", "googlenet"])
def test_networks_share_bytes_only_where_a_result_replaces_its_operand(name: str) -> None:
    plan = planned(name, "update-in-place")
    assert overlaps(plan, plan.programs[0]) == []
    plan = planned(name)
    for a, b, launch in overlaps(plan, plan.programs[0]):
        problems = plan.programs[0].launches[launch].problems
        placed = plan.layouts.placements
        read = {placed[o.source].block for p in problems for o in p.operands if isinstance(o.source, Value)}
        written = {placed[o.source].block for problem in problems for o in problem.stores}
        assert {a, b} & written and {a, b} & read, "an operand dies where the result is written"


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "resnet50", "googlenet", "squeezenet1_0", "mobilenet_v2"])
def test_the_arena_is_close_to_its_lower_bound(name: str) -> None:
    """Exactly the bound, as a rule; googlenet, with sums of reductions split many ways beside tensors that outlive
    them, takes 6.2 % more, and mobilenet_v2, for the same reason, 256 bytes."""
    arena = planned(name).programs[0].arena
    most = {"googlenet": 1.065, "mobilenet_v2": 1.0002}.get(name, 1.0)
    assert arena.lower_bound <= arena.nbytes <= most * arena.lower_bound
