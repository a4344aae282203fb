"""Arrays in a GPU's memory: in, out, and those of other libraries."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
from recorder import A, B
from tiny_network import SHAPE, interface_only

from convc import errors
from convc.runtime.device_array import DeviceArray
from convc.runtime.dtypes import numpy_dtype


def dlpack_only(array):
    return SimpleNamespace(__dlpack__=array.__dlpack__, __dlpack_device__=array.__dlpack_device__)


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


def test_arrays_that_are_not_given_out(network, on_fake, on_gpu, x):
    """Whatever a library says that keeps its array, it is about an input."""

    def refuse(**_):
        raise BufferError("it requires a gradient")

    def unknown():
        raise ValueError("unknown device meta")

    engine, array = on_fake(network), on_gpu(x)
    kept = SimpleNamespace(__dlpack__=refuse, __dlpack_device__=lambda: (2, 0))
    nowhere = SimpleNamespace(__dlpack__=refuse, __dlpack_device__=unknown)
    for value, words in (
        (kept, "'x'.*requires a gradient"),
        (nowhere, "'x'.*unknown device meta"),
        (interface_only(array, mask=array), "'x'.*has a mask"),
        (interface_only(array, strides=(100, 20, 5)), r"strides \[25, 5, 1.25\] are not those of a dense array"),
    ):
        with pytest.raises(errors.InputError, match=words):
            engine(value)


def test_what_dlpack_is_asked_for(on_gpu, x):
    array = on_gpu(x)
    array.__dlpack__(stream=1, max_version=(1, 0), dl_device=(2, 0), copy=False)
    for asked in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="copy it with numpy"):
            array.__dlpack__(**asked)
    for name in ("fp8e4m3fn", "fp8e5m2", "int4"):
        narrow = on_gpu(np.ones(3, numpy_dtype(name)))
        assert not hasattr(narrow, "__cuda_array_interface__")
        with pytest.raises(BufferError, match="no name for"):
            narrow.__dlpack__()
