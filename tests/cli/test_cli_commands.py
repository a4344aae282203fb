"""What each command does and prints, and the keys of its JSON."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_support import Run, save_model
from onnx import helper

import convc


def typed(value: object, expected: dict[str, type | tuple[type, ...]]) -> None:
    """The keys are there with these types (a bool is no int here)."""
    assert isinstance(value, dict)
    for key, kind in expected.items():
        assert isinstance(value[key], kind), (key, value[key])
        assert kind is bool or not isinstance(value[key], bool), key


COMPILED = dict.fromkeys(("kernels", "launches", "arena_bytes", "arena_lower_bound", "weight_bytes"), int)
FIGURES = ("registers", "shared_bytes", "spill_bytes", "tensor_core_instructions")


class TestCompile:
    def test_json_holds_what_the_artifact_holds(self, gpu_artifact: tuple[Path, dict]) -> None:
        path, report = gpu_artifact
        typed(report, {**COMPILED, "traffic_bytes": int, "seconds": float, "targets": list, "artifact": str})
        network = convc.load(path)
        plan = network.plan
        assert report["targets"] == ["sm_90", "sm_80", "interpreter"]
        assert report["targets"] == [program["target"] for program in report["programs"]]
        assert (report["kernels"], report["launches"]) == (len(plan.kernels), len(plan.launches))
        assert report["arena_bytes"] == plan.arena_bytes >= report["arena_lower_bound"] == plan.arena_lower_bound > 0
        assert report["weight_bytes"] == network.artifact.manifest.weights_bytes
        assert report["traffic_bytes"] == sum(x.activation_bytes + x.weight_bytes for x in plan.launches)
        assert Path(report["artifact"]) == path

    def test_text_names_the_figures(self, run: Run, tmp_path: Path) -> None:
        ran = run("compile", "zoo:lenet5", "-o", tmp_path / "x.convc", "--target", "interpreter")
        assert ran.status == 0
        for word in ("launches", "kernels", "arena", "weights", "traffic", str(tmp_path / "x.convc")):
            assert word in ran.out
        assert ran.err == ""

    def test_rules_are_switched(self, run: Run, tmp_path: Path) -> None:
        def launches(*options: str) -> int:
            fixed = ("-o", tmp_path / "x.convc", "--target", "interpreter", "--json")
            return run("compile", "zoo:lenet5", *fixed, *options).json["launches"]

        fused, unfused = launches(), launches("--opt", "none")
        assert fused < unfused
        assert fused < launches("--disable", "last-block") < unfused
        assert fused < launches("--only", "conv-epilogue") < unfused

    def test_symbolic_batch(self, run: Run, relu: Path, tmp_path: Path) -> None:
        ran = run("compile", relu, "-o", tmp_path / "r.convc", "--batch", 5, "--target", "interpreter", "--json")
        assert ran.json["batch"] == 5
        assert convc.load(tmp_path / "r.convc").inputs[0].shape == (5, 3)

    def test_the_file_is_the_one_of_the_api(self, run: Run, tmp_path: Path) -> None:
        run("compile", "zoo:lenet5", "-o", tmp_path / "a.convc", "--target", "interpreter")
        convc.compile("zoo:lenet5", target="interpreter").save(tmp_path / "b.convc")
        assert (tmp_path / "a.convc").read_bytes() == (tmp_path / "b.convc").read_bytes()


class TestRun:
    def test_model_in_numpy(self, run: Run) -> None:
        report = run("run", "zoo:lenet5", "--device", "numpy", "--json").json
        typed(report, {"device": str, "outputs": dict, "seconds": float})
        assert report["device"] == "numpy"
        typed(report["outputs"]["output"], {"shape": list, "dtype": str})
        assert (report["outputs"]["output"]["shape"], report["outputs"]["output"]["dtype"]) == ([1, 10], "float32")

    def test_arrays_from_and_to_files(self, run: Run, relu: Path, tmp_path: Path) -> None:
        array = np.array([[-1, 2, np.nan], [3, -4, np.inf]], np.float32)
        np.save(tmp_path / "x.npy", array)
        output = tmp_path / "y.npz"
        options = ("--batch", 2, "--dtype", "fp32", "--device", "numpy", "--input", f"x={tmp_path / 'x.npy'}")
        ran = run("run", relu, *options, "--output", output, "--json")
        assert ran.status == 0, ran.err
        with np.load(output) as results:
            np.testing.assert_array_equal(results["y"], np.maximum(array, 0))
        assert ran.json["outputs"]["y"]["max"] is None  # JSON has no NaN
        assert sorted(path.name for path in tmp_path.iterdir()) == ["relu.onnx", "x.npy", "y.npz"]

    def test_names_with_an_equals_sign_and_of_numpys_own_parameters(self, run: Run, tmp_path: Path) -> None:
        model = save_model(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [2])
        proto = onnx.load(model)
        proto.graph.input[0].name = proto.graph.node[0].input[0] = "a=b"
        proto.graph.output[0].name = proto.graph.node[0].output[0] = "file"
        onnx.save(proto, model)
        np.save(tmp_path / "x.npy", np.array([1, -1], np.float32))
        options = ("--device", "numpy", "--input", f"a=b={tmp_path / 'x.npy'}", "--output", tmp_path / "y.npz")
        assert run("run", model, *options).status == 0
        with np.load(tmp_path / "y.npz") as results:
            np.testing.assert_array_equal(results["file"], [1, 0])

    def test_seeds(self, run: Run, artifact: Path) -> None:
        def mean(*options: object) -> float:
            return run("run", artifact, "--device", "numpy", "--json", *options).json["outputs"]["output"]["max"]

        assert mean() == mean("--seed", 0) != mean("--seed", 1)

    def test_artifact_in_the_interpreter_with_a_profile(self, run: Run, artifact: Path, interpreters: None) -> None:
        report = run("run", artifact, "--device", "interpreter", "--profile", "--json").json
        launches = convc.load(artifact).plan.launches
        assert [row["origins"] for row in report["profile"]] == [list(launch.origins) for launch in launches]
        assert all(row["microseconds"] > 0 for row in report["profile"])

    @pytest.mark.parametrize("batches", [1, 3])
    def test_batches(self, run: Run, batches: int) -> None:
        options = ("--device", "numpy", "--batch", 2, "--batches", batches)
        once, many = (run("run", "zoo:lenet5", *which, "--json").json for which in (options[:4], options))
        assert many["batches"] == batches and many["images"] == 2 * batches and many["outputs"] == once["outputs"]
        assert many["images_per_second"] == pytest.approx(many["images"] / many["seconds"])
        assert f"{batches} batches" in run("run", "zoo:lenet5", *options).out

    @pytest.mark.parametrize("count", ["0", "-1", "many"])
    def test_no_such_number_of_batches(self, run: Run, count: str) -> None:
        assert run("run", "zoo:lenet5", "--device", "numpy", "--batches", count).status == 2

    def test_profile_of_the_interpreter_says_what_it_is_not(self, run: Run, artifact: Path, interpreters: None) -> None:
        assert "say nothing about a GPU" in run("run", artifact, "--device", "interpreter", "--profile").out


class TestVerify:
    KEYS = dict.fromkeys(("max_abs", "rel_l2", "bound", "smallest_tolerance"), float)

    def test_model(self, run: Run) -> None:
        ran = run("verify", "zoo:lenet5", "--json")
        typed(ran.json, {"ok": bool, "device": str, "dtype": str, "outputs": list})
        assert (ran.status, ran.json["ok"], ran.json["device"], ran.json["dtype"]) == (0, True, "numpy", "fp32")
        (output,) = ran.json["outputs"]
        typed(output, {"name": str, "ok": bool, **self.KEYS})
        assert 0 < output["max_abs"] <= output["bound"]

    def test_artifact_on_its_kernels(self, run: Run, artifact: Path, interpreters: None) -> None:
        ran = run("verify", artifact, "--device", "interpreter", "--json")
        assert (ran.status, ran.json["device"], ran.json["dtype"]) == (0, "interpreter", "fp32")

    def test_artifact_in_half_precision(self, run: Run, gpu_artifact: tuple[Path, dict]) -> None:
        ran = run("verify", gpu_artifact[0], "--json")
        assert (ran.status, ran.json["ok"], ran.json["dtype"]) == (0, True, "fp16")

    def test_symbolic_batch_of_the_users_file(self, run: Run, relu: Path) -> None:
        assert run("verify", relu, "--batch", 3, "--seed", 7).status == 0

    def test_a_wrong_result_gives_status_1(self, run: Run, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from convc.runtime.numpy_executor import GraphRunner

        right = GraphRunner.run
        monkeypatch.setattr(GraphRunner, "run", lambda self, inputs: [array + 1 for array in right(self, inputs)])
        ran = run("verify", artifact, "--json")
        assert (ran.status, ran.json["ok"], ran.json["outputs"][0]["ok"], ran.err) == (1, False, False, "")
        assert "DEPARTS" in run("verify", artifact).out


class TestKernels:
    def test_json(self, run: Run, gpu_artifact: tuple[Path, dict]) -> None:
        kernels = run("kernels", gpu_artifact[0], "--json").json["kernels"]
        names = {kernel.name for program in convc.load(gpu_artifact[0]).programs for kernel in program.kernels}
        assert {kernel["name"] for kernel in kernels} == names
        for kernel in kernels:
            typed(kernel, {"name": str, "origins": list, "rules": list, "source": str, "targets": dict})
            assert f"def {kernel['name']}(" in kernel["source"] and kernel["origins"]
            for figures in kernel["targets"].values():
                typed(figures, dict.fromkeys(FIGURES, int))
        compiled = [kernel["targets"]["sm_90"] for kernel in kernels if "sm_90" in kernel["targets"]]
        assert compiled and all(figures["registers"] > 0 for figures in compiled)
        assert any(figures["tensor_core_instructions"] for figures in compiled)

    def test_lint_checks_what_is_listed(self, run: Run, gpu_artifact: tuple[Path, dict]) -> None:
        ran = run("kernels", gpu_artifact[0], "--lint", "--json")
        assert (ran.status, ran.json["ok"], ran.json["findings"]) == (0, True, [])
        plain = run("kernels", gpu_artifact[0], "--json").json["kernels"]
        for kernel, listed in zip(ran.json["kernels"], plain, strict=True):
            assert {key: kernel[key] for key in listed if key != "targets"} == {
                key: listed[key] for key in listed if key != "targets"
            }
            assert kernel["targets"].keys() == listed["targets"].keys()
            for target, figures in kernel["targets"].items():
                assert listed["targets"][target].items() <= figures.items()
                typed(figures, {"instructions": int, "counts": dict, "accesses": dict, "steps": list})

    def test_lint_of_one_target_and_one_kernel(self, run: Run, gpu_artifact: tuple[Path, dict]) -> None:
        kernels = run("kernels", gpu_artifact[0], "--lint", "--target", "sm_80", "--json").json["kernels"]
        assert kernels and all(list(kernel["targets"]) == ["sm_80"] for kernel in kernels)
        name = kernels[0]["name"]
        only = run("kernels", gpu_artifact[0], "--lint", "--target", "sm_80", "--name", name, "--json").json["kernels"]
        assert only == kernels[:1]
        text = run("kernels", gpu_artifact[0], "--lint").out
        assert "every check holds" in text and name[:20] in text

    def test_lint_ends_in_1_where_a_check_does_not_hold(
        self, run: Run, gpu_artifact: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("convc.analysis.lint_checks.REGISTER_FILE", 1024)
        ran = run("kernels", gpu_artifact[0], "--lint", "--json")
        assert (ran.status, ran.json["ok"]) == (1, False)
        finding = ran.json["findings"][0]
        assert finding["check"] == "registers" and finding["origins"] and finding["remedy"]
        text = run("kernels", gpu_artifact[0], "--lint")
        assert text.status == 1 and f"registers: {finding['kernel']} for {finding['target']}" in text.out

    def test_lint_needs_machine_code(self, run: Run, artifact: Path) -> None:
        ran = run("kernels", artifact, "--lint")
        assert ran.status == 2 and "no machine code" in ran.err and "--target sm_90" in ran.err

    def test_a_model_gives_the_kernels_of_its_artifact(self, run: Run, artifact: Path) -> None:
        options = ("--target", "interpreter", "--dtype", "fp32", "--json")
        of_model = run("kernels", "zoo:lenet5", *options).json["kernels"]
        assert of_model == run("kernels", artifact, "--json").json["kernels"]

    def test_listing(self, run: Run, artifact: Path) -> None:
        kernel = convc.load(artifact).kernels[0]
        assert run("kernels", artifact, "--name", kernel.name).out == kernel.listing().rstrip("\n") + "\n"

    def test_targets_of_an_artifact(self, run: Run, gpu_artifact: tuple[Path, dict]) -> None:
        kernels = run("kernels", gpu_artifact[0], "--target", "sm_90", "--json").json["kernels"]
        assert kernels and all(list(kernel["targets"]) == ["sm_90"] for kernel in kernels)

    def test_a_kernel_that_the_compiler_refuses_can_be_read(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise convc.CompileError("no")

        options = ("--target", "interpreter", "--dtype", "fp32")
        expected = run("kernels", "zoo:lenet5", *options, "--json").json["kernels"]
        monkeypatch.setattr("convc.analysis.reports.compile_network", refuse)
        assert run("kernels", "zoo:lenet5", *options).status == 2
        for kernel in expected:
            (found,) = run("kernels", "zoo:lenet5", *options, "--name", kernel["name"], "--json").json["kernels"]
            assert found == kernel

    def test_table(self, run: Run, artifact: Path) -> None:
        assert all(kernel.name in run("kernels", artifact).out for kernel in convc.load(artifact).kernels)


class TestZoo:
    def test_list(self, run: Run) -> None:
        networks = run("zoo", "--json").json["networks"]
        assert [network["name"] for network in networks] == convc.zoo.names()
        for network in networks:
            typed(network, {"name": str, "input_shape": list, "params": int, "macs": int})
        assert "resnet50" in run("zoo").out

    def test_export(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "lenet5.onnx"
        ran = run("zoo", "export", "lenet5", "-o", path, "--batch", "N", "--seed", 3, "--opset", 15, "--json")
        assert ran.status == 0, ran.err
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version == 15
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
        expected = convc.export_onnx(convc.zoo.build("lenet5", batch="N", seed=3).graph, opset=15)
        assert model == expected


def test_doctor(run: Run, cache: Path) -> None:
    report = run("doctor", "--json").json
    typed(report, {"convc": str, "python": str, "packages": dict, "ptxas": dict, "gpus": list, "cache": dict})
    assert report["cache"]["path"] == str(cache)
    assert "numpy" in report["works"]["run"]
    assert ("interpreter" in report["works"]["compile"]) == (report["packages"]["triton"] is not None)
    assert "kernel cache" in run("doctor").out


def test_doctor_without_anything(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from convc.analysis import machine

    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(machine, "version", lambda package: None)
    monkeypatch.setattr(machine, "find_assemblers", lambda: {})
    report = run("doctor", "--json").json
    assert report["works"]["compile"] == [] and not report["works"]["verify"]
    assert report["works"]["run"][-1] == "numpy"
    assert not report["cache"]["writable"]
    assert any("Triton" in missing for missing in report["works"]["missing"])


def test_verbose_tells_the_passes(run: Run, tmp_path: Path) -> None:
    arguments = ("compile", "zoo:lenet5", "-o", tmp_path / "x.convc", "--target", "interpreter", "--json")
    ran = run("-v", *arguments)
    assert "convc: fold-constants:" in ran.err and ran.json["launches"] > 0
    assert run(*arguments).err == ""


def test_bytes_of_the_cache_are_counted(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "entry").write_bytes(bytes(70))
    (tmp_path / "failed").mkdir()  # sources of kernels that did not compile are no entries
    (tmp_path / "failed" / "kernel.py").write_bytes(bytes(9))
    cache = run("doctor", "--json").json["cache"]
    assert cache == {"path": os.fspath(tmp_path), "entries": 1, "bytes": 70, "writable": True}


class TestPolicy:
    def test_it_is_taken_recorded_and_told(self, run: Run, tmp_path: Path) -> None:
        launches = {}
        for policy in ("never", "cost-model"):
            words = ("compile", "zoo:convnetjs_cifar10", "-o", tmp_path / f"{policy}.convc", "--target", "interpreter")
            report = run(*words, "--policy", policy, "--json").json
            assert report["policy"] == policy
            assert convc.load(tmp_path / f"{policy}.convc").artifact.manifest.policy == policy
            launches[policy] = report["launches"]
        assert launches["cost-model"] < launches["never"]
        explained = run("explain", "zoo:convnetjs_cifar10", "--policy", "never", "--json").json
        assert explained["policy"] == "never"
        assert any(edge["reason"] == "the policy declines all choices" for edge in explained["edges"])

    def test_unusable(self, run: Run, tmp_path: Path) -> None:
        ran = run("show", "zoo:lenet5", "--policy", "greedy")
        assert ran.status == 2 and "unknown policy 'greedy'; choose from cost-model, always, never" in ran.err
        path = tmp_path / "x.convc"
        assert run("compile", "zoo:lenet5", "-o", path, "--target", "interpreter").status == 0
        for command in ("run", "show", "kernels", "bench"):
            ran = run(command, path, "--policy", "never")
            assert ran.status == 2 and "--policy does not apply to a compiled network" in ran.err, command
