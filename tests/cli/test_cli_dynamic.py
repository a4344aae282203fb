"""`--batch dynamic` on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_support import Run, save_model
from onnx import helper

import convc


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="over_the_batch", axis=0)]
    return save_model(tmp_path / "mixed.onnx", nodes, ["N", 3])


def images(tmp_path: Path, count: int) -> str:
    np.save(tmp_path / "x.npy", np.arange(3 * count, dtype=np.float32).reshape(count, 3) - 4)
    return f"x={tmp_path / 'x.npy'}"


def test_compile_and_run_with_fewer(run: Run, relu: Path, tmp_path: Path, interpreters: None) -> None:
    compiled = tmp_path / "relu.convc"
    options = ("--batch", "dynamic", "--max-batch", 4, "--target", "interpreter")
    ran = run("compile", relu, "-o", compiled, *options, "--json")
    assert (ran.status, ran.json["batch"], ran.json["max_batch"]) == (0, "dynamic", 4), ran.err
    assert convc.load(compiled).inputs[0].shape == (4, 3)
    for count in (1, 3, 4):
        ran = run("run", compiled, "--device", "interpreter", "--input", images(tmp_path, count), "--json")
        assert (ran.status, ran.json["outputs"]["y"]["shape"]) == (0, [count, 3]), ran.err
    ran = run("run", compiled, "--device", "interpreter", "--input", images(tmp_path, 5))
    assert ran.status == 2 and "a batch N of 1 to 4, found [5, 3]" in ran.err


def test_the_largest_batch_where_none_is_given(run: Run, relu: Path, tmp_path: Path) -> None:
    ran = run("compile", relu, "-o", tmp_path / "r.convc", "--batch", "dynamic", "--target", "interpreter")
    assert ran.status == 0 and "batches of 1 to 32" in ran.out


def test_run_a_model_at_once(run: Run, relu: Path, tmp_path: Path) -> None:
    options = ("--batch", "dynamic", "--max-batch", 3, "--device", "numpy", "--json")
    assert run("run", relu, *options).json["outputs"]["y"]["shape"] == [3, 3]
    ran = run("run", relu, *options, "--input", images(tmp_path, 2), "--batches", 2)
    assert ran.json["outputs"]["y"]["shape"] == [2, 3] and ran.json["images"] == 4


@pytest.mark.parametrize("command", ["verify", "explain", "kernels", "show"])
def test_other_commands_work_on_the_largest(run: Run, relu: Path, command: str) -> None:
    pytest.importorskip("onnxruntime", reason="verify compares with ONNX Runtime")
    target = () if command == "verify" else ("--target", "interpreter")
    ran = run(command, relu, "--batch", "dynamic", "--max-batch", 2, "--json", *target)
    assert ran.status == 0, ran.err


@pytest.mark.parametrize("command", ["summary", "ablate", "bench", "tune"])
def test_commands_that_need_one_number(run: Run, relu: Path, command: str) -> None:
    ran = run(command, relu, "--batch", "dynamic")
    assert ran.status == 2 and "dynamic" in ran.err and len(ran.err.splitlines()) == 1


def test_what_mixes_images_is_named(run: Run, mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is compiled for each batch when it is run."""
    path = tmp_path / "m.convc"
    with caplog.at_level("WARNING", "convc"):
        ran = run(
            "compile", mixed, "-o", path, "--batch", "dynamic", "--max-batch", 3, "--target", "interpreter", "--json"
        )
    assert ran.status == 0 and ran.json["open"] == ["N"] and ran.json["max_batch"] == 3
    ran = run("run", path, "--device", "numpy", "--input", images(tmp_path, 2), "--json")
    assert (ran.status, ran.json["outputs"]["y"]["shape"]) == (0, [2, 3]), ran.err
    assert run("run", path, "--device", "numpy", "--input", images(tmp_path, 4)).status == 2
    ran = run("explain", mixed, "--batch", "dynamic", "--json")
    assert ran.status == 2 and ran.json["error"]["node"] == "over_the_batch"


@pytest.mark.parametrize("words", [("--max-batch", 4), ("--batch", 2, "--max-batch", 4)])
def test_a_maximum_needs_a_dynamic_batch(run: Run, relu: Path, words: tuple[object, ...]) -> None:
    ran = run("run", relu, "--device", "numpy", *words)
    assert ran.status == 2 and "--max-batch 4 goes with --batch dynamic" in ran.err


