"""The CUDA executor on the fake driver: what it launches, and what it does when the GPU fails."""

from __future__ import annotations

import gc

import msgspec
import numpy as np
import pytest
from fake_driver import GUARD, HOOKS, FakeDriver
from tiny_network import COUNT, SHAPE

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.engine import Engine


def test_computes(network, fake, on_fake, x):
    engine = on_fake(network)
    y = engine(x)
    np.testing.assert_array_equal(y, network.expected(x))
    assert y.dtype == np.float32 and engine.run({"x": x}).keys() == {"y"}
    assert fake.violations == []


def test_launches_follow_the_manifest(network, fake, on_fake, x):
    engine = on_fake(network)
    engine(x)
    assert [record.name for record in fake.launches] == ["add_weights", "relu"]
    assert fake.replayed == fake.launches, "the graph replays the captured launches in order"
    first, second = fake.launches
    assert first.grid == (4, 1, 1) and first.threads == 128
    assert first.values[3] == COUNT and first.values[4:] == (0, 0), "scratch pointers are passed, and are null"
    assert second.values[0] == first.values[2], "the arena is where the first kernel wrote"


def test_a_run_allocates_and_captures_nothing(network, fake, on_fake, x):
    engine = on_fake(network)
    engine(x)
    before = len(fake.calls)
    engine(x)
    assert fake.calls[before:] == [
        "cuCtxPushCurrent",
        "cuMemcpyHtoDAsync",
        "cuGraphLaunch",
        "cuMemcpyDtoHAsync",
        "cuStreamSynchronize",
        "cuCtxPopCurrent",
    ]


def test_close_gives_everything_back(network, fake, on_fake, x):
    engine = on_fake(network)
    engine(x)
    engine.close()
    assert not fake.allocations and not fake.libraries
    del engine
    gc.collect()
    assert fake.clean and fake.violations == []


def test_dropping_an_engine_gives_everything_back(network, fake, on_fake, x):
    on_fake(network)(x)
    gc.collect()
    assert fake.clean


def test_a_cubin_is_loaded_once(network, fake, on_fake):
    kernels = network.manifest.programs[0].kernels
    twice = network.with_program(kernels=(*kernels, kernels[0]))
    on_fake(twice)
    assert fake.calls.count("cuLibraryLoadData") == 2


def test_large_shared_memory_is_asked_for(network, fake, on_fake, x):
    engine = on_fake(network.with_binary(0, shared_bytes=100 * 1024))
    engine(x)
    assert fake.launches[0].shared_bytes == 100 * 1024 and fake.violations == []
    assert fake.calls.count("cuFuncSetAttribute") == 1


def test_too_much_shared_memory(network, on_fake):
    with pytest.raises(errors.DeviceError, match=r"'relu' needs 232449 bytes of shared memory.*allows 232448"):
        on_fake(network.with_binary(1, shared_bytes=232449))


def test_too_many_threads(network, on_fake):
    with pytest.raises(errors.DeviceError, match="'add_weights' needs 256 threads in a block, but this GPU allows 128"):
        on_fake(network.with_binary(0, threads=256))


def test_scratch_is_allocated_for_the_largest_launch(network, fake, on_fake, x):
    scratched = network.with_binary(0, global_scratch_bytes=384).with_binary(1, global_scratch_bytes=128)
    engine = on_fake(scratched)
    engine(x)
    first, second = fake.launches
    assert first.values[-2] == second.values[-2] and first.values[-1] == 0
    assert fake.allocations[first.values[-2]].nbytes == 384 * 4


def test_counters_begin_at_zero(network, fake, on_fake, x):
    """Memory is NaN where nobody clears it, and max(NaN, 0) would stay NaN."""
    counted = network.with_program(counter_bytes=4 * COUNT)
    arguments = (m.BufferArgument("counters"), m.BufferArgument("output:0"), m.IntegerArgument(COUNT))
    engine = on_fake(counted.with_launch(1, arguments=arguments))
    np.testing.assert_array_equal(engine(x), np.zeros(SHAPE, np.float32))


def test_offsets_reach_the_kernel(network, fake, on_fake):
    wider = network.with_program(arena_bytes=64 + 4 * COUNT)
    add, clamp = wider.manifest.programs[0].launches
    moved = m.BufferArgument("arena", 64)
    wider = wider.with_launch(0, arguments=(*add.arguments[:2], moved, add.arguments[3]))
    on_fake(wider.with_launch(1, arguments=(moved, *clamp.arguments[1:])))
    assert fake.launches[0].values[2] % 512 == 64


