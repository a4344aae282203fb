"""What only a process of its own shows: import time, pipes, signals, streams that do not take what is written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "convc"]
HEAVY = {"numpy", "onnx", "rich", "networkx", "triton", "jinja2", "msgspec", "convc.api", "convc.ir", "convc.runtime"}
HELP_SECONDS = 0.4


def spawn(*words: object, **options: object) -> subprocess.Popen[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([*COMMAND, *map(str, words)], **streams)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("words", [["--help"], ["compile", "--help"], ["--version"], ["compile"]])
def test_nothing_heavy_is_imported_for_help(words: list[str]) -> None:
    script = "import sys\nfrom convc.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    script += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())


def test_help_is_quick() -> None:
    """In seconds of a processor, which are those that a user waits on a machine that does nothing else."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*COMMAND, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < HELP_SECONDS


def test_running_an_artifact_imports_neither_onnx_nor_the_compiler(artifact: Path) -> None:
    script = "import sys\nfrom convc.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    script += "print(*sys.modules, file=sys.stderr)"
    words = ["run", str(artifact), "--device", "numpy", "--json"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["device"] == "numpy"
    assert not {"onnx", "triton", "convc.api", "convc.compiler"} & set(done.stderr.split())


def test_results_and_prose_are_apart(artifact: Path) -> None:
    process = spawn("-v", "kernels", artifact, "--json")
    out, _ = process.communicate()
    assert json.loads(out)["kernels"] and process.returncode == 0


def test_the_reader_goes_away(artifact: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("show", artifact, stdout=writer)
    os.close(writer)
    _, err = process.communicate()
    assert (process.returncode, err) == (2, "convc: error: the reader of standard output is gone\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_full_disk(artifact: Path, more: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        process = spawn("kernels", artifact, *more, stdout=full)
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.startswith("convc: error: ") and err.count("\n") == 1 and "No space left" in err


def test_names_that_the_encoding_lacks(artifact: Path) -> None:
    process = spawn("show", artifact, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")


def test_ctrl_c_while_kernels_compile(tmp_path: Path) -> None:
    """The whole process group gets the signal, as from a terminal: one line, nothing left, no worker behind."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"CONVC_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")}
    command = ["-v", "compile", "zoo:googlenet", "-o", tmp_path / "x.convc"]
    # A shell that starts a job in the background, as some test runners do, has interrupts ignored.
    process = spawn(*command, env=environment, start_new_session=True, preexec_fn=_default_interrupts)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("convc: fuse"):
            break
    wait_for(lambda: any((tmp_path / "tmp").glob("convc-*/*")))
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "convc: error: interrupted\n")
    assert not (tmp_path / "x.convc").exists() and not list((tmp_path / "tmp").iterdir())


def _default_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_for(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
