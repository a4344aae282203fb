"""Files, tensor data and external data: what is read, and what is refused in one line."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_support import agree, floats, i64, info, model_of, one, run, whole

from convc import errors
from convc.frontends.onnx import import_onnx, limits
from convc.frontends.onnx.wire import split

X = {"x": whole(1, 3, 8, 8)}
W = whole(4, 3, 3, 3)
CONV = helper.make_node("Conv", ["x", "w"], ["y"])


def conv_model() -> onnx.ModelProto:
    return model_of([CONV], X, {"w": W})


def refused(source: Any, message: str, kind: type[errors.ConvcError] = errors.LoadError) -> errors.ConvcError:
    with pytest.raises(kind, match=message) as caught:
        import_onnx(source)
    assert "\n" not in str(caught.value)
    return caught.value


# -- files -------------------------------------------------------------------------------------------------------------
FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "text": (b"hello, this is not a model\n", "not an ONNX model"),
    "random": (np.random.default_rng(1).bytes(4096), "not an ONNX model"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "HTML": (b"\n <!DOCTYPE html><html>404</html>", "an HTML page"),
    "gzip": (gzip.compress(b"model"), "gunzip"),
    "pickle": (pickle.dumps({"a": 1}), "pickle.*torch.onnx.export"),
    "zip": (b"PK\x03\x04rest", "zip archive"),
    "length bomb": (b"\x08\x08\x3a\xff\xff\xff\xff\x07" + b"\0" * 16, "truncated"),
    "truncated": (conv_model().SerializeToString()[:200], "truncated"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_kinds(name: str, tmp_path: Path) -> None:
    data, message = FOREIGN[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    error = refused(path, message)
    assert error.file == str(path)
    assert str(error).startswith(str(path))


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    refused(tmp_path / "missing.onnx", "no such file")
    refused(tmp_path, "it is a directory")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "not a regular file")
    refused("a\0b", "cannot read the model")


def test_files_past_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILE_BYTES", 100)
    path = tmp_path / "model.onnx"
    onnx.save(conv_model(), path)
    refused(path, "external data", errors.LimitError)


def test_errors_in_nodes_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model_of([helper.make_node("Conv", ["x", "w"], ["y"], group=2, name="stem")], X, {"w": W}), path)
    error = refused(path, "groups", errors.ShapeError)
    assert (error.file, error.node) == (str(path), "stem")


def test_a_file_and_its_message_are_the_same_graph(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(conv_model(), path)
    assert import_onnx(path) == import_onnx(str(path)) == import_onnx(conv_model())


def test_weights_are_views_of_the_files_bytes(tmp_path: Path) -> None:
    big = floats(64, 3, 3, 3)
    path = tmp_path / "model.onnx"
    onnx.save(model_of([CONV], X, {"w": big}), path)
    [constant] = import_onnx(path).of_kind("Constant")
    np.testing.assert_array_equal(constant.array, big)
    base: Any = constant.array
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, memoryview)
    assert base.nbytes == big.nbytes
    assert len(base.obj) == path.stat().st_size


def test_cutting_weights_out_leaves_the_rest_as_it_was() -> None:
    constants = {"w": floats(64, 3, 3, 3), "small": floats(3), "b": floats(200), "i": i64(*range(100))}
    model = model_of([CONV], X, constants)
    data = model.SerializeToString()
    head, cuts = split(memoryview(data))
    assert sorted(cuts) == [0, 2, 3]
    rest = onnx.ModelProto.FromString(bytes(head))
    for index, tensor in enumerate(rest.graph.initializer):
        assert tensor.HasField("raw_data") == (index not in cuts)
        if index in cuts:
            tensor.raw_data = bytes(cuts[index])
    assert rest == model
    for end in range(len(data)):
        assert split(memoryview(data[:end]))[0] is not None


def test_damaged_files_never_escape_as_something_else(tmp_path: Path) -> None:
    data = bytearray(model_of([CONV], X, {"w": W, "b": i64(1, 2, 3)}).SerializeToString())
    stream = np.random.default_rng(3)
    path, refusals = tmp_path / "model.onnx", 0
    for _ in range(400):
        damaged = data.copy()
        for position in stream.integers(0, len(data), 3):
            damaged[position] = stream.integers(256)
        path.write_bytes(damaged)
        try:
            import_onnx(path)
        except errors.ConvcError:
            refusals += 1
    assert refusals > 100


# -- tensors -----------------------------------------------------------------------------------------------------------
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8, np.int16, np.int32, np.int64, np.uint8,
          np.uint16, np.uint32, np.uint64, np.bool_]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
def test_every_element_type_in_both_encodings(dtype: Any) -> None:
    array = np.array([[0, 1, 2], [3, 100, 5]]).astype(dtype)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    for raw in (True, False):
        values = array.tobytes() if raw else array.flatten()
        tensor = helper.make_tensor("c", element, array.shape, values, raw=raw)
        graph = helper.make_graph([], "g", [], [info("c", array)], [tensor])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        found = run(import_onnx(model), {})["c"]
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_scalars_keep_their_rank() -> None:
    one("Mul", floats(2, 3), constants=[np.asarray(2.5, np.float32)], exact=True)


def cleared(tensor: TensorProto, **fields: Any) -> None:
    tensor.ClearField("raw_data")
    for name, value in fields.items():
        if isinstance(value, list):
            del getattr(tensor, name)[:]
            getattr(tensor, name).extend(value)
        else:
            setattr(tensor, name, value)


TENSORS: dict[str, tuple[Callable[[TensorProto], Any], str]] = {
    "short": (lambda t: setattr(t, "raw_data", t.raw_data[:-4]), "428 bytes where .* 432"),
    "long": (lambda t: setattr(t, "raw_data", t.raw_data + b"\0" * 64), "496 bytes"),
    "no data": (cleared, "0 elements where .* 108"),
    "negative": (lambda t: t.dims.__setitem__(0, -4), "negative size"),
    "product wraps": (lambda t: cleared(t, dims=[1 << 32, 1 << 32, 1, 1], raw_data=b""), "limit"),
    "bytes wrap": (lambda t: cleared(t, dims=[(1 << 62) + 1, 4, 27, 1], raw_data=b"\0" * 432), "limit"),
    "rank": (lambda t: t.dims.extend([1] * 5), "9 dimensions"),
    "undefined": (lambda t: setattr(t, "data_type", 0), "UNDEFINED"),
    "dtype 999": (lambda t: setattr(t, "data_type", 999), "element type 999"),
    "string": (lambda t: setattr(t, "data_type", TensorProto.STRING), "STRING"),
    "two payloads": (lambda t: t.float_data.append(1.0), "two fields"),
    "other field": (lambda t: cleared(t, int64_data=[1] * 108), "int64_data; expected float_data"),
    "out of range": (lambda t: cleared(t, data_type=TensorProto.INT8, int32_data=[300] * 108), "outside the range"),
    "segment": (lambda t: t.segment.SetInParent(), "segmented"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_contradict_themselves(name: str) -> None:
    change, message = TENSORS[name]
    model = conv_model()
    change(model.graph.initializer[0])
    refused(model, f"'w'.*({message})|{message}", errors.ConvcError)


# -- external data -----------------------------------------------------------------------------------------------------
def external(folder: Path, in_a_node: bool = False, **entries: object) -> Path:
    """A model in ``folder`` whose weight lies outside it."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=W.shape, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor), CONV] if in_a_node else [CONV]
    model = model_of(nodes, X)
    if not in_a_node:
        model.graph.initializer.append(tensor)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights, beside a secret that no model in it may read."""
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    inner = tmp_path / "model"
    (inner / "sub").mkdir(parents=True)
    (inner / "w.bin").write_bytes(b"\0" * 100 + W.tobytes() + b"\0" * 9)
    (inner / "sub" / "w.bin").write_bytes(W.tobytes())
    return inner


@pytest.mark.parametrize(
    "entries", [{"location": "sub/w.bin"}, {"location": "./w.bin", "offset": 100, "length": 432}], ids=str
)
@pytest.mark.parametrize("in_a_node", [False, True])
def test_external_data(folder: Path, entries: dict[str, object], in_a_node: bool) -> None:
    wanted = run(import_onnx(conv_model()), X)["y"]
    np.testing.assert_array_equal(run(import_onnx(external(folder, in_a_node, **entries)), X)["y"], wanted)


ESCAPES: dict[str, tuple[dict[str, object], str]] = {
    "parent": ({"location": "../secret.bin"}, "plain path"),
    "through a folder": ({"location": "sub/../../secret.bin"}, "plain path"),
    "absolute": ({"location": "/dev/zero"}, "plain path"),
    "backslash": ({"location": "..\\secret.bin"}, "plain path"),
    "NUL": ({"location": "w.bin\0.txt"}, "plain path"),
    "empty": ({"location": ""}, "plain path"),
    "none": ({}, "plain path"),
    "URL": ({"location": "http://127.0.0.1:9/w.bin"}, "plain path"),
    "marker": ({"location": "*/_ORT_MEM_ADDR_/*", "offset": 4096, "length": 432}, "plain path|refused"),
    "symbolic link": ({"location": "link.bin"}, "refused"),
    "linked folder": ({"location": "up/secret.bin"}, "refused"),
    "hard link": ({"location": "hard.bin"}, "single name"),
    "pipe": ({"location": "pipe"}, "regular file"),
    "folder": ({"location": "sub"}, "regular file"),
    "missing": ({"location": "nope.bin"}, "no such file"),
    "offset past the end": ({"location": "w.bin", "offset": 1 << 40}, "ends at byte"),
    "negative offset": ({"location": "w.bin", "offset": -432}, "byte count"),
    "offset wraps": ({"location": "w.bin", "offset": (1 << 64) - 4}, "byte count"),
    "offset is text": ({"location": "w.bin", "offset": "abc"}, "byte count"),
    "short": ({"location": "w.bin", "length": 4}, "4 bytes where .* 432"),
    "huge": ({"location": "w.bin", "length": 1 << 50}, "where .* 432"),
    "attribute by name": ({"location": "sub/w.bin", "__class__": "x"}, "unknown or repeated key"),
}


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("in_a_node", [False, True])
def test_external_data_stays_in_the_models_folder(folder: Path, name: str, in_a_node: bool) -> None:
    entries, message = ESCAPES[name]
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "up").symlink_to("..")
    (folder / "hard.bin").hardlink_to(folder.parent / "secret.bin")
    os.mkfifo(folder / "pipe")
    refused(external(folder, in_a_node, **entries), message)


def test_models_in_memory_have_no_external_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(folder, location="sub/w.bin")
    monkeypatch.chdir(folder)
    refused(onnx.load(path, load_external_data=False), "in memory; give its path")
    assert import_onnx("model.onnx").graph_outputs[0].outputs[0].shape == (1, 4, 6, 6)


def test_zip_of_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.onnx", conv_model().SerializeToString())
    refused(path, "zip archive")


def test_reference_values_are_those_of_onnx() -> None:
    """The own reader of tensors agrees with onnx's."""
    for array in (floats(3, 4), floats(3, dtype=np.float16), i64(1, -2), np.asarray(7, np.int32)):
        tensor = numpy_helper.from_array(array, "c")
        model = model_of([helper.make_node("Identity", ["c"], ["y"])], {}, types={"y": tensor.data_type})
        model.graph.initializer.append(tensor)
        agree(model, {}, exact=True, expected={"y": numpy_helper.to_array(tensor)})
