"""Networks whose sizes are open: compiled for each when they are first run with it, kept, saved and loaded."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from compiled import Builder, evaluate
from onnx import TensorProto, helper

import convc
import convc.specialise
from convc import errors, nn
from convc.analysis.bounds import output_bounds
from convc.ir import Dim, DType, Graph, TensorType
from convc.runtime.artifact import build
from convc.runtime.numpy_executor import NumpyExecutor
from convc.specialise import OpenNetwork

pytestmark = pytest.mark.usefixtures("interpreters")
N, H, W = (Dim.symbol(name) for name in "NHW")


def segmenter(batch: int | str = "N") -> Graph:
    net = nn.Network("segmenter")
    x = net.input(3, H, W, batch=batch).conv(8, 3, padding=1, bias=False).batch_norm().relu()
    y = x.max_pool(2).conv(16, 3, padding=1).relu().conv(8, 1)
    return net.output(y.global_avg_pool().sigmoid() * y).graph


def sized_inside() -> onnx.ModelProto:
    """A model that can only be read with its sizes: it makes a range as long as its input."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["range"], name="ramp"),
        helper.make_node("Cast", ["range"], ["ramp"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "ramp"], ["y"]),
    ]
    numbers = [helper.make_tensor(n, TensorProto.INT64, [], [v]) for n, v in (("zero", 0), ("one", 1), ("two", 2))]
    tensors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, "wide"]) for n in "xy"]
    graph = helper.make_graph(nodes, "ramp", tensors[:1], tensors[1:], numbers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def opened(model: Any, **options: Any) -> OpenNetwork:
    network = convc.compile(model, **{"target": "interpreter", "dtype": "fp32", **options})
    assert isinstance(network, OpenNetwork)
    return network


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The graphs that are compiled from now on."""
    found: list[Any] = []
    original = convc.specialise.make_plan

    def make_plan(graph: Graph, options: Any) -> Any:
        found.append([node.outputs[0].shape for node in graph.graph_inputs])
        return original(graph, options)

    monkeypatch.setattr(convc.specialise, "make_plan", make_plan)
    return found


def test_each_size_is_compiled_once_and_right(compilations: list[Any]) -> None:
    graph = segmenter()
    network = opened(graph)
    assert network.sizes == ("H", "W") and network.inputs[0].shape == (1, 3, -1, -1)
    assert compilations == [], "nothing is compiled before sizes are known"
    for shape in ((8, 8), (6, 11), (8, 8)):
        x = array(1, 3, *shape)
        bound = graph.bind({"N": 1, "H": shape[0], "W": shape[1]})
        wanted = evaluate(bound, {"input": x})["output"]
        assert np.abs(network(x) - wanted).max() <= output_bounds(bound, "fp32", {"input": x}, 0)["output"]
    assert compilations == [[(1, 3, 8, 8)], [(1, 3, 6, 11)]]


def test_the_ones_not_used_for_longest_go(compilations: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convc.specialise, "MOST_KEPT", 2)
    network = opened(segmenter(), target="")
    with network.engine("numpy") as engine:
        for wide in (4, 6, 4, 8, 4, 6):
            engine(array(1, 3, 4, wide))
    assert [shapes[0][3] for shapes in compilations] == [4, 6, 8, 6]


def test_threads(compilations: list[Any]) -> None:
    network = opened(segmenter(), target="")
    with network.engine("numpy") as engine, ThreadPoolExecutor(4) as pool:
        shapes = [(1, 3, 4, wide) for wide in (4, 6, 8)] * 4
        found = list(pool.map(lambda shape: engine(array(*shape)).shape, shapes))
    assert found == [(1, 8, 2, shape[3] // 2) for shape in shapes]
    assert len(compilations) == 3


def test_a_stream_of_several_sizes() -> None:
    network = opened(segmenter(), target="")
    with network.engine("numpy") as engine:
        found = [result["output"].shape for result in engine.stream({"input": array(1, 3, 4, n)} for n in (4, 6, 4))]
    assert found == [(1, 8, 2, 2), (1, 8, 2, 3), (1, 8, 2, 2)]


@pytest.mark.parametrize("model", [segmenter, sized_inside], ids=["graph", "onnx"])
def test_saved_and_loaded(model: Any, tmp_path: Path) -> None:
    network = opened(model())
    network.save(tmp_path / "open.convc")
    loaded = convc.load(tmp_path / "open.convc")
    assert isinstance(loaded, OpenNetwork) and loaded.sizes == network.sizes
    x = array(1, 3, 6) if model is sized_inside else array(1, 3, 6, 6)
    np.testing.assert_array_equal(loaded(x), network(x))
    network.close()
    loaded.close()


def test_a_model_that_must_know_its_sizes_to_be_read() -> None:
    network = opened(sized_inside(), target="", batch=2)
    with network.engine("numpy") as engine:
        for wide in (4, 7):
            x = array(2, 3, wide)
            np.testing.assert_array_equal(engine(x), x + np.arange(wide, dtype=np.float32))


def test_sizes_that_are_given_are_compiled_now(compilations: list[Any]) -> None:
    network = convc.compile(segmenter(), target="interpreter", dims={"H": 8, "W": 6}, batch=2)
    assert not isinstance(network, OpenNetwork) and network.inputs[0].shape == (2, 3, 8, 6)
    some = opened(segmenter(), dims={"H": 8})
    assert some.sizes == ("W",) and some.inputs[0].shape == (1, 3, 8, -1)
    assert some.specialised({"W": 4}).inputs[0].shape == (1, 3, 8, 4)


class TestBatch:
    def test_one_specialisation_for_all_batches(self, compilations: list[Any]) -> None:
        graph = segmenter()
        network = opened(graph, batch="dynamic", max_batch=3)
        assert network.sizes == ("N", "H", "W")
        whole = network(array(3, 3, 6, 6))
        for count in (1, 2):
            np.testing.assert_array_equal(network(array(3, 3, 6, 6)[:count]), whole[:count])
        assert compilations == [[(N, 3, 6, 6)]]
        with pytest.raises(errors.InputError, match="a batch N of 1 to 3"):
            network(array(4, 3, 6, 6))
        with pytest.raises(errors.InputError, match="'N' is 4, expected 1 to 3"):
            network(array(4, 3, 8, 8))
        np.testing.assert_array_equal(network(array(3, 3, 6, 6)), whole)

    def test_images_that_are_mixed(self, compilations: list[Any], caplog: pytest.LogCaptureFixture) -> None:
        b = Builder()
        x = b.graph.add_input("x", TensorType(DType.FP32, (N, 4)))
        b.output(b.add("Softmax", b.add("Neg", x), axis=0))
        with caplog.at_level(logging.WARNING, "convc"):
            network = opened(b.graph, batch="dynamic", max_batch=3)
        assert "Softmax gives for one image may depend on the others" in caplog.text
        for count in (1, 3, 2, 3):
            found = network(x0 := array(count, 4))
            wanted = evaluate(b.graph.bind({"N": count}), {"x": x0})["y0"]
            assert np.abs(found - wanted).max() <= 8 * DType.FP32.epsilon
        assert compilations[1:] == [[(1, 4)], [(3, 4)], [(2, 4)]], "the first is that of all batches, which is refused"
        with pytest.raises(errors.InputError, match="expected 1 to 3"):
            network(array(4, 4))

    def test_an_onnx_model_that_makes_a_range_of_its_images(self) -> None:
        model = sized_inside()
        model.graph.initializer[2].ClearField("int64_data")
        model.graph.initializer[2].int64_data.append(0)  # the range is as long as the batch
        model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_param")
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1
        network = opened(model, batch="dynamic", max_batch=3, target="")
        with network.engine("numpy") as engine:
            x = array(2, 3, 1)
            np.testing.assert_array_equal(engine(x), x + np.arange(2, dtype=np.float32))


class TestRefusals:
    def test_sizes_that_the_model_refuses(self) -> None:
        b = Builder()
        x = b.graph.add_input("x", TensorType(DType.FP32, (1, 3, H)))
        y = b.graph.add_input("y", TensorType(DType.FP32, (1, 3, W)))
        b.output(b.add("Add", x, b.add("Concat", y, y, axis=2)))
        network = opened(b.graph, target="")
        with network.engine("numpy") as engine:
            with pytest.raises(errors.ShapeError) as raised:
                engine(array(1, 3, 5), array(1, 3, 4))
            assert raised.value.node is not None
            assert engine(array(1, 3, 8), array(1, 3, 4)).shape == (1, 3, 8)

    def test_one_size_in_two_inputs(self) -> None:
        b = Builder()
        x, y = (b.graph.add_input(name, TensorType(DType.FP32, (1, H))) for name in "xy")
        b.output(b.add("Add", x, y))
        with opened(b.graph, target="").engine("numpy") as engine:
            with pytest.raises(errors.InputError, match=r"input 'y': expected shape \[1, 3\], found \[1, 4\]"):
                engine(array(1, 3), array(1, 4))
            assert engine(array(1, 4), array(1, 4)).shape == (1, 4)

    @pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8), (1, 3, 8)])
    def test_other_shapes(self, shape: tuple[int, ...]) -> None:
        with opened(segmenter(), target="").engine("numpy") as engine, pytest.raises(errors.InputError, match="any"):
            engine(array(*shape))

    def test_operators_that_no_size_helps(self) -> None:
        model = sized_inside()
        model.graph.node[4].op_type = "Magic"
        network = opened(model, target="")
        with network.engine("numpy") as engine, pytest.raises(errors.UnsupportedModelError, match="Magic"):
            engine(array(1, 3, 4))

    def test_nothing_to_see_before_sizes_are_known(self) -> None:
        network = opened(segmenter())
        for look in (network.report, lambda: network.plan):
            with pytest.raises(errors.UsageError, match="holds nothing compiled"):
                look()
        assert network.kernels == []

    def test_an_executor_runs_one_program(self) -> None:
        network = opened(segmenter())
        with pytest.raises(errors.UsageError, match="'H', 'W' are open, and an executor runs one program"):
            network.engine(NumpyExecutor())
        with network.specialised({"H": 4, "W": 4}).engine(NumpyExecutor()) as engine:
            assert engine(array(1, 3, 4, 4)).shape == (1, 8, 2, 2)

    def test_a_model_that_is_none(self, tmp_path: Path) -> None:
        manifest = opened(segmenter()).artifact.manifest
        build(manifest, {convc.specialise.SECTION: b"\xff"}).save(tmp_path / "m.convc")
        with pytest.raises(errors.ArtifactError, match=r"'model\.onnx': not an ONNX model"):
            convc.load(tmp_path / "m.convc")

    def test_a_model_of_another_manifest(self, tmp_path: Path) -> None:
        artifact = opened(segmenter()).artifact
        other = onnx.load_from_string(bytes(artifact.section(convc.specialise.SECTION)))
        other.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
        build(artifact.manifest, {convc.specialise.SECTION: other.SerializeToString()}).save(tmp_path / "m.convc")
        with pytest.raises(errors.ArtifactError, match=r"'model\.onnx': its inputs are not those of the manifest"):
            convc.load(tmp_path / "m.convc")

    @pytest.mark.parametrize("batch", [0, -1])
    def test_batches_that_are_none(self, batch: int) -> None:
        with pytest.raises(errors.UsageError, match=f"whole number of 1 or more, or dynamic, found '{batch}'"):
            convc.compile(segmenter(), target="", batch=batch, dims={"H": 4, "W": 4})

    def test_names(self) -> None:
        with pytest.raises(errors.UsageError, match="expected sizes named 'H', 'W', found 'H'"):
            opened(segmenter()).specialised({"H": 8})
        with pytest.raises(errors.UsageError, match="Q"):
            convc.compile(segmenter(), dims={"Q": 8})

    def test_weights_in_other_files(self, tmp_path: Path) -> None:
        model = sized_inside()
        array_of = np.zeros(400, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array_of, "large"))
        onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=100)
        with pytest.raises(errors.UsageError, match="other files"):
            convc.compile(tmp_path / "m.onnx", target="")

    def test_the_runtime_alone_says_what_it_needs(self, tmp_path: Path) -> None:
        opened(segmenter()).save(tmp_path / "open.convc")
        with pytest.raises(errors.DeviceError, match=r"sizes of 'segmenter' are open.*convc\.load"):
            convc.runtime.engine.load(tmp_path / "open.convc", "numpy")
