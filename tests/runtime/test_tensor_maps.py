"""Tensor maps: what a manifest may say of them, and how they reach the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_driver import HOOKS, FakeDriver
from tiny_network import COLS, PADDED_ROWS, ROWS, Network, rows_network

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.artifact import read
from convc.runtime.cuda import CudaExecutor
from convc.runtime.driver import Driver
from convc.runtime.encoding import ALIGNMENT, TensorMap
from convc.runtime.engine import Engine
from convc.runtime.tensor_maps import descriptor_type, span_bytes


@pytest.fixture
def rows(cubins: dict[str, bytes]) -> Network:
    return rows_network(cubins)


def with_array(network: Network, **changes: Any) -> Network:
    """The network with another array behind its descriptor."""
    array, *others = network.manifest.programs[0].launches[0].arguments
    return network.with_launch(0, arguments=(msgspec.structs.replace(array, **changes), *others))


def with_map(network: Network, **changes: Any) -> Network:
    """The network with another encoding of its descriptor."""
    spec = network.manifest.programs[0].kernels[0].binary.tensor_maps[0]
    return network.with_binary(0, tensor_maps=(msgspec.structs.replace(spec, **changes),))


def with_type(network: Network, type: str) -> Network:
    kernel = network.manifest.programs[0].kernels[0]
    parameters = (m.Parameter("x", type), *kernel.parameters[1:])
    return network.with_program(kernels=(msgspec.structs.replace(kernel, parameters=parameters),))


def test_types() -> None:
    type = descriptor_type("tensordesc<bf16[1,2,64]>")
    assert type is not None and type.block == (1, 2, 64) and type.element.itemsize == 2
    for other in ("*fp16", "i32", "tensordesc<fp16[]>", "tensordesc<fp16[0]>", "tensordesc<fp99[8]>"):
        assert descriptor_type(other) is None
    assert descriptor_type("tensordesc<fp16[1,1,1,1,1,8]>") is None, "six dimensions are one too many"


def test_types_of_gluon() -> None:
    layout = "NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2, transposed=False, cga_layout=[])"
    array = descriptor_type(f"tensordesc<fp16[64,128],{layout}>")
    walk = descriptor_type(f"tensordesc_im2col<fp16[128,64],input_rank=4,{layout}>")
    assert array is not None and (array.block, array.rank, array.windows) == ((64, 128), 2, False)
    assert walk is not None and (walk.block, walk.rank, walk.windows) == ((128, 64), 4, True)
    for other in ("tensordesc_im2col<fp16[128,64]>", "tensordesc_im2col<fp16[8,8,8],input_rank=4,L()>"):
        assert descriptor_type(other) is None
    assert descriptor_type("tensordesc_im2col<fp16[128,64],input_rank=2,L()>") is None, "images have channels"


WALK = {"shape": (1, ROWS, COLS), "strides": (ROWS * COLS, COLS, 1), "lower": (-1,), "upper": (-1,), "steps": (1, 1, 1)}


def walking(network: Network, **changes: Any) -> Network:
    """The network with a kernel whose boxes follow windows over one image of one dimension."""
    typed = with_type(network, "tensordesc_im2col<fp32[8,8],input_rank=3,L()>")
    return with_array(typed, **{**WALK, **changes})


def test_a_walk_over_windows_is_accepted(rows: Network) -> None:
    walking(rows).build()


def test_span() -> None:
    assert span_bytes((3, 4), (10, 1), 2) == 2 * (2 * 10 + 4)


def test_round_trip(rows: Network, tmp_path: Any) -> None:
    rows.build().save(tmp_path / "m.convc")
    program = read(tmp_path / "m.convc").manifest.programs[0]
    assert program == rows.manifest.programs[0]
    assert not program.kernels[0].binary.programmatic_launch
    assert read(tmp_path / "m.convc").manifest == rows.build().manifest


def test_without_a_binary_nothing_is_encoded(rows: Network) -> None:
    """In the interpreter a descriptor is a parameter like others."""
    kernel = msgspec.structs.replace(rows.manifest.programs[0].kernels[0], binary=None)
    blobs = {"relu_rows.py": rows.blobs["relu_rows.py"]}
    Network(rows.with_program(kernels=(kernel,)).manifest, blobs, rows.weights).build()


HUGE = 1 << 60
LIES: dict[str, tuple[Callable[[Network], Network], str]] = {
    "a walk of an array": (lambda n: with_array(n, lower=(-1,), upper=(-1,)), "walks over windows"),
    "corners of another rank": (lambda n: walking(n, lower=(-1, -1)), "corners and steps"),
    "a corner too far": (lambda n: walking(n, upper=(1 << 15,)), "reach further than 32768"),
    "a long step": (lambda n: walking(n, steps=(1, 9, 1)), "more than 8 elements"),
    "an image too many": (lambda n: walking(n, shape=(2, ROWS, COLS)), "reaches byte"),
    "one row too many": (
        lambda n: with_array(n, shape=(ROWS + 1, COLS)),
        "reaches byte 448 of 'input:0', which has 416",
    ),
    "one block too far": (lambda n: with_array(n, offset=16), "reaches byte 432"),
    "a huge offset": (lambda n: with_array(n, offset=HUGE), "reaches byte"),
    "a huge shape": (lambda n: with_array(n, shape=(HUGE, COLS)), "more than 2147483647 elements"),
    "a huge stride": (lambda n: with_array(n, strides=(HUGE, 1)), "is too large"),
    "a wide stride": (lambda n: with_array(n, strides=(COLS + 4, 1)), "reaches byte 608"),
    "an odd stride": (lambda n: with_array(n, strides=(COLS - 1, 1)), "multiples of 16"),
    "an odd offset": (lambda n: with_array(n, offset=8, shape=(ROWS - 1, COLS)), "multiples of 16"),
    "an inner stride": (lambda n: with_array(n, shape=(2, 2), strides=(COLS, 4)), "innermost stride is 4"),
    "no extent": (lambda n: with_array(n, shape=(0, COLS)), "manifest"),
    "no stride": (lambda n: with_array(n, strides=(0, 1)), "manifest"),
    "one dimension": (lambda n: with_array(n, shape=(ROWS,), strides=(1,)), "for a block"),
    "strides of another rank": (lambda n: with_array(n, strides=(COLS, COLS, 1)), "for a block"),
    "no dimension": (lambda n: with_array(n, shape=(), strides=()), "for a block"),
    "six dimensions": (lambda n: with_array(n, shape=(1,) * 6, strides=(1,) * 6), "manifest"),
    "an unknown buffer": (lambda n: with_array(n, buffer="output:1"), "unknown buffer 'output:1'"),
    "an array for a number": (
        lambda n: n.with_launch(0, arguments=tuple(reversed(n.manifest.programs[0].launches[0].arguments))),
        "argument 'x' of 'relu_rows' is an integer",
    ),
    "an array for a pointer": (lambda n: with_type(n.with_binary(0, tensor_maps=()), "*fp32"), r"type \*fp32"),
    "a pointer for an array": (
        lambda n: n.with_launch(
            0, arguments=(m.BufferArgument("input:0"), *n.manifest.programs[0].launches[0].arguments[1:])
        ),
        "is a buffer, but the parameter is of type tensordesc",
    ),
    "unknown elements": (lambda n: with_type(n, "tensordesc<fp99[8,8]>"), "unknown type"),
    "a huge rank": (lambda n: with_type(n, "tensordesc<fp32[" + "1," * 30000 + "1]>"), "unknown type"),
    "other elements": (lambda n: with_type(n, "tensordesc<fp16[8,8]>"), "are not those of fp16"),
    "no map": (lambda n: n.with_binary(0, tensor_maps=()), "0 tensor maps for 1 descriptor parameters"),
    "two maps": (
        lambda n: n.with_binary(0, tensor_maps=n.manifest.programs[0].kernels[0].binary.tensor_maps * 2),
        "2 tensor maps for 1 descriptor parameters",
    ),
    "a map for nothing": (lambda n: with_type(n, "*fp32"), "1 tensor maps for 0 descriptor parameters"),
    "element size": (lambda n: with_map(n, elem_size=2), "are not those of fp32"),
    "element type": (lambda n: with_map(n, elem_type=6), "are not those of fp32"),
    "swizzle": (lambda n: with_map(n, swizzle=4), "manifest"),
    "a box of another rank": (lambda n: with_map(n, block_size=(8,)), "does not divide the block"),
    "a box beyond the block": (lambda n: with_map(n, block_size=(16, 8)), "does not divide the block"),
    "an empty box": (lambda n: with_map(n, block_size=(0, 8)), "manifest"),
    "a narrow box": (lambda n: with_map(n, block_size=(8, 2)), "8 bytes of the innermost dimension are not a multiple"),
    "a tall box": (
        lambda n: with_map(with_type(n, "tensordesc<fp32[512,8]>"), block_size=(512, 8)),
        "more than 256 elements",
    ),
    "a box wider than the swizzle": (
        lambda n: with_map(with_type(n, "tensordesc<fp32[8,16]>"), block_size=(8, 16)),
        "64 bytes of the innermost dimension are swizzled by 32",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_lying_manifest(rows: Network, lie: str) -> None:
    change, words = LIES[lie]
    with pytest.raises(errors.ArtifactError, match=words):
        change(rows).build()


# -- On the driver


def test_computes(rows: Network, fake: FakeDriver, on_fake: Callable[..., Engine]) -> None:
    x = np.random.default_rng(3).standard_normal((ROWS, COLS)).astype(np.float32)
    y = on_fake(rows)(x)
    np.testing.assert_array_equal(y[:ROWS], np.maximum(x, 0))
    np.testing.assert_array_equal(y[ROWS:], 0)
    assert fake.violations == []


def test_what_the_driver_is_told(rows: Network, fake: FakeDriver, on_fake: Callable[..., Engine]) -> None:
    on_fake(rows)
    (record,) = fake.launches
    array = record.values[0]
    assert array.shape == (ROWS, COLS) and array.strides == (4 * COLS, 4) and array.box == (8, 8)
    assert (array.data_type, array.swizzle) == (7, 1)
    assert record.values[1:5] == (ROWS, COLS, COLS, 1), "shape and strides follow the map"
    assert record.values[5] % 512 == 0 and record.values[6:] == (COLS, 0, 0)
    assert fake.calls.count("cuTensorMapEncodeTiled") == 1, "once, when the network is loaded"


def test_maps_are_aligned() -> None:
    """Whatever the allocator does."""
    import ctypes

    maps = [TensorMap() for _ in range(200)]
    assert all(ctypes.addressof(each.value) % ALIGNMENT == 0 for each in maps)
    assert len({ctypes.addressof(each.value) for each in maps}) == 200


@pytest.mark.parametrize(
    ("rows_of_x", "version"), [(13, 13000), (13, 13020), (4096, 13000), (4097, 13000), (4097, 13020)]
)
def test_small_arrays(rows: Network, rows_of_x: int, version: int) -> None:
    """Up to CUDA 13.1 a bit is cleared for arrays of less than 128 KiB, and then only; the fake driver checks it.

    4096 rows of 32 bytes end at the last byte below the limit.
    """
    x = m.TensorSpec("x", "fp32", (rows_of_x, COLS))
    changed = with_array(rows, shape=(rows_of_x, COLS))
    manifest = msgspec.structs.replace(changed.manifest, inputs=(x,))
    fake = FakeDriver(version=version, hooks={"relu_rows": lambda record: None})
    Engine(Network(manifest, rows.blobs, rows.weights).build(), CudaExecutor(driver=Driver(fake)))
    assert fake.violations == []


def test_the_fake_driver_sees_a_wrong_bit(rows: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convc.runtime.encoding.SMALL_BIT", 0)
    fake = FakeDriver(hooks=HOOKS)
    with pytest.raises(errors.DeviceError, match="700"):
        Engine(rows.build(), CudaExecutor(driver=Driver(fake)))
    assert "bit of small arrays" in fake.violations[0]


def test_an_element_type_is_the_driver_s(rows: Network) -> None:
    """bf16 has another number in compiled code than for the driver."""
    changed = with_type(rows, "tensordesc<bf16[8,8]>")
    changed = with_map(changed, elem_size=2, elem_type=10, swizzle=0)
    fake = FakeDriver(hooks={"relu_rows": lambda record: None})
    Engine(changed.build(), CudaExecutor(driver=Driver(fake)))
    assert fake.launches[0].values[0].data_type == 9


def test_a_map_that_the_driver_refuses(rows: Network, fake: FakeDriver, on_fake: Callable[..., Engine]) -> None:
    fake.fail("cuTensorMapEncodeTiled", 1)
    with pytest.raises(errors.DeviceError, match="cuTensorMapEncodeTiled failed"):
        on_fake(rows)
    assert not fake.allocations


def test_a_driver_without_tensor_maps(rows: Network, fake: FakeDriver, on_fake: Callable[..., Engine]) -> None:
    fake._cuGetProcAddress = lambda name, version, flags: (0, 1)  # type: ignore[method-assign]
    with pytest.raises(errors.DeviceError, match=r"CUDA 12\.0 or newer is needed"):
        on_fake(rows)


def test_padded_rows(rows: Network) -> None:
    assert PADDED_ROWS % 8 == 0 and ROWS % 8 != 0, "the last block reaches past the array"
