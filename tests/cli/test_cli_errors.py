"""Unusable input and usage: one line on standard error, a JSON object where asked for, exit status 2, no file left."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from cli_support import Run, save_model
from onnx import helper

import convc


def refused(run: Run, kind: str, *words: object) -> str:
    """The message of a command line that is refused, the same with ``--json`` and without."""
    plain, machine = run(*words), run(*words, "--json")
    assert (plain.status, machine.status) == (2, 2), plain.out
    assert plain.out == ""
    for ran in (plain, machine):
        assert ran.err.startswith("convc: error: ") and ran.err.count("\n") == 1, ran.err
    error = machine.json["error"]
    assert set(error) == {"kind", "message", "file", "node", "unsupported"}
    assert error["kind"] == kind, error
    assert error["message"] in plain.err
    return error["message"]


class TestModels:
    @pytest.mark.parametrize("command", ["run", "verify", "show", "kernels"])
    def test_missing_file(self, run: Run, command: str, tmp_path: Path) -> None:
        for name, kind in (("no.onnx", "load"), ("no.convc", "artifact")):
            message = refused(run, kind, command, tmp_path / name)
            assert str(tmp_path / name) in message and "no such file" in message.lower()

    def test_directory(self, run: Run, tmp_path: Path) -> None:
        assert "directory" in refused(run, "load", "run", tmp_path)

    def test_truncated_file(self, run: Run, tmp_path: Path) -> None:
        whole = tmp_path / "whole.onnx"
        run("zoo", "export", "lenet5", "-o", whole)
        cut = tmp_path / "cut.onnx"
        cut.write_bytes(whole.read_bytes()[:5000])
        assert "truncated" in refused(run, "load", "compile", cut, "-o", tmp_path / "x.convc")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.onnx", "whole.onnx"]

    def test_text_file(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "t.onnx").write_text("These are words.\n")
        assert "not an ONNX model" in refused(run, "load", "verify", tmp_path / "t.onnx")

    def test_every_unsupported_operator_is_listed(self, run: Run, tmp_path: Path) -> None:
        nodes = [
            helper.make_node("Multinomial", ["x"], ["a"], name="first"),
            helper.make_node("Frobnicate", ["a"], ["b"], name="second", domain="org.example"),
            helper.make_node("Frobnicate", ["b"], ["c"], name="third", domain="org.example"),
            helper.make_node("Relu", ["c"], ["y"], name="fourth"),
        ]
        model = save_model(tmp_path / "m.onnx", nodes, [2, 3], ("org.example",))
        ran = run("compile", model, "-o", tmp_path / "x.convc", "--json")
        found = {(entry["op"], entry["domain"]): entry["nodes"] for entry in ran.json["error"]["unsupported"]}
        assert found == {("Multinomial", ""): ["first"], ("Frobnicate", "org.example"): ["second", "third"]}
        message = refused(run, "unsupported", "kernels", model)
        assert all(name in message for name in ("Multinomial", "Frobnicate", "first", "second", "third"))

    def test_names_of_the_model_cannot_steer_the_terminal(self, run: Run, tmp_path: Path) -> None:
        nodes = [helper.make_node("Frobnicate", ["x"], ["y"], name="\x1b[2J\nsecond line")]
        refused(run, "unsupported", "show", save_model(tmp_path / "m.onnx", nodes, [2]))
        assert "\x1b" not in run("show", tmp_path / "m.onnx").err

    def test_numbers_for_sizes_that_are_not_open(self, run: Run) -> None:
        for command in ("summary", "explain", "show"):
            assert "no such dimension: X" in refused(run, "usage", command, "zoo:lenet5", "--dims", "X=3")

    def test_fixed_batch(self, run: Run, tmp_path: Path) -> None:
        model = save_model(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [2, 3])
        assert "fixed at 2" in refused(run, "usage", "verify", model, "--batch", 4)
        assert run("verify", model, "--batch", 2).status == 0


class TestArtifacts:
    def test_another_major_version(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        data = bytearray(artifact.read_bytes())
        data[8:12] = struct.pack("<I", 7 << 16)
        (tmp_path / "x.convc").write_bytes(data)
        for command in ("run", "verify", "show", "kernels"):
            assert "7.0" in refused(run, "artifact", command, tmp_path / "x.convc")

    @pytest.mark.parametrize("position", [20, 200, -100])
    def test_damaged(self, run: Run, artifact: Path, tmp_path: Path, position: int) -> None:
        data = bytearray(artifact.read_bytes())
        data[position] ^= 0x40
        (tmp_path / "x.convc").write_bytes(data)
        assert "damaged" in refused(run, "artifact", "run", tmp_path / "x.convc")

    def test_truncated(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        (tmp_path / "x.convc").write_bytes(artifact.read_bytes()[:-1000])
        refused(run, "artifact", "kernels", tmp_path / "x.convc")

    def test_known_by_its_first_bytes(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        renamed = tmp_path / "model.bin"
        renamed.write_bytes(artifact.read_bytes())
        assert run("kernels", renamed).status == 0
        assert "compiled network" in refused(run, "usage", "compile", renamed, "-o", tmp_path / "x.convc")

    @pytest.mark.parametrize("option", [("--opt", "none"), ("--dtype", "fp16"), ("--batch", "1"), ("--only", "")])
    def test_what_was_decided_when_compiling(self, run: Run, artifact: Path, option: tuple[str, str]) -> None:
        for command in ("run", "verify", "show", "kernels"):
            assert option[0] in refused(run, "usage", command, artifact, *option)

    def test_early_stages(self, run: Run, artifact: Path) -> None:
        assert "import" in refused(run, "usage", "show", artifact, "--after", "import")


class TestInputs:
    @pytest.mark.parametrize(
        ("array", "words"),
        [
            (np.zeros((1, 1, 32, 33), np.float32), ["shape", "[1, 1, 32, 32]", "[1, 1, 32, 33]"]),
            (np.zeros((1, 1, 32, 32)), ["float32", "float64"]),
        ],
    )
    def test_shape_and_dtype(
        self, run: Run, artifact: Path, tmp_path: Path, array: np.ndarray, words: list[str]
    ) -> None:
        np.save(tmp_path / "x.npy", array)
        message = refused(run, "input", "run", artifact, "--device", "numpy", "--input", f"input={tmp_path / 'x.npy'}")
        assert all(word in message for word in words)

    def test_name(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        assert "'input'" in refused(run, "input", "run", artifact, "--input", f"image={tmp_path / 'x.npy'}")

    def test_files_that_hold_no_array(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
        np.savez(tmp_path / "several.npz", a=np.zeros(1))
        (tmp_path / "empty.npy").write_bytes(b"")
        np.save(tmp_path / "cut.npy", np.zeros(1000))
        (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-8])
        for name in ("pickled.npy", "several.npz", "empty.npy", "cut.npy", "missing.npy", "."):
            file = tmp_path / name
            assert str(file) in refused(run, "input", "run", artifact, "--input", f"input={file}")

    @pytest.mark.parametrize("text", ["input", "input=", "=x.npy"])
    def test_form(self, run: Run, artifact: Path, text: str) -> None:
        kind = "input" if text.startswith("=") else "usage"
        refused(run, kind, "run", artifact, "--input", text)

    def test_twice(self, run: Run, artifact: Path, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.zeros((1, 1, 32, 32), np.float32))
        text = f"input={tmp_path / 'x.npy'}"
        assert "twice" in refused(run, "usage", "run", artifact, "--input", text, "--input", text)


class TestOutputs:
    COMMANDS = (("compile", "zoo:lenet5", "-o"), ("run", "zoo:lenet5", "--device", "numpy", "--output"))
    COMMANDS += (("show", "zoo:lenet5", "-o"), ("zoo", "export", "lenet5", "-o"))

    @pytest.mark.parametrize("command", COMMANDS)
    def test_unwritable(
        self, run: Run, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Before anything is compiled: nothing may read the model."""
        monkeypatch.setattr("convc.frontends.zoo.build", lambda *_, **__: pytest.fail("the model was read"))
        (tmp_path / "file").write_text("kept")
        (tmp_path / "folder.svg").mkdir()
        for path in (tmp_path / "missing" / "x.svg", tmp_path / "file" / "x.svg", tmp_path / "folder.svg"):
            assert str(path) in refused(run, "output", *command, path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.svg"]
        assert (tmp_path / "file").read_text() == "kept" and not list((tmp_path / "folder.svg").iterdir())

    def test_devices_are_not_replaced(self, run: Run) -> None:
        assert "regular" in refused(run, "output", "compile", "zoo:lenet5", "-o", "/dev/null")
        assert not Path("/dev/null").is_file()

    def test_what_stood_there_survives_a_failure(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "x.convc").write_text("kept")
        refused(run, "usage", "compile", "zoo:lenet5", "-o", tmp_path / "x.convc", "--dtype", "fp7")
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.convc", "kept")]

    def test_kind_of_picture(self, run: Run, tmp_path: Path) -> None:
        assert ".svg" in refused(run, "usage", "show", "zoo:lenet5", "-o", tmp_path / "x.jpg")


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value", "known"),
        [
            ("--dtype", "fp8", "bf16"),
            ("--target", "sm_70", "sm_90"),
            ("--target", "sm_90,", "sm_90"),
            ("--opt", "fast", "fold"),
            ("--disable", "conv-epilogue,magic", "fold-batch-norm"),
            ("--only", "magic", "fold-batch-norm"),
        ],
    )
    def test_unknown_values(self, run: Run, tmp_path: Path, option: str, value: str, known: str) -> None:
        message = refused(run, "usage", "compile", "zoo:lenet5", "-o", tmp_path / "x.convc", option, value)
        assert known in message
        assert list(tmp_path.iterdir()) == []

    def test_unknown_network(self, run: Run, tmp_path: Path) -> None:
        assert "lenet5" in refused(run, "usage", "run", "zoo:lenet6")
        assert "lenet5" in refused(run, "usage", "zoo", "export", "lenet6", "-o", tmp_path / "x.onnx")

    def test_unknown_pass(self, run: Run) -> None:
        message = refused(run, "usage", "show", "zoo:lenet5", "--after", "magic")
        assert "import" in message and "fold-batch-norm" in message and "fuse" in message

    def test_unknown_kernel(self, run: Run, artifact: Path) -> None:
        assert convc.load(artifact).kernels[0].name in refused(run, "usage", "kernels", artifact, "--name", "k")

    def test_unknown_device(self, run: Run, artifact: Path) -> None:
        for device in ("tpu", "cuda:x"):
            assert "numpy" in refused(run, "usage", "run", artifact, "--device", device)

    def test_target_that_an_artifact_lacks(self, run: Run, artifact: Path) -> None:
        for command in ("kernels", "show"):
            assert "interpreter" in refused(run, "usage", command, artifact, "--target", "sm_90")

    def test_profile_needs_a_clock(self, run: Run, artifact: Path) -> None:
        assert "GPU" in refused(run, "device", "run", artifact, "--device", "numpy", "--profile")

    @pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "9999999999"])
    def test_batch(self, run: Run, relu: Path, tmp_path: Path, value: str) -> None:
        message = refused(run, "usage", "compile", relu, "-o", tmp_path / "x.convc", "--batch", value)
        assert "--batch" in message

    @pytest.mark.parametrize("opset", ["3", "99", "x"])
    def test_opset(self, run: Run, tmp_path: Path, opset: str) -> None:
        refused(run, "usage", "zoo", "export", "lenet5", "-o", tmp_path / "x.onnx", "--opset", opset)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "words",
        [[], ["frobnicate"], ["compile"], ["compile", "zoo:lenet5"], ["run", "a", "b"], ["show", "zoo:x", "--magic"]],
    )
    def test_usage(self, run: Run, words: list[str]) -> None:
        ran = run(*words)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("convc: error: ") and ran.err.count("\n") == 1 and "--help" in ran.err


class TestBugs:
    def test_one_line_and_a_traceback_on_request(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken() -> None:
            raise RuntimeError("two\nlines")

        monkeypatch.setattr("convc.analysis.machine.examine", broken)
        assert "RuntimeError: two lines" in refused(run, "error", "doctor")
        ran = run("-vv", "doctor")
        assert ran.status == 2 and "Traceback" in ran.err

    def test_memory_that_runs_out(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def too_large() -> None:
            raise MemoryError("Unable to allocate 7.45 TiB")

        monkeypatch.setattr("convc.analysis.machine.examine", too_large)
        message = refused(run, "limit", "doctor")
        assert message.startswith("there is not enough memory (Unable to allocate 7.45 TiB)") and "--batch" in message

    def test_interrupt(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted() -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("convc.analysis.machine.examine", interrupted)
        ran = run("doctor")
        assert (ran.status, ran.out, ran.err) == (130, "", "convc: error: interrupted\n")
