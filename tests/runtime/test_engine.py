"""The engine: inputs, outputs, devices, threads, forks, lifetimes."""

from __future__ import annotations

import gc
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from tiny_network import SHAPE, tiny_network

import convc
from convc import errors
from convc.runtime import driver
from convc.runtime import manifest as m
from convc.runtime.artifact import build
from convc.runtime.device_array import DeviceArray
from convc.runtime.dtypes import numpy_dtype
from convc.runtime.engine import Engine, load


class Recorder:
    """An executor that answers with zeros and keeps what it was given."""

    def __init__(self):
        self.given, self.closed = [], 0

    def prepare(self, artifact, program):
        self.program, self.outputs = program, artifact.manifest.outputs

    def run(self, inputs):
        self.given.append(inputs)
        return [np.zeros(spec.shape, numpy_dtype(spec.dtype)) for spec in self.outputs]

    def close(self):
        self.closed += 1


def engine_for(inputs, outputs):
    """An engine on a `Recorder` for a network with these (dtype, shape) inputs and outputs."""
    specs = [tuple(m.TensorSpec(name, *spec) for name, spec in each.items()) for each in (inputs, outputs)]
    return Engine(
        build(m.Manifest((m.FORMAT_MAJOR, m.FORMAT_MINOR), "", "", "", "fp32", "fuse", (), *specs, (), 0, ()), {}),
        Recorder(),
    )


@pytest.fixture
def two():
    return engine_for({"a": ("fp32", (2, 3)), "b": ("int64", ())}, {"p": ("fp32", (1,)), "q": ("bf16", (2,))})


A, B = np.ones((2, 3), np.float32), np.array(3)


# -- Calling


def test_by_position_by_name_and_mixed(two):
    for outputs in (two(A, B), two(a=A, b=B), two(A, b=B), two.run({"b": B, "a": A})):
        assert list(outputs) == ["p", "q"]
    for given in two.executor.given:
        assert given[0] is A and given[1] is B


def test_an_only_output_is_the_array_itself():
    engine = engine_for({"x": ("fp16", (2,))}, {"y": ("fp16", (4,))})
    x = np.zeros(2, np.float16)
    assert engine(x).shape == (4,) and list(engine.run({"x": x})) == ["y"]


def test_names_that_python_uses_itself():
    engine = engine_for({"self": ("fp32", ()), "": ("fp32", ())}, {"y": ("fp32", ())})
    assert engine(self=np.float32(1), **{"": np.float32(2)}) == 0


def test_no_inputs_and_no_outputs():
    assert engine_for({}, {})() == {}


@pytest.mark.parametrize("dtype", ["fp64", "fp32", "fp16", "bf16", "int64", "int8", "uint8", "bool"])
def test_every_dtype(dtype):
    engine = engine_for({"x": (dtype, (2, 0, 3))}, {"y": (dtype, (1,))})
    assert engine(np.zeros((2, 0, 3), numpy_dtype(dtype))).dtype == numpy_dtype(dtype)


def test_any_strides(two):
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    for array in (wide[::2, ::2], np.asfortranarray(A), wide[:2, 2::-1], np.broadcast_to(np.float32(2), (2, 3))):
        two(array, B)
        given = two.executor.given[-1][0]
        assert given.flags.c_contiguous
        np.testing.assert_array_equal(given, array)


def test_read_only_and_scalars(two):
    frozen = A.copy()
    frozen.flags.writeable = False
    two(frozen, np.int64(7))
    assert two.executor.given[-1][1].shape == () and two.executor.given[-1][1] == 7


def test_nan_passes(two):
    two(np.full((2, 3), np.nan, np.float32), B)
    assert np.isnan(two.executor.given[-1][0]).all()


def test_host_arrays_of_other_libraries(two):
    foreign = SimpleNamespace(__dlpack__=A.__dlpack__, __dlpack_device__=A.__dlpack_device__)
    two(foreign, B)
    np.testing.assert_array_equal(two.executor.given[-1][0], A)


