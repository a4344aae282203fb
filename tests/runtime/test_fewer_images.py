"""A dynamic batch in the runtime: as many images in and out as there are, on the fake driver, and what is refused."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_driver import FakeDriver
from test_bound import Gpu
from test_pipeline import lazily
from tiny_network import SHAPE, Network

from convc import errors
from convc.runtime import manifest as m
from convc.runtime.artifact import build
from convc.runtime.device_array import DeviceArray
from convc.runtime.engine import Engine
from convc.runtime.inputs import InputBinder

MOST = SHAPE[0]
IMAGE_BYTES = 4 * SHAPE[1] * SHAPE[2]


@pytest.fixture
def dynamic(network: Network) -> Network:
    """The tiny network for one image, or for two."""
    changed = {
        role: tuple(msgspec.structs.replace(spec, images=1) for spec in getattr(network.manifest, role))
        for role in ("inputs", "outputs")
    }
    return Network(msgspec.structs.replace(network.manifest, max_batch=MOST, **changed), network.blobs, network.weights)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE[1:])).astype(np.float32)


def expected(network: Network, x: np.ndarray) -> np.ndarray:
    return np.maximum(x + network.weights[: len(x)], np.float32(0))


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Kind and bytes of every copy, as they happen."""
    found: list[tuple[str, int]] = []
    for name in ("HtoD", "DtoH", "DtoD"):
        original = getattr(FakeDriver, f"_cuMemcpy{name}Async")

        def copied(*arguments: Any, name: str = name, original: Callable[..., Any] = original) -> Any:
            found.append((name, arguments[3]))
            return original(*arguments)

        monkeypatch.setattr(FakeDriver, f"_cuMemcpy{name}Async", copied)
    return found


def test_as_many_images_are_copied_as_there_are(dynamic: Network, moved: list[Any]) -> None:
    gpu = Gpu(dynamic)
    moved.clear()
    for count in (1, MOST, 1):
        x = images(count, count)
        np.testing.assert_array_equal(gpu.engine(x), expected(dynamic, x))
        assert moved == [("HtoD", count * IMAGE_BYTES), ("DtoH", count * IMAGE_BYTES)]
        moved.clear()
    assert gpu.fake.violations == []


def test_arrays_on_the_gpu_give_as_many_images_there(dynamic: Network, moved: list[Any]) -> None:
    gpu = Gpu(dynamic)
    x = images(1)
    given = gpu.array(x)
    moved.clear()
    found = gpu.engine(given)
    assert found.shape == x.shape and moved == [("DtoD", IMAGE_BYTES)] * 2
    np.testing.assert_array_equal(gpu.read(found), expected(dynamic, x))


def test_images_that_were_never_given_are_zeros(dynamic: Network) -> None:
    """Fresh memory of the fake driver holds NaN."""
    gpu = Gpu(dynamic)
    x = images(1)
    gpu.engine(x)
    held = gpu.engine.executor.buffer("input:0").view(np.float32)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(held, np.concatenate([x.ravel(), np.zeros(x.size, np.float32)]))


@pytest.mark.parametrize("seed", range(10))
def test_batches_of_any_size_in_one_stream(dynamic: Network, seed: int) -> None:
    fake, engine = lazily(dynamic, seed)
    sizes = np.random.default_rng(seed).permutation([1, MOST] * 4)
    given = [images(size, number) for number, size in enumerate(sizes)]
    found = [result["y"] for result in engine.stream({"x": x} for x in given)]
    for x, y in zip(given, found, strict=True):
        np.testing.assert_array_equal(y, expected(dynamic, x))
    assert fake.violations == []


@pytest.fixture
def fewer(dynamic: Network) -> Network:
    """Two programs of four are enough for one image."""
    return dynamic.with_launch(0, fewer=((1, 2),)).with_launch(1, fewer=((1, 3),))


class TestFewerPrograms:
    def test_a_run_launches_as_many_as_are_enough(self, fewer: Network) -> None:
        gpu = Gpu(fewer)
        for count, grids in ((1, [2, 3]), (MOST, [4, 4]), (1, [2, 3])):
            gpu.fake.replayed.clear()
            x = images(count, count)
            np.testing.assert_array_equal(gpu.engine(x), expected(fewer, x))
            assert [record.grid[0] for record in gpu.fake.replayed] == grids
        assert gpu.fake.violations == []

    def test_a_graph_is_captured_when_it_is_first_wanted(self, fewer: Network) -> None:
        gpu = Gpu(fewer)
        captured = []
        for count in (MOST, 1, 1, MOST):
            before = gpu.fake.calls.count("cuGraphInstantiate")
            gpu.engine(images(count))
            captured.append(gpu.fake.calls.count("cuGraphInstantiate") - before)
        assert captured == [0, 1, 0, 0]
        gpu.engine.close()
        assert not gpu.fake.allocations and not +gpu.fake.open

    def test_what_is_timed_is_that_run(self, fewer: Network) -> None:
        gpu = Gpu(fewer)
        for count, grids in ((1, [2, 3]), (MOST, [4, 4])):
            for time in (gpu.engine.profile, lambda inputs: gpu.engine.measure(inputs, repeats=1)):
                gpu.fake.replayed.clear()
                time({"x": images(count)})
                assert [record.grid[0] for record in gpu.fake.replayed][:2] == grids

    def test_bound_to_arrays_of_one_image(self, fewer: Network) -> None:
        gpu = Gpu(fewer)
        x = images(1)
        bound = gpu.engine.bind({"x": gpu.array(x)})
        gpu.fake.replayed.clear()
        np.testing.assert_array_equal(gpu.read(bound()["y"]), expected(fewer, x))
        assert [record.grid[0] for record in gpu.fake.replayed] == [2, 3]

    @pytest.mark.parametrize("pairs", [((2, 2),), ((1, 5),), ((1, 2), (1, 3))])
    def test_what_cannot_be(self, dynamic: Network, pairs: tuple[tuple[int, int], ...]) -> None:
        with pytest.raises(errors.ArtifactError, match="launch 0"):
            dynamic.with_launch(0, fewer=pairs).build()