def test_options_are_refused_for_a_compiled_network(run: Run, artifact: Path) -> None:
    ran = run("run", artifact, "--device", "numpy", "--max-batch", 4)
    assert ran.status == 2 and "--max-batch does not apply" in ran.err


class TestOpenSizes:
    @pytest.fixture
    def wide(self, tmp_path: Path) -> Path:
        return save_model(tmp_path / "wide.onnx", [helper.make_node("Relu", ["x"], ["y"], name="r")], ["N", 3, "wide"])

    def given(self, tmp_path: Path, *shape: int) -> str:
        np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
        return f"x={tmp_path / 'x.npy'}"

    def test_compiled_and_run_with_arrays(self, run: Run, wide: Path, tmp_path: Path) -> None:
        path = tmp_path / "wide.convc"
        ran = run("compile", wide, "-o", path, "--target", "interpreter", "--json")
        assert ran.status == 0 and ran.json["open"] == ["wide"] and ran.json["kernels"] == 0, ran.err
        assert "compiled for each wide" in run("compile", wide, "-o", path, "--target", "interpreter").out
        for size in (4, 7):
            ran = run("run", path, "--device", "numpy", "--input", self.given(tmp_path, 1, 3, size), "--json")
            assert (ran.status, ran.json["outputs"]["y"]["shape"]) == (0, [1, 3, size]), ran.err

    def test_launches_of_a_run_with_arrays(self, run: Run, wide: Path, tmp_path: Path) -> None:
        words = ("--device", "interpreter", "--profile", "--json", "--input", self.given(tmp_path, 1, 3, 6))
        ran = run("run", wide, *words)
        assert (ran.status, [launch["origins"] for launch in ran.json["profile"]]) == (0, [["r"]]), ran.err
        assert ran.json["device"] == "interpreter"
        ran = run("run", wide, "--device", "numpy", "--input", self.given(tmp_path, 1, 3))
        assert ran.status == 2 and "'x': expected" in ran.err

    def test_run_needs_arrays_or_numbers(self, run: Run, wide: Path, tmp_path: Path) -> None:
        ran = run("run", wide, "--device", "numpy")
        assert ran.status == 2 and "sizes of input 'x' are open" in ran.err and "--dims" in ran.err
        ran = run("run", wide, "--device", "numpy", "--dims", "wide=5", "--json")
        assert ran.json["outputs"]["y"]["shape"] == [1, 3, 5]
        ran = run("run", wide, "--device", "numpy", "--input", self.given(tmp_path, 1, 3, 6), "--json")
        assert ran.json["outputs"]["y"]["shape"] == [1, 3, 6]

    @pytest.mark.parametrize("command", ["verify", "summary", "explain", "show", "kernels", "ablate", "bench"])
    def test_numbers_for_other_commands(self, run: Run, wide: Path, command: str) -> None:
        pytest.importorskip("onnxruntime", reason="verify compares with ONNX Runtime")
        device = ("--device", "numpy") if command == "bench" else ()
        ran = run(command, wide, "--json", "--dims", "wide=5", *device)
        assert ran.status == 0, ran.err
        ran = run(command, wide)
        assert ran.status == 2 and "--dims wide=224" in ran.err

    def test_numbers_when_compiling(self, run: Run, wide: Path, tmp_path: Path) -> None:
        words = ("compile", wide, "-o", tmp_path / "w.convc", "--target", "interpreter", "--dims", "wide=5")
        assert run(*words, "--batch", "dynamic", "--max-batch", 2, "--json").json["max_batch"] == 2
        assert convc.load(tmp_path / "w.convc").inputs[0].shape == (2, 3, 5)

    @pytest.mark.parametrize("text", ["wide", "wide=", "wide=0", "wide=x", "=5", "wide=5,"])
    def test_dims_of_another_form(self, run: Run, wide: Path, text: str) -> None:
        ran = run("run", wide, "--device", "numpy", "--dims", text)
        assert ran.status == 2 and "--dims takes NAME=SIZE" in ran.err

    def test_names_that_the_model_lacks(self, run: Run, wide: Path) -> None:
        ran = run("run", wide, "--device", "numpy", "--dims", "high=4")
        assert ran.status == 2 and "high" in ran.err

    @pytest.mark.parametrize("command", ["verify", "summary", "show", "kernels", "bench"])
    def test_nothing_to_see_in_what_is_not_compiled(self, run: Run, wide: Path, tmp_path: Path, command: str) -> None:
        path = tmp_path / "wide.convc"
        assert run("compile", wide, "-o", path).status == 0
        ran = run(command, path)
        assert ran.status == 2 and "holds nothing compiled" in ran.err
