"""Children that run kernels in Triton's interpreter: kept and used again, and what must not be."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from convc import errors
from convc.compiler import compile_plan
from convc.ir import DType, Graph, TensorType
from convc.planner import make_plan
from convc.program import Options
from convc.runtime import interpreter_pool as pool
from convc.runtime.artifact import Artifact
from convc.runtime.engine import Engine
from convc.runtime.interpreter import InterpreterExecutor, Shared
from convc.runtime.interpreter_worker import Broken, Finished, Range, Reply, Setup, Step
from convc.runtime.network import CompiledNetwork
from convc.workers import read_message, write_message

pytest.importorskip("triton", reason="the emitted kernels run in Triton's interpreter")
X = np.array([[-1.5, 0.0, 2.5]], np.float32)


def network(op: str, shape: tuple[int, ...] = X.shape) -> CompiledNetwork:
    graph = Graph(op)
    graph.add_output("y", graph.add(op, [graph.add_input("x", TensorType(DType.FP32, shape))]))
    return CompiledNetwork(compile_plan(make_plan(graph, Options(("interpreter",), dtype="fp32"))))


@pytest.fixture(scope="module")
def negation() -> CompiledNetwork:
    return network("Neg")


@pytest.fixture(autouse=True)
def _no_others() -> Iterator[None]:
    pool.close_idle()
    yield
    pool.close_idle()


def pid_of(engine: Engine) -> int:
    return engine.executor._child.pid  # type: ignore[attr-defined]


def memories(pid: int) -> int:
    """Shared memories that a process has mapped or open."""
    opened = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return Path(f"/proc/{pid}/maps").read_text().count("memfd:convc") + sum("memfd:convc" in name for name in opened)


def gone(pid: int, within_s: float = 20.0) -> bool:
    """Whether a process ends in time; one that nobody has waited for counts as ended."""
    state = Path(f"/proc/{pid}/stat")
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_a_child_takes_one_network_after_the_other(negation: CompiledNetwork) -> None:
    """Kernels of the same name and length are not mixed up, and closing gives the buffers back."""
    gc.collect()
    before, pids = memories(os.getpid()), set()  # other tests of this process may hold engines
    for _ in range(3):
        for op, expected in (("Neg", -X), ("Abs", np.abs(X)), ("Exp", np.exp(X))):
            with network(op).engine("interpreter") as engine:
                np.testing.assert_allclose(engine(X), expected, rtol=4 * 2.0**-23)
                assert memories(pid_of(engine)) > 0
                pids.add(pid_of(engine))
            assert pool.idle() == [*pids] and memories(*pids) == 0 and memories(os.getpid()) <= before


def test_networks_in_use_have_children_of_their_own(negation: CompiledNetwork) -> None:
    engines = [negation.engine("interpreter") for _ in range(pool.MOST_IDLE + 1)]
    pids = [pid_of(engine) for engine in engines]
    assert len(set(pids)) == len(engines)
    for engine in engines:
        np.testing.assert_array_equal(engine(X), -X)
        engine.close()
    assert pool.idle() == pids[: pool.MOST_IDLE] and gone(pids[-1])


def test_threads() -> None:
    networks = [network("Neg", (1, width)) for width in (3, 5)]
    wrong: list[object] = []

    def work(number: int) -> None:
        x = np.full((1, (3, 5)[number % 2]), number, np.float32)
        try:
            for _ in range(3):
                with networks[number % 2].engine("interpreter") as engine:
                    if not np.array_equal(engine(x), -x):
                        wrong.append(number)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(pool.idle()) <= pool.MOST_IDLE


def setup(text: str, beside: str = "") -> Setup:
    """One kernel and its launch."""
    source = (
        f"import sys\nimport triton\nimport triton.language as tl\n{beside}\n\n@triton.jit\ndef kernel():\n    {text}\n"
    )
    return Setup([], [("kernel", source)], [[]], [Step(0, (1, 1, 1), [])])


def test_a_child_whose_kernel_failed_is_not_used_again() -> None:
    shared = Shared({"x": 4})
    child, reply = pool.taken(setup("tl.no_such_function()"), shared.descriptor)
    assert isinstance(reply, Finished)
    assert isinstance(child.ask(Range()), Broken) and isinstance(child.ask(Range(0, 0)), Finished)
    pool.give_back(child)
    shared.close()
    assert pool.idle() == [] and gone(child.pid)


def test_the_engine_of_a_child_that_died_says_so_and_the_next_one_works(negation: CompiledNetwork) -> None:
    engine = negation.engine("interpreter")
    os.kill(pid_of(engine), signal.SIGKILL)
    with pytest.raises(errors.DeviceError, match="the process ended"):
        engine(X)
    engine.close()
    assert pool.idle() == []
    with negation.engine("interpreter") as engine:
        np.testing.assert_array_equal(engine(X), -X)

    with pytest.raises(errors.UsageError):
        engine(X)


def test_an_engine_runs_again_with_a_new_child(negation: CompiledNetwork) -> None:
    with negation.engine("interpreter") as engine:
        os.kill(pid_of(engine), signal.SIGKILL)
        with pytest.raises(errors.DeviceError):
            engine(X)
        np.testing.assert_array_equal(engine(2 * X), -2 * X)


def test_a_run_that_was_interrupted_answers_no_later_one(
    negation: CompiledNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child's answer comes too late to be heard: it must not be taken for that of the next run."""

    def interrupt(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with negation.engine("interpreter") as engine:
        monkeypatch.setattr(pool, "read_message", interrupt)
        with pytest.raises(KeyboardInterrupt):
            engine(X)
        for factor in (2, 3, 4):
            np.testing.assert_array_equal(engine(factor * X), -factor * X)


def test_counters_that_a_failed_launch_left_are_cleared(negation: CompiledNetwork) -> None:
    program = negation.programs[0]
    counted = msgspec.structs.replace(program, counter_bytes=4)
    artifact = Artifact(
        msgspec.structs.replace(negation.artifact.manifest, programs=(counted,)), negation.artifact._sections
    )
    with Engine(artifact, "interpreter") as engine:
        executor = engine.executor
        assert isinstance(executor, InterpreterExecutor)
        executor.buffer("counters")[:] = 1
        engine(X)
        assert executor.buffer("counters").all(), "a run that ended leaves them as they are"
        os.kill(pid_of(engine), signal.SIGKILL)
        with pytest.raises(errors.DeviceError):
            engine(X)
        np.testing.assert_array_equal(engine(X), -X)
        assert not executor.buffer("counters").any()


def test_an_engine_that_nobody_closed_leaves_no_memory(negation: CompiledNetwork) -> None:
    gc.collect()
    before = memories(os.getpid())
    engine = negation.engine("interpreter")
    assert memories(os.getpid()) > before
    del engine
    gc.collect()
    assert memories(os.getpid()) == before


def test_more_memory_than_there_is() -> None:
    gc.collect()
    before = memories(os.getpid())
    for nbytes in (1 << 60, 1 << 70):
        with pytest.raises(errors.DeviceError, match=f"{nbytes} bytes asked"):
            Shared({"arena": nbytes})
    gc.collect()
    assert memories(os.getpid()) == before


def test_an_idle_child_that_died_is_replaced(negation: CompiledNetwork) -> None:
    negation.engine("interpreter").close()
    (pid,) = pool.idle()
    os.kill(pid, signal.SIGKILL)
    with negation.engine("interpreter") as engine:
        np.testing.assert_array_equal(engine(X), -X)
        assert pid_of(engine) != pid


def test_what_an_earlier_network_said_is_not_blamed_on_the_next() -> None:
    shared = Shared({"x": 4})
    child, _ = pool.taken(setup("pass", 'print("of the first", file=sys.stderr)'), shared.descriptor)
    assert isinstance(child.ask(Range()), Finished)
    pool.give_back(child)
    child, _ = pool.taken(setup("pass"), shared.descriptor)
    os.kill(child.pid, signal.SIGKILL)
    assert child.ask(Range()) is None and child.last_words() == "the process ended"
    pool.give_back(child)
    shared.close()


def test_an_answer_in_the_middle_of_which_a_child_ends() -> None:
    stream = io.BytesIO()
    write_message(stream, Finished([0.5]))
    whole = stream.getvalue()
    assert read_message(io.BytesIO(whole), Reply) == Finished([0.5])
    assert [read_message(io.BytesIO(whole[:end]), Reply) for end in range(len(whole))] == [None] * len(whole)


def test_a_network_whose_text_cannot_be_read() -> None:
    shared = Shared({"x": 4})
    child, reply = pool.taken(setup("pass", 'raise ValueError("of the text")'), shared.descriptor)
    assert reply is None and child.last_words() == "ValueError: of the text"
    pool.give_back(child)
    shared.close()
    assert pool.idle() == [] and gone(child.pid)


def test_a_child_ends_with_an_engine_that_nobody_closed(negation: CompiledNetwork) -> None:
    engine = negation.engine("interpreter")
    pid = pid_of(engine)
    del engine
    gc.collect()
    assert gone(pid) and pool.idle() == []


def test_an_idle_child_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "import convc.runtime.interpreter_worker as worker; worker.IDLE_S = 0.1; worker.main()"
    started = subprocess.Popen
    monkeypatch.setattr(pool.subprocess, "Popen", lambda _, **rest: started([sys.executable, "-c", command], **rest))
    child = pool.Child()
    assert gone(child.pid)
    child.close()


def test_a_fork_leaves_idle_children_alone(negation: CompiledNetwork) -> None:
    with negation.engine("interpreter"):
        negation.engine("interpreter").close()
        (pid,) = pool.idle()
        forked = os.fork()
        if forked == 0:
            status = 1
            try:
                none_yet = pool.idle() == []
                with negation.engine("interpreter") as engine:
                    status = 0 if none_yet and np.array_equal(engine(X), -X) and pid_of(engine) != pid else 2
                pool.close_idle()
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
        with negation.engine("interpreter") as engine:
            assert pid_of(engine) == pid
            np.testing.assert_array_equal(engine(X), -X)


def test_an_engine_is_closed_while_a_fork_holds_its_files(negation: CompiledNetwork) -> None:
    engine = negation.engine("interpreter")
    pid = pid_of(engine)
    forked = os.fork()
    if forked == 0:
        time.sleep(60)
        os._exit(0)
    engine.close()
    pool.close_idle()
    assert gone(pid, 5.0)
    os.kill(forked, signal.SIGKILL)
    os.waitpid(forked, 0)


def test_children_end_with_the_process(negation: CompiledNetwork, tmp_path: Path) -> None:
    negation.save(tmp_path / "m.convc")
    script = (
        "import sys, convc, numpy as np\n"
        "engines = [convc.load(sys.argv[1]).engine('interpreter') for _ in range(2)]\n"
        "print(*[engine.executor._child.pid for engine in engines])\n"
        "engines[0].close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m.convc")], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    for pid in map(int, done.stdout.split()):
        assert gone(pid)
