"""The engine: inputs, outputs, devices."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from recorder import A, B, Recorder, engine_for
from tiny_network import tiny_network

import convc
from convc import errors
from convc.runtime import driver
from convc.runtime.artifact import build
from convc.runtime.dtypes import numpy_dtype
from convc.runtime.engine import Engine, load

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