def test_the_fake_driver_rejects_wrong_launches(network, on_fake, fake):
    """The checks of the fake driver are worth something: a manifest that lies about the kernel is caught."""
    kernels = network.manifest.programs[0].kernels
    short = msgspec.structs.replace(kernels[1], parameters=kernels[1].parameters[1:])
    wrong = network.with_program(kernels=(kernels[0], short))
    arguments = network.manifest.programs[0].launches[1].arguments[1:]
    with pytest.raises(errors.DeviceError, match="700"):
        on_fake(wrong.with_launch(1, arguments=arguments))
    assert "parameter 1" in fake.violations[0]


def test_the_fake_driver_rejects_wrong_threads(network, on_fake, fake):
    with pytest.raises(errors.DeviceError, match="700"):
        on_fake(network.with_binary(0, threads=64))
    assert fake.violations == ["add_weights: (64, 1, 1) threads, compiled for (128, 1, 1)"]


def test_the_fake_driver_sees_overruns(network, on_fake, fake, x):
    engine = on_fake(network)
    fake.hooks = HOOKS | {"relu": lambda record: HOOKS["relu"](_longer(record))}
    engine(x)
    engine.close()
    assert fake.violations == ["a guard band was overwritten"]


def _longer(record):
    assert GUARD >= 4
    return type(record)(record.name, record.grid, record.threads, 0, (*record.values[:2], COUNT + 1))


# -- Which program


@pytest.mark.parametrize(
    ("built", "present", "chosen"),
    [
        (("sm_80", "sm_86", "sm_90"), (8, 6), "sm_86"),
        (("sm_80", "sm_86", "sm_90"), (8, 9), "sm_86"),
        (("sm_86", "sm_80"), (8, 0), "sm_80"),
        (("sm_80", "sm_90a"), (9, 0), "sm_90a"),
        (("interpreter", "sm_120"), (12, 0), "sm_120"),
    ],
)
def test_the_nearest_architecture_is_chosen(cubins, built, present, chosen):
    assert _choose(cubins, built, present).target == chosen


@pytest.mark.parametrize(
    ("built", "present"),
    [(("sm_80",), (9, 0)), (("sm_90",), (8, 0)), (("sm_86",), (8, 0)), (("sm_120",), (12, 1)), (("sm_100",), (10, 3))],
)
def test_no_binary_for_this_gpu(cubins, built, present):
    architecture = f"sm_{present[0]}{present[1]}"
    with pytest.raises(errors.DeviceError) as raised:
        _choose(cubins, built, present)
    message = str(raised.value)
    assert built[0] in message and architecture in message and "Fake GPU" in message
    assert f"convc compile tiny.onnx --target {architecture}" in message


def test_a_named_target_must_fit(cubins):
    with pytest.raises(errors.DeviceError, match="sm_90"):
        _choose(cubins, ("sm_80", "sm_90"), (9, 0), "sm_80")


def _choose(cubins, built, present, target=None):
    from tiny_network import Network, tiny_network

    parts = [tiny_network(cubins, name) for name in built]
    programs = tuple(part.manifest.programs[0] for part in parts)
    blobs = {name: data for part in parts for name, data in part.blobs.items()}
    merged = Network(msgspec.structs.replace(parts[0].manifest, programs=programs), blobs, parts[0].weights)
    return CudaExecutor(driver=Driver(FakeDriver(present))).choose(merged.build(), target)


# -- What can go wrong


def test_no_device(network):
    with pytest.raises(errors.DeviceError, match="no GPU number 0: the driver sees no GPU"):
        CudaExecutor(driver=Driver(FakeDriver(devices=0)))


def test_no_such_device():
    with pytest.raises(errors.DeviceError, match=r"no GPU number 2: the driver sees 2 \(0 to 1\)"):
        CudaExecutor(2, driver=Driver(FakeDriver(devices=2)))


def test_old_driver(network, on_fake, fake):
    with pytest.raises(
        errors.DeviceError, match=r"CUDA 12.0 or newer is needed, but the driver here supports CUDA 11.8"
    ):
        Driver(FakeDriver(version=11080))
    with pytest.raises(
        errors.DeviceError, match=r"CUDA 13.4 or newer is needed, but the driver here supports CUDA 13.0"
    ):
        on_fake(network.with_program(min_driver=13040))
    assert not fake.allocations


def test_a_cubin_that_the_driver_refuses(network, on_fake, fake):
    fake.fail("cuLibraryLoadData", 222)
    with pytest.raises(errors.DeviceError, match=r"'add_weights' could not be loaded by the driver \(CUDA 13.0\).*222"):
        on_fake(network)
    gc.collect()
    assert fake.clean


