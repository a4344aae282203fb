"""Operations, bytes and the roofline, against values worked out by hand, and the fusion report."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

import convc
from bench import fusion_report
from bench.markdown import marks
from convc import nn
from convc.analysis.figures import Launch, asked_bytes, loop_bytes, operations, peak_flops, planned, roofline_us
from convc.targets import TARGETS, target

ROOT = Path(__file__).parents[2]


def small() -> nn.Network:
    net = nn.Network("small")
    x = net.input(16, 8, 8)
    net.output(x.conv(32, 3, padding=1).relu().max_pool(2))
    return net


def test_operations_of_a_convolution_and_a_pooling() -> None:
    program = convc.plan(small(), opt="fold").programs[0]
    by_family = {problem.family: operations(problem) for problem in program.problems}
    macs = 32 * 8 * 8 * 16 * 9
    bias = 32 * 8 * 8
    assert by_family["contraction"] in (2 * macs, 2 * macs + bias)
    pooled = [problem for problem in program.problems if "max" in problem.mode]
    assert [operations(problem) for problem in pooled] == [32 * 4 * 4 * 4]


def test_loads_ask_for_at_least_every_byte_once() -> None:
    for name in ("squeezenet1_1", "mobilenet_v2", "resnet18"):
        for opt in ("none", "fuse"):
            program = convc.plan(convc.zoo.build(name, weights="none").graph, opt=opt).programs[0]
            for launch in program.launches:
                if all(getattr(problem, "x", None) is not None for problem in launch.problems):
                    assert asked_bytes(launch) >= sum(map(loop_bytes, launch.problems)), (name, launch.kernel.name)


def test_roofline_is_the_slower_of_arithmetic_and_memory() -> None:
    machine = target("sm_90")
    heavy, wide = Launch("k", (), 10**12, 1, 1.0), Launch("k", (), 1, 10**12, 1.0)
    assert roofline_us(heavy, machine, "fp16") == pytest.approx(2e12 / 790e12 * 1e6)
    assert roofline_us(wide, machine, "fp16") == pytest.approx(1e12 / 4.3e12 * 1e6)
    assert peak_flops(machine, "fp32") == machine.fp32_flops < peak_flops(machine, "tf32") < peak_flops(machine, "fp16")


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "interpreter"])
def test_no_prediction_beats_the_roofline(name: str) -> None:
    plan = convc.plan(convc.zoo.build("resnet18", weights="none").graph, target=name)
    for launch in planned(plan, plan.programs[0]):
        assert launch.predicted_us >= roofline_us(launch, target(name), "fp16"), launch.kernel


class TestFusionReport:
    goals = json.loads((ROOT / "bench" / "fusion_targets.json").read_text())["networks"]

    def test_counts_are_the_plan_s(self) -> None:
        goal = next(goal for goal in self.goals if goal["name"] == "squeezenet1_1")
        row = fusion_report.measured(goal)
        program = convc.plan(convc.zoo.build("squeezenet1_1", weights="none").graph).programs[0]
        assert row["fused"]["launches"] == len(program.launches) <= row["unfused"]["launches"]
        assert row["fused"]["megabytes"] == (program.traffic.activations + program.traffic.weights) / 1e6
        # No plan moves less than weights, input and output; the limits were worked out apart from convc.
        assert row["fused"]["megabytes"] >= row["limits"]["least"]
        assert row["met"] == {
            "kernels": row["fused"]["launches"] <= goal["kernels"],
            "megabytes": row["fused"]["megabytes"] <= goal["megabytes"],
        }
        assert len(fusion_report.markdown([row]).splitlines()) == 3

    def test_limits_are_those_of_the_layer_lists(self) -> None:
        path = ROOT.parent / "shared" / "performance" / "limits.py"
        if not path.exists():
            pytest.skip("the layer lists are not beside this checkout")
        lists = runpy.run_path(str(path))
        found = {net.name: lists["stats"](net, 1) for net in (make() for make in lists["NETS"])}
        for goal in self.goals:
            stats, limits = found[goal["name"]], goal["limits"]
            assert (stats["nops"], stats["nk"]) == (limits["operators"], limits["kernels_fused"])
            for key, own in (("unf", "unfused"), ("fus", "fused"), ("mn", "least")):
                assert round(stats[key] / 1e6, 1) == limits[own], (goal["name"], own)

    def test_the_readme_has_its_marks_once(self) -> None:
        text = (ROOT / "README.md").read_text()
        for mark in marks(fusion_report.PART):
            assert len(re.findall(re.escape(mark), text)) == 1
