"""`explain`, `verify --per-kernel` and `bisect` from the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_support import Run

from convc import errors
from convc.analysis.models import Choices, make_plan
from convc.codegen.emit import EmittedKernel, emit

EDGE = {"source", "target", "fused", "kernel", "rule", "reason"}
KERNEL = {"launch", "kernel", "origins", "max_abs", "rel_l2", "bound", "ok"}
FIRST = {"launch", "kernel", "origins", "rules", "max_abs", "bound"}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel of lenet5's second convolution forgets its bias."""

    def emit_wrong(problem: Any, *rest: Any) -> EmittedKernel:
        kernel = emit(problem, *rest)
        if problem.macs != 10 * 10 * 16 * 25 * 6:
            return kernel
        assert "acc + bias_tile" in kernel.source
        return replace(kernel, source=kernel.source.replace("acc + bias_tile", "acc"))

    monkeypatch.setattr("convc.planner.emit", emit_wrong)


class TestExplain:
    def test_json(self, run: Run) -> None:
        report = run("explain", "zoo:lenet5", "--json").json
        plan = make_plan("zoo:lenet5", Choices(), "sm_90", "fp16")
        kernels = {launch.kernel.name for launch in plan.programs[0].launches}
        assert len(report["edges"]) == sum((*report["fused"].values(), *report["not_fused"].values()))
        for edge in report["edges"]:
            assert edge.keys() >= EDGE
            assert edge["kernel"] in kernels if edge["fused"] else edge["reason"] and edge["kernel"] is None
        assert ("C1", "tanh1") in {(edge["source"], edge["target"]) for edge in report["edges"] if edge["fused"]}

    def test_text_puts_what_was_not_fused_first(self, run: Run) -> None:
        out = run("explain", "zoo:squeezenet1_1").out
        assert out.index("NOT FUSED") < out.index("a graph input") < out.index("\nFUSED") < out.index("concat-in-place")
        assert out.splitlines()[-1].startswith(
            f"{len(run('explain', 'zoo:squeezenet1_1', '--json').json['edges'])} edges"
        )

    def test_folded_rewrites_are_listed(self, run: Run) -> None:
        out = run("explain", "zoo:resnet18").out
        assert "REWRITTEN BEFORE FUSION: 20 times" in out and "stem.conv, stem.bn" in out

    def test_zeros_around_tensors_are_listed(self, run: Run) -> None:
        report = run("explain", "zoo:squeezenet1_1", "--json").json["zero_borders"]
        reasons = {entry["tensor"]: entry["reason"] for entry in report}
        assert reasons["relu2"] == "16 channels: a border is for 32 or more that fill 16 bytes each"
        assert {(entry["lines"], entry["columns"]) for entry in report if entry["reason"] is None} == {(1, 1)}
        out = run("explain", "zoo:squeezenet1_1").out
        assert "ZEROS AROUND" in out and "1 x 1" in out and reasons["relu2"] in out
        assert run("explain", "zoo:squeezenet1_1", "--disable", "zero-borders", "--json").json["zero_borders"] == []

    def test_switches(self, run: Run) -> None:
        report = run("explain", "zoo:lenet5", "--opt", "none", "--json").json
        assert report["fused"] == {}
        assert "the rule is switched off: it runs from --opt fuse" in report["not_fused"]

    def test_a_compiled_network_is_refused(self, run: Run, artifact: Path) -> None:
        from click.testing import CliRunner

        from convc.cli import main

        for command in (["explain"], ["bisect"], ["verify", "--per-kernel"]):
            ran = CliRunner().invoke(main, [*command, str(artifact)])
            assert ran.exit_code == 2 and "give the model that it was compiled from" in ran.stderr


APART = ("--disable", "last-block,sibling-convolutions,conv-pool,softmax-epilogue")
"""Every kernel in a launch of its own."""


class TestPerKernel:
    def test_json(self, run: Run, interpreters: None) -> None:
        ran = run(
            "verify", "zoo:lenet5", *APART, "--per-kernel", "--device", "interpreter", "--dtype", "fp16", "--json"
        )
        assert (ran.status, ran.json["ok"]) == (0, True)
        assert [kernel["launch"] for kernel in ran.json["kernels"]] == list(range(8))
        for kernel in ran.json["kernels"]:
            assert kernel.keys() >= KERNEL
            assert kernel["ok"] and 0 < kernel["max_abs"] <= kernel["bound"]

    def test_a_wrong_kernel(self, run: Run, interpreters: None, broken: None) -> None:
        words = ("verify", "zoo:lenet5", *APART, "--per-kernel", "--device", "interpreter")
        ran = run(*words, "--json")
        wrong = [kernel["origins"] for kernel in ran.json["kernels"] if not kernel["ok"]]
        assert (ran.status, ran.json["ok"], wrong) == (1, False, [["C3", "tanh2"]])
        assert "8 kernels against float64: 1 DEPART" in run(*words).out

    def test_numpy_is_the_default_device(self, run: Run) -> None:
        ran = run("verify", "zoo:lenet5", *APART, "--per-kernel")
        assert ran.status == 0 and "8 kernels against float64: all of them agree" in ran.out

    def test_without_the_option_there_are_no_kernels(self, run: Run) -> None:
        assert "kernels" not in run("verify", "zoo:lenet5", "--json").json


class TestBisect:
    def test_nothing_departs(self, run: Run, interpreters: None) -> None:
        ran = run("bisect", "zoo:lenet5", *APART, "--json")
        assert (ran.status, ran.json["ok"], ran.json["first"], ran.json["checked"]) == (0, True, None, 8)
        assert "all 8 launches agree" in run("bisect", "zoo:lenet5", *APART).out

    def test_launches_are_counted_and_not_results(self, run: Run) -> None:
        """The kernels that one launch runs are compared each by itself."""
        found = run("bisect", "zoo:lenet5", "--device", "numpy", "--json").json
        kernels = run("verify", "zoo:lenet5", "--device", "numpy", "--per-kernel", "--json").json["kernels"]
        assert len(kernels) > found["launches"] == found["checked"]

    def test_the_first_wrong_kernel(self, run: Run, interpreters: None, broken: None) -> None:
        ran = run("bisect", "zoo:lenet5", *APART, "--json")
        first = ran.json["first"]
        assert (ran.status, ran.json["ok"], ran.json["checked"]) == (1, False, 3)
        assert first.keys() >= FIRST
        assert (first["launch"], first["origins"], first["rules"]) == (2, ["C3", "tanh2"], ["conv-epilogue"])
        assert first["max_abs"] > first["bound"]
        out = run("bisect", "zoo:lenet5", *APART).out
        assert "launch 2 of 8" in out and "C3, tanh2" in out

    def test_an_executor_that_shows_nothing_between_launches_is_refused(self) -> None:
        from convc.analysis.kernel_check import check_kernels
        from convc.api import compile, plan
        from convc.runtime.numpy_executor import NumpyExecutor

        made = plan("zoo:lenet5", "interpreter", "fp32")
        with pytest.raises(errors.DeviceError, match="one by one on NumpyExecutor"):
            next(check_kernels(made, compile("zoo:lenet5", "interpreter", "fp32"), NumpyExecutor(), {}))
