"""Engines among threads and forks, and what is left of them when they are closed."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from recorder import Recorder
from tiny_network import SHAPE, tiny_network

from convc import errors
from convc.runtime import driver
from convc.runtime.engine import Engine, load


def test_threads(network, on_fake, fake):
    """32 threads of 25 runs: bit-equal to running alone."""
    engine = on_fake(network)
    inputs = [np.random.default_rng(i).standard_normal(SHAPE).astype(np.float32) for i in range(32)]

    def often(array):
        return all(np.array_equal(engine(array), network.expected(array)) for _ in range(25))

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(often, inputs))
    assert fake.violations == []


def test_two_engines_beside_loading_and_closing(network, cubins, on_fake, fake, x):
    first, other = on_fake(network), tiny_network(cubins, seed=5)
    second, stop, failures = on_fake(other), threading.Event(), []

    def run(engine, source):
        while not stop.is_set():
            if not np.array_equal(engine(x), source.expected(x)):
                failures.append(engine)

    threads = [threading.Thread(target=run, args=pair) for pair in ((first, network), (second, other))]
    for thread in threads:
        thread.start()
    for _ in range(30):
        with on_fake(network) as engine:
            engine(x)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == [] and fake.violations == []


def test_closing_while_others_run(network, on_fake, fake, x):
    """A run sees an engine that is open or one that is closed, never something between."""
    engine, outcomes = on_fake(network), []

    def run():
        while True:
            try:
                outcomes.append(np.array_equal(engine(x), network.expected(x)))
            except errors.UsageError as error:
                outcomes.append("closed" in str(error))
                return

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    engine.close()
    for thread in threads:
        thread.join(10)
    assert all(outcomes) and len(outcomes) >= 4 and fake.violations == []


def test_closed(network, on_fake, x):
    with on_fake(network) as engine:
        engine(x)
    engine.close()
    for use in (lambda: engine(x), lambda: engine.run({"x": x}), lambda: engine.profile({"x": x})):
        with pytest.raises(errors.UsageError, match="closed; load the network again"):
            use()


def in_fork(action) -> str:
    """What an action returns in a fork of this process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, str(action()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.filterwarnings("ignore:This process")
def test_fork(network, on_fake, fake, x):
    """In a fork nothing calls the driver, not even closing and dropping the engine; the parent goes on."""
    engines = [on_fake(network)]

    def child():
        before = len(fake.calls)
        try:
            engines[0](x)
        except errors.UsageError as error:
            message = str(error)
        engines[0].close()
        engines.clear()
        gc.collect()
        return f"{message} {len(fake.calls) - before}"

    said = in_fork(child)
    assert f"belongs to process {os.getpid()} and cannot run in its fork" in said and said.endswith(" 0")
    np.testing.assert_array_equal(engines[0](x), network.expected(x))


@pytest.mark.filterwarnings("ignore:This process")
def test_fork_while_another_thread_runs(network, on_fake, x):
    engine = on_fake(network)
    with engine._in_use.lock:
        said = in_fork(lambda: _message(lambda: engine(x)))
    assert "fork" in said


def _message(action) -> str:
    with pytest.raises(errors.ConvcError) as raised:
        action()
    return str(raised.value)


def test_a_failed_preparation_closes_the_executor(network):
    class Failing(Recorder):
        def prepare(self, artifact, program):
            raise errors.DeviceError("no")

    executor = Failing()
    with pytest.raises(errors.DeviceError):
        Engine(network.build(), executor)
    assert executor.closed == 1


def test_a_thousand_cycles_leak_nothing(network, tmp_path, monkeypatch, x):
    """Load, run, close: resident memory stays within a megabyte once the first cycles have warmed up."""
    raw = FakeDriver(hooks=HOOKS)
    monkeypatch.setattr(driver, "bindings", lambda: raw)
    network.build().save(tmp_path / "m.convc")

    def cycles(count):
        for i in range(count):
            engine = load(tmp_path / "m.convc", "cuda")
            engine(x)
            if i % 2:
                engine.close()
            del engine
            for record in (raw.calls, raw.launches, raw.replayed):
                record.clear()
        gc.collect()
        return _resident()

    before = cycles(200)
    assert cycles(1000) - before < 1 << 20
    assert raw.clean


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