class TestBound:
    def test_the_largest_batch_is_used_where_it_lies(self, dynamic: Network, moved: list[Any]) -> None:
        gpu = Gpu(dynamic)
        x = images(MOST)
        bound = gpu.engine.bind({"x": gpu.array(x)})
        moved.clear()
        np.testing.assert_array_equal(gpu.read(bound()["y"]), expected(dynamic, x))
        assert moved == []

    @pytest.mark.parametrize("own_stream", [False, True])
    def test_a_smaller_one_is_copied_and_nothing_is_written_behind_it(
        self, dynamic: Network, moved: list[Any], own_stream: bool
    ) -> None:
        gpu = Gpu(dynamic)
        x, y = gpu.array(images(1)), gpu.array(images(1, 1))
        bound = gpu.engine.bind({"x": x}, {"y": y})
        moved.clear()
        stream = gpu.stream() if own_stream else None
        for seed in range(2):
            new = images(1, seed)
            ctypes.memmove(x.pointer, new.ctypes.data, new.nbytes)
            assert bound(stream)["y"] is y
            np.testing.assert_array_equal(gpu.read(y, stream), expected(dynamic, new))
        assert moved == [("DtoD", IMAGE_BYTES)] * 4
        assert all(allocation.intact for allocation in gpu.fake.allocations.values())
        assert gpu.fake.violations == []

    def test_new_outputs_hold_as_many_images(self, dynamic: Network) -> None:
        gpu = Gpu(dynamic)
        made = gpu.engine.bind({"x": gpu.array(images(1))}).outputs["y"]
        assert isinstance(made, DeviceArray) and made.shape == (1, *SHAPE[1:])

    def test_outputs_of_another_number_are_refused(self, dynamic: Network) -> None:
        gpu = Gpu(dynamic)
        with pytest.raises(errors.InputError, match=r"'y': expected shape \[1, 5, 5\], found \[2, 5, 5\]"):
            gpu.engine.bind({"x": gpu.array(images(1))}, {"y": gpu.array(images(2))})


class TestRefusals:
    @pytest.mark.parametrize("shape", [(MOST + 1, 5, 5), (0, 5, 5), (1, 5, 6)])
    def test_another_number_of_images_than_the_engine_has(self, dynamic: Network, shape: tuple[int, ...]) -> None:
        gpu = Gpu(dynamic)
        with pytest.raises(errors.InputError) as raised:
            gpu.engine(np.zeros(shape, np.float32))
        message = str(raised.value)
        assert "input 'x': expected shape [N, 5, 5] with a batch N of 1 to 2" in message
        assert f"found {list(shape)}" in message and "--max-batch" in message
        x = images(1)
        np.testing.assert_array_equal(gpu.engine(x), expected(dynamic, x))

    def test_another_rank(self, dynamic: Network) -> None:
        with pytest.raises(errors.InputError, match="expected 3 dimensions"):
            Gpu(dynamic).engine(np.zeros((5, 5), np.float32))

    def test_a_batch_that_a_stream_cannot_use(self, dynamic: Network) -> None:
        results = []
        with pytest.raises(errors.InputError, match="1 to 2"):
            for result in Gpu(dynamic).engine.stream({"x": images(n)} for n in (1, 2, 3, 1)):
                results.append(len(result["y"]))
        assert results == [1, 2]

    def test_inputs_of_different_numbers(self) -> None:
        specs = (
            m.TensorSpec("scale", "fp32", (3,)),
            m.TensorSpec("a", "fp32", (4, 2), images=1),
            m.TensorSpec("b", "fp32", (8, 3), images=2),
        )
        binder = InputBinder(specs, None, 4)
        given = {"scale": np.zeros(3, np.float32), "a": np.zeros((3, 2), np.float32)}
        bound = binder.bind({**given, "b": np.zeros((6, 3), np.float32)})
        assert [array.shape for array in bound] == [(3,), (3, 2), (6, 3)]
        with pytest.raises(errors.InputError, match="input 'b': expected 3 images, as input 'a' has, found 2"):
            binder.bind({**given, "b": np.zeros((4, 3), np.float32)})
        with pytest.raises(errors.InputError, match=r"input 'b': expected shape \[2\*N, 3\]"):
            binder.bind({**given, "b": np.zeros((5, 3), np.float32)})


def test_a_manifest_that_contradicts_itself(dynamic: Network) -> None:
    for changed, said in (
        ({"max_batch": 3}, "of 3 images"),
        ({"max_batch": 0}, "of 0 images"),
        ({"inputs": (m.TensorSpec("x", "fp32", SHAPE),), "outputs": (m.TensorSpec("y", "fp32", SHAPE),)}, "no input"),
    ):
        manifest = msgspec.structs.replace(dynamic.manifest, **changed)  # type: ignore[arg-type]
        with pytest.raises(errors.ArtifactError, match=said):
            build(manifest, dynamic.blobs)


def test_the_engine_says_its_most(dynamic: Network, network: Network, on_fake: Callable[..., Engine]) -> None:
    assert (on_fake(dynamic).max_batch, on_fake(network).max_batch) == (MOST, 0)