@pytest.mark.parametrize("nth", range(1, 7))
def test_out_of_memory_at_every_allocation(network, on_fake, fake, x, nth):
    scratched = network.with_binary(0, global_scratch_bytes=384)
    fake.fail("cuMemAlloc", 2, nth)
    with pytest.raises(errors.DeviceError, match=r"out of GPU memory for .*: \d+ bytes asked, \d+ of \d+ bytes free"):
        on_fake(scratched)
    gc.collect()
    assert fake.clean and fake.violations == []
    np.testing.assert_array_equal(on_fake(scratched)(x), network.expected(x))


def test_a_real_lack_of_memory(network):
    small = FakeDriver(memory=300, hooks=HOOKS)
    with pytest.raises(errors.DeviceError, match="for the buffer 'weights': 256 bytes asked, 100 of 300 bytes free"):
        Engine(network.with_program(arena_bytes=200).build(), CudaExecutor(driver=Driver(small)))
    assert not small.allocations


def _failure(on_fake, network) -> str:
    """The message alone: an exception would keep what it passed through alive."""
    with pytest.raises(errors.DeviceError) as raised:
        on_fake(network)
    return str(raised.value)


CALLS = "cuStreamCreate cuMemcpyHtoDAsync cuLibraryGetKernel cuFuncGetAttribute cuLaunchKernelEx cuGraphInstantiate"


@pytest.mark.parametrize("name", CALLS.split())
@pytest.mark.parametrize("code", [1, 700])
def test_any_call_may_fail_while_preparing(network, on_fake, fake, name, code):
    fake.fail(name, code)
    message = _failure(on_fake, network)
    assert str(code) in message and ("restart the process" in message) == (code == 700)
    gc.collect()
    if code == 1:
        assert fake.clean and fake.violations == []


@pytest.mark.parametrize("name", ["cuGraphLaunch", "cuStreamSynchronize", "cuMemcpyDtoHAsync"])
def test_an_illegal_address_marks_the_engine_dead(network, on_fake, fake, x, name):
    engine = on_fake(network)
    fake.fail(name, 700)
    with pytest.raises(errors.DeviceError, match=r"CUDA_ERROR_ILLEGAL_ADDRESS \(700\).*restart the process") as raised:
        engine(x)
    assert raised.value.sticky and raised.value.code == 700
    before = len(fake.calls)
    with pytest.raises(errors.DeviceError, match=r"unusable since an earlier failure.*restart the process"):
        engine(x)
    assert len(fake.calls) == before, "a dead engine does not call the driver"
    engine.close()


def test_a_passing_failure_leaves_the_engine_usable(network, on_fake, fake, x):
    engine = on_fake(network)
    fake.fail("cuGraphLaunch", 2)
    with pytest.raises(errors.DeviceError, match="cuGraphLaunch failed"):
        engine(x)
    np.testing.assert_array_equal(engine(x), network.expected(x))


# -- Timing


def test_profile_and_measure(network, on_fake, x):
    """On the fake driver every launch takes a millisecond."""
    engine = on_fake(network)
    assert engine.profile({"x": x}) == [1000.0, 1000.0]
    assert engine.measure({"x": x}, repeats=3) == [2000.0] * 3


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_what_is_timed_gives_events_back(network, fake, on_fake, x, nth):
    """Also those that came before one that failed."""
    engine = on_fake(network)
    for timed in (lambda: engine.profile({"x": x}), lambda: engine.measure({"x": x}, repeats=2)):
        fake.fail("cuEventCreate", 1, nth)
        with pytest.raises(errors.DeviceError, match="cuEventCreate failed"):
            timed()
        assert not fake.open["event"]


# -- Launches that start early


def test_kernels_that_wait_start_early(network, fake, on_fake, x):
    """All but the first; the network's result is that of the fake kernels, which run in order."""
    waiting = network.with_binary(0, programmatic_launch=True).with_binary(1, programmatic_launch=True)
    engine = on_fake(waiting)
    assert [record.programmatic for record in fake.launches] == [False, True]
    np.testing.assert_array_equal(engine(x), network.expected(x))
    assert fake.violations == []


def test_kernels_that_do_not_wait_never_start_early(network, fake, on_fake):
    on_fake(network.with_binary(0, programmatic_launch=True))
    assert [record.programmatic for record in fake.launches] == [False, False]


def test_the_fake_driver_rejects_an_early_start_behind_a_copy(network, fake, on_fake, x):
    engine = on_fake(network.with_binary(1, programmatic_launch=True))
    driver, stream = engine.executor._driver, engine.executor.stream
    with engine.executor.device.current():
        driver.fill(engine.executor._buffers["arena"], 0, 4, stream)
        with pytest.raises(errors.DeviceError, match="700"):
            driver.launch(engine.executor._launches[1], stream, early=True)
    assert "what is in front is no launch" in fake.violations[0]
