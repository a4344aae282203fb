"""`convc bench`: rows side by side, and what is said about times that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_support import Run

import convc
from convc.analysis.figures import planned, roofline_us
from convc.targets import target

KEYS = {"opt", "batch", "dtype", "device", "median_us", "p10_us", "p90_us", "roofline_fraction"}


def test_one_row_for_each_combination(run: Run) -> None:
    words = ("--opt", "none,fold,fuse", "--dtype", "fp16,fp32", "--device", "numpy", "--repeats", 2)
    report = run("bench", "zoo:lenet5", *words, "--json").json
    combinations = [(row["dtype"], row["opt"]) for row in report["rows"]]
    assert combinations == [(dtype, opt) for dtype in ("fp16", "fp32") for opt in ("none", "fold", "fuse")]
    for row in report["rows"]:
        assert row.keys() >= KEYS
        assert 0 < row["p10_us"] <= row["median_us"] <= row["p90_us"]
        # Not a GPU: no fraction and no speed-up of these times.
        assert row["roofline_fraction"] is None and row["speedup"] is None
        plan = convc.plan("zoo:lenet5", opt=row["opt"], dtype=row["dtype"])
        assert row["predicted_us"] == pytest.approx(plan.programs[0].predicted_us, abs=1e-3)
    first, _, last = report["rows"][:3]
    assert first["predicted_speedup"] == 1
    assert last["predicted_speedup"] == pytest.approx(first["predicted_us"] / last["predicted_us"])


def test_interpreter_says_that_its_times_mean_nothing(run: Run, interpreters: None) -> None:
    ran = run("bench", "zoo:lenet5", "--device", "interpreter", "--repeats", 1)
    assert ran.status == 0, ran.err
    assert "say nothing about a GPU" in ran.out and "interpreter median" in ran.out and "predicted" in ran.out


def test_per_kernel_rows_add_up(run: Run) -> None:
    words = ("--device", "numpy", "--repeats", 1, "--per-kernel", "--target", "sm_80")
    row = run("bench", "zoo:resnet20", *words, "--json").json["rows"][0]
    plan = convc.plan("zoo:resnet20", target="sm_80")
    launches = planned(plan, plan.programs[0])
    assert [kernel["kernel"] for kernel in row["kernels"]] == [launch.kernel for launch in launches]
    assert all(kernel["measured_us"] is None for kernel in row["kernels"])
    least = sum(roofline_us(launch, target("sm_80"), "fp16") for launch in launches)
    assert sum(kernel["roofline_us"] for kernel in row["kernels"]) == pytest.approx(least)
    assert row["predicted_roofline_fraction"] == pytest.approx(least / row["predicted_us"])
    assert "conv" in run("bench", "zoo:resnet20", *words).out


def test_batches_and_a_compiled_network(run: Run, artifact: Path, relu: Path) -> None:
    rows = run("bench", relu, "--batch", "1,4", "--device", "numpy", "--repeats", 1, "--json").json["rows"]
    assert [row["batch"] for row in rows] == [1, 4]
    row = run("bench", artifact, "--device", "numpy", "--repeats", 1, "--json").json["rows"][0]
    assert (row["opt"], row["dtype"], row["batch"]) == ("fuse", "fp32", 1)
    # It was compiled for the interpreter alone: there is nothing to predict for a GPU.
    assert row["predicted_us"] is None and row["target"] is None
    assert run("bench", artifact, "--opt", "none").status == 2


def test_unusable_input(run: Run) -> None:
    for words in (
        ("--opt", "fastest"),
        ("--dtype", "fp8"),
        ("--batch", "0"),
        ("--device", "tpu"),
        ("--target", "sm_1"),
    ):
        ran = run("bench", "zoo:lenet5", *words)
        assert ran.status == 2 and ran.err.count("\n") == 1, words


def test_a_batch_that_is_none_is_told_by_its_option(run: Run, tmp_path: Path) -> None:
    for words, said in (
        (("bench", "zoo:lenet5", "--batch", "1,dynamic"), "--batch takes a whole number of 1 or more, found 'dynamic'"),
        (("run", "zoo:lenet5", "--batch", "0"), "--batch takes a whole number of 1 or more, or dynamic, found '0'"),
        (
            ("run", "zoo:lenet5", "--batch", "dynamic", "--max-batch", "0"),
            "--max-batch takes a whole number of 1 or more, found '0'",
        ),
        (
            ("zoo", "export", "lenet5", "-o", tmp_path / "m.onnx", "--batch", "a b"),
            "--batch takes a whole number of 1 or more, or a name, found 'a b'",
        ),
    ):
        ran = run(*words)
        assert (ran.status, ran.err) == (2, f"convc: error: {said}\n")