WRONG = {
    "missing": ((A,), {}, "no array for input 'b'; the network's inputs are 'a', 'b'"),
    "all missing": ((), {}, "no array for input 'a', 'b'"),
    "unexpected": ((A, B), {"c": A}, "no input 'c'; its inputs are 'a', 'b'"),
    "too many": ((A, B, A), {}, "3 arrays given, but the network has 2 inputs"),
    "twice": ((A,), {"a": A}, "'a' is given twice"),
    "rank": ((A[0], B), {}, r"'a': expected 2 dimensions \[2, 3\], found 1 \[3\]"),
    "shape": ((A.T, B), {}, r"'a': expected shape \[2, 3\], found \[3, 2\]"),
    "batch of none": ((A[:0], B), {}, r"expected shape \[2, 3\], found \[0, 3\]"),
    "dtype": ((A.astype(np.float64), B), {}, r"'a': expected dtype float32, found float64;.*array.astype\('float32'\)"),
    "narrower": ((A, np.array(3, np.int32)), {}, "'b': expected dtype int64, found int32"),
    "byte order": ((A.astype(">f4"), B), {}, "found float32 with swapped bytes"),
    "list": (
        ([[1.0] * 3] * 2, B),
        {},
        r"'a': expected an array, found a list; .*numpy.asarray\(value, dtype='float32'\)",
    ),
    "number": ((A, 3), {}, "'b': expected an array, found a int"),
    "None": ((A, None), {}, "'b': expected an array, found a NoneType"),
    "text": (("a", B), {}, "found a str"),
    "objects": ((A.astype(object), B), {}, "found object"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs(two, case):
    positional, named, words = WRONG[case]
    with pytest.raises(errors.InputError, match=words):
        two(*positional, **named)
    assert two.executor.given == [], "nothing ran"


# -- Devices


def test_unknown_device(network):
    for device in ("gpu", "cuda:x", "numpy:1", "cuda:-1", ""):
        with pytest.raises(errors.UsageError, match="choose from auto, cuda"):
            Engine(network.build(), device)


def test_automatic_takes_the_gpu(network, fake, monkeypatch, x, caplog):
    monkeypatch.setattr(driver, "bindings", lambda: fake)
    engine = Engine(network.build())
    assert engine.device == "cuda:0" and engine.program.target == "sm_90" and not caplog.records
    np.testing.assert_array_equal(engine(x), network.expected(x))


@pytest.mark.parametrize("raw", [FakeDriver((8, 0)), FakeDriver(devices=0), FakeDriver(version=11000)])
def test_automatic_falls_back_with_one_warning(network, monkeypatch, caplog, raw):
    monkeypatch.setattr(driver, "bindings", lambda: raw)
    monkeypatch.setattr("convc.runtime.engine._EXECUTORS", _with_recorder())
    with caplog.at_level(logging.WARNING, "convc"):
        engine = Engine(network.build())
    assert engine.device == "interpreter" and isinstance(engine.executor, Recorder)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "running in the interpreter" in caplog.text


def test_automatic_does_not_hide_a_failing_gpu(network, monkeypatch, fake):
    monkeypatch.setattr(driver, "bindings", lambda: fake)
    fake.fail("cuMemAlloc", 2)
    with pytest.raises(errors.DeviceError, match="out of GPU memory"):
        Engine(network.build())


def _with_recorder():
    import sys

    sys.modules["convc_test_recorder"] = SimpleNamespace(Recorder=Recorder)  # type: ignore[assignment]
    return dict.fromkeys(("interpreter", "numpy"), ("convc_test_recorder", "Recorder")) | {
        "cuda": ("convc.runtime.cuda", "CudaExecutor")
    }


def test_second_gpu(network, monkeypatch, x):
    raw = FakeDriver(devices=2, hooks=HOOKS)
    monkeypatch.setattr(driver, "bindings", lambda: raw)
    engine = Engine(network.build(), "cuda:1")
    assert engine.device == "cuda:1" and engine.executor.device.context == ("context", 1)
    with pytest.raises(errors.DeviceError, match="no GPU number 2"):
        Engine(network.build(), "cuda:2")


def test_an_executor_that_cannot_be_imported(network, monkeypatch):
    monkeypatch.setattr("convc.runtime.engine._EXECUTORS", {"numpy": ("convc_not_there", "X")})
    with pytest.raises(errors.DeviceError, match="'numpy' cannot be used here: No module named"):
        Engine(network.build(), "numpy")


@pytest.mark.parametrize(("target", "chosen"), [(None, "interpreter"), ("sm_80", "sm_80")])
def test_programs_of_an_executor_without_choice(cubins, target, chosen):
    parts = [tiny_network(cubins, name) for name in ("sm_80", "interpreter")]
    programs = tuple(part.manifest.programs[0] for part in parts)
    artifact = build(msgspec.structs.replace(parts[0].manifest, programs=programs), parts[0].blobs | parts[1].blobs)
    assert Engine(artifact, Recorder(), target).executor.program.target == chosen


def test_a_target_that_is_not_there(network):
    with pytest.raises(errors.DeviceError, match="not compiled for 'sm_70'; it holds 'sm_90'"):
        Engine(network.build(), Recorder(), "sm_70")


def test_only_a_gpu_has_a_clock(two):
    with pytest.raises(errors.DeviceError, match="only be timed on a GPU"):
        two.measure({"a": A, "b": B}, 3)


def test_load(network, tmp_path, monkeypatch, fake, x):
    network.build().save(tmp_path / "m.convc")
    monkeypatch.setattr(driver, "bindings", lambda: fake)
    for made in (convc.load(tmp_path / "m.convc"), load(str(tmp_path / "m.convc"), "cuda", verify=False)):
        np.testing.assert_array_equal(made(x), network.expected(x))


def test_a_damaged_file_never_reaches_the_driver(network, tmp_path, monkeypatch, fake):
    path = tmp_path / "m.convc"
    network.build().save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(driver, "bindings", lambda: fake)
    with pytest.raises(errors.ArtifactError):
        load(path)
    assert fake.calls == []


# -- Threads, forks, lifetimes


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
    with engine._lock:
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


# -- Arrays in GPU memory


@pytest.fixture
def on_gpu(fake, x):
    """Makes arrays in the fake GPU's memory."""
    device = driver.Device(driver.Driver(fake))

    def make(array):
        with device.current():
            made = DeviceArray(device, array.shape, array.dtype)
            device.driver.to_device(made.pointer, np.ascontiguousarray(array).ctypes.data, array.nbytes, None)
        return made

    return make


def dlpack_only(array):
    return SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=array.__dlpack_device__)


def interface_only(array, **changes):
    return SimpleNamespace(__cuda_array_interface__=array.__cuda_array_interface__ | changes, owner=array)


@pytest.mark.parametrize("form", [lambda array: array, dlpack_only, interface_only])
def test_device_arrays(network, on_fake, on_gpu, fake, x, form):
    engine = on_fake(network)
    before = len(fake.calls)
    y = engine(form(on_gpu(x)))
    assert isinstance(y, DeviceArray) and "cuda:0" in repr(y)
    assert "cuMemcpyDtoHAsync" not in fake.calls[before:] and fake.calls[before:].count("cuMemcpyDtoDAsync") == 2
    engine.close()
    del engine
    np.testing.assert_array_equal(y.numpy(), network.expected(x), "outputs outlive the engine")
    del y
    gc.collect()
    assert fake.violations == [] and not fake.allocations


def test_outputs_can_be_inputs(network, on_fake, on_gpu, x):
    engine = on_fake(network)
    twice = engine(engine(on_gpu(x))).numpy()
    np.testing.assert_array_equal(twice, network.expected(network.expected(x)))


def test_dlpack_round_trip(on_gpu, fake, x):
    """A capsule keeps the memory until its consumer lets go, or until nobody wants it."""
    from convc.runtime import device_array

    array = on_gpu(x)
    taken = device_array.view(dlpack_only(array), "x", 0)
    assert taken.shape == SHAPE and taken.dtype == np.float32 and taken.pointer == array.pointer
    unused = array.__dlpack__()
    del array
    gc.collect()
    assert len(fake.allocations) == 1 and len(device_array._EXPORTED) == 2
    del taken
    assert len(fake.allocations) == 1
    del unused
    gc.collect()
    assert not fake.allocations and not device_array._EXPORTED


def test_dlpack_as_numpy_reads_it(on_gpu, x):
    """The fake GPU's memory is host memory: NumPy can consume our capsules when they say so, and we can consume its."""
    from convc.runtime import device_array

    class OnHost(DeviceArray):
        def __dlpack_device__(self):
            return 1, 0

    array = on_gpu(x)
    array.__class__ = OnHost
    np.testing.assert_array_equal(np.from_dlpack(array), x)
    taken = device_array._from_capsule(x.__dlpack__(), "x")
    assert (taken.shape, taken.dtype, taken.pointer) == (x.shape, x.dtype, x.ctypes.data)
    with pytest.raises(errors.InputError, match=r"strides \[1, 5, 25\]"):
        device_array._from_capsule(x.T.__dlpack__(), "x")
    with pytest.raises(errors.InputError, match="DLPack code 5 with 64 bits"):
        device_array._from_capsule(x.astype(np.complex64).__dlpack__(), "x")


def test_dlpack_dtypes(on_gpu):
    from convc.runtime import device_array

    for dtype in ("fp64", "fp32", "fp16", "bf16", "int64", "int32", "int16", "int8", "uint64", "uint8", "bool"):
        array = on_gpu(np.ones((2, 3), numpy_dtype(dtype)))
        assert device_array.view(dlpack_only(array), "x", 0).dtype == numpy_dtype(dtype)
    assert not hasattr(on_gpu(np.ones(2, numpy_dtype("bf16"))), "__cuda_array_interface__")


def test_device_arrays_that_do_not_fit(network, on_fake, on_gpu, x, two):
    engine, array = on_fake(network), on_gpu(x)
    elsewhere = SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=lambda: (2, 1))
    turned = interface_only(array, shape=(5, 5, 2), strides=(4, 20, 100))
    for value, words in (
        (elsewhere, "on GPU 1, the engine on GPU 0"),
        (turned, r"strides \[1, 5, 25\] are not those of a dense array"),
        (interface_only(array, typestr="<f8"), "expected dtype float32, found float64"),
        (interface_only(array, shape=(50,)), "expected 3 dimensions"),
    ):
        with pytest.raises(errors.InputError, match=words):
            engine(value)
    with pytest.raises(errors.InputError, match="'a': the array is in GPU memory, but the engine does not run there"):
        two(on_gpu(A), B)


def test_no_memory_for_a_device_output(network, on_fake, on_gpu, fake, x):
    engine, array = on_fake(network), on_gpu(x)
    fake.fail("cuMemAlloc", 2)
    with pytest.raises(errors.DeviceError, match="out of GPU memory for an output"):
        engine(array)
    np.testing.assert_array_equal(engine(array).numpy(), network.expected(x))


def test_waiting_for_the_stream_of_an_array(network, on_fake, on_gpu, fake, x):
    """An array that is still being written says on which stream."""
    engine, array = on_fake(network), on_gpu(x)
    before = len(fake.calls)
    engine(interface_only(array, stream=7))
    calls = fake.calls[before:]
    assert calls.index("cuStreamSynchronize") < calls.index("cuMemcpyDtoDAsync")
