"""Views, movement and constants in every opset form, against ONNX Runtime; all of it exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_support import agree, floats, i64, model_of, one, ops_of, run, whole

from convc import errors
from convc.frontends.onnx import import_onnx


def exact(op: str, *arrays: np.ndarray, **options: Any) -> list[str]:
    """Checks one operator bit for bit; the operators that it became."""
    return ops_of(one(op, *arrays, exact=True, **options))


@pytest.mark.parametrize("shape", [(6, 4), (-1, 4), (0, -1), (0, 0, 4), (2, 0, 2, 2), (24,), (1, -1, 1)], ids=str)
def test_reshape(shape: tuple[int, ...]) -> None:
    assert exact("Reshape", whole(2, 3, 4), constants=[i64(*shape)], opset=13) == ["Reshape"]


def test_reshape_with_allowzero() -> None:
    exact("Reshape", whole(0, 3, 4), constants=[i64(3, 4, 0)], opset=14, allowzero=1)
    exact("Reshape", whole(2, 3, 4), constants=[i64(-1, 4)], opset=14, allowzero=1)


BAD_SHAPES = [(5, 5), (-1, -1), (-5, 3), (1, 3, 8, 0), (1 << 32, 1 << 32, 24), (0, 0, 0, 0)]


@pytest.mark.parametrize("shape", BAD_SHAPES, ids=str)
def test_reshape_that_does_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(errors.ShapeError, match="node 'the_node': cannot reshape"):
        one("Reshape", whole(2, 3, 4), constants=[i64(*shape)], expected=[whole(1)])


@pytest.mark.parametrize("axis", [0, 1, 3, 4, -1, -3])
def test_flatten(axis: int) -> None:
    exact("Flatten", whole(2, 3, 4, 5), opset=11, axis=axis)
    exact("Flatten", whole(2, 3, 4, 5), opset=9)


def test_transpose() -> None:
    exact("Transpose", whole(2, 3, 4))
    exact("Transpose", whole(2, 3, 4, 5), perm=[0, 2, 3, 1])


def test_squeeze_and_unsqueeze() -> None:
    x = whole(1, 3, 1, 5)
    exact("Squeeze", x, opset=11, axes=[0, 2])
    exact("Squeeze", x, constants=[i64(0, -2)], opset=13)
    exact("Squeeze", x, opset=13)
    exact("Unsqueeze", whole(3, 5), opset=11, axes=[0, 3])
    exact("Unsqueeze", whole(3, 5), constants=[i64(-1, 1)], opset=13)
    with pytest.raises(errors.ShapeError, match="axis 1"):
        one("Squeeze", x, constants=[i64(1)], expected=[x])


def test_expand() -> None:
    exact("Expand", whole(3, 1), constants=[i64(2, 3, 4)])
    exact("Expand", whole(2, 3, 4), constants=[i64(3, 1)])


@pytest.mark.parametrize("repeats", [(1, 2, 3), (2, 1, 1), (1, 1, 1), (0, 1, 1)], ids=str)
def test_tile(repeats: tuple[int, ...]) -> None:
    exact("Tile", whole(2, 1, 3), constants=[i64(*repeats)])


SLICES = [
    ([1], [5], [2], None), ([0, -3], [1 << 62, -1], [1, -1], None), ([-1], [-(1 << 62)], [2], [-1]),
    ([7, 0], [0, 9], [2, 3], [-2, 3]), ([5], [2], [2], None), ([1], [2], None, None), ([-100], [100], [3], [4]),
    ([0], [0], [0], None), ([6], [1], [2], [-3]),
]  # fmt: skip


@pytest.mark.parametrize("arguments", SLICES, ids=str)
def test_slice(arguments: tuple[list[int], list[int], list[int] | None, list[int] | None]) -> None:
    x = whole(2, 3, 8, 9)
    given = [None if values is None else i64(*values) for values in arguments]
    exact("Slice", x, constants=given, opset=13)
    names = ("starts", "ends", "axes", "steps")
    attributes = {name: values for name, values in zip(names, arguments, strict=True) if values is not None}
    if "steps" not in attributes:
        exact("Slice", x, opset=9, **attributes)


def test_slice_of_everything_is_nothing() -> None:
    assert exact("Slice", whole(2, 3), constants=[i64(0), i64(1 << 62), i64(1)]) == []


SPLITS = [
    (11, {"axis": 1}, None, 2), (11, {"axis": -1, "split": [1, 2, 5]}, None, 3), (13, {"axis": 1}, i64(1, 5), 2),
    (13, {"axis": 2}, None, 4), (18, {"axis": 1, "num_outputs": 4}, None, 4), (2, {"axis": 0}, None, 2),
]  # fmt: skip


@pytest.mark.parametrize(("opset", "attributes", "sizes", "count"), SPLITS, ids=str)
def test_split(opset: int, attributes: dict[str, Any], sizes: np.ndarray | None, count: int) -> None:
    x = whole(2, 6, 8)
    opset = max(opset, 7)
    constants = [] if sizes is None else [sizes]
    wanted = None
    if attributes.get("num_outputs") == 4:
        wanted = [x[:, :2], x[:, 2:4], x[:, 4:6], x[:, 6:]]
    exact("Split", x, constants=constants, opset=opset, outputs=count, expected=wanted, **attributes)


def test_split_that_does_not_add_up() -> None:
    with pytest.raises(errors.ShapeError, match="do not add up"):
        one("Split", whole(2, 6), constants=[i64(1, 6)], outputs=2, axis=1, expected=[whole(1), whole(1)])


def test_pieces_of_an_axis_of_symbolic_size_are_refused() -> None:
    """Two rows and two are all of it for one batch only."""
    node = helper.make_node("Split", ["x", "sizes"], ["y", "z"], axis=0)
    feeds = {"x": whole(4, 3)}
    model = model_of([node], feeds, {"sizes": i64(2, 2)}, results=["y", "z"], shapes={"x": ["N", 3]})
    with pytest.raises(errors.UnsupportedModelError, match="parts depends on the symbolic size N"):
        import_onnx(model)
    assert agree(model, feeds, exact=True, batch=4).symbols == frozenset()


def test_pieces_of_a_sequence() -> None:
    feeds = {"x": whole(2, 6, 3)}
    for split, keep in ((i64(1, 2, 3), 1), (np.asarray(4), 1), (None, 1), (None, 0)):
        constants = {"a": np.asarray(1), "b": np.asarray(-2)} | ({} if split is None else {"s": split})
        nodes = [
            helper.make_node("SplitToSequence", ["x"] + ["s"] * (split is not None), ["q"], axis=1, keepdims=keep),
            helper.make_node("SequenceAt", ["q", "a"], ["f"]),
            helper.make_node("SequenceAt", ["q", "b"], ["g"]),
            helper.make_node("SequenceLength", ["q"], ["n"]),
        ]
        types = {"n": TensorProto.INT64}
        agree(model_of(nodes, feeds, constants, results=["f", "g", "n"], types=types), feeds, exact=True)


def test_a_sequence_is_put_together_but_is_no_result() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["q"]),
        helper.make_node("ConcatFromSequence", ["q"], ["y"], axis=1),
    ]
    feeds = {"x": whole(2, 6)}
    agree(model_of(nodes, feeds), feeds, exact=True)
    with pytest.raises(errors.LoadError, match="output 'q' is no tensor"):
        import_onnx(model_of(nodes[:1], feeds, results=["q"]))


PADS = [(0, 0, 1, 2, 0, 0, 3, 0), (0, 0, 0, 0, 0, 0, 0, 0), (0, 1, -1, -2, 0, 2, 0, 1), (0, 0, -1, -1, 0, 0, -1, -1)]


@pytest.mark.parametrize("pads", PADS, ids=str)
def test_pad(pads: tuple[int, ...]) -> None:
    x = whole(1, 2, 5, 6)
    for mode in ("constant", "reflect", "edge"):
        if min(pads) >= 0 or mode == "constant":
            exact("Pad", x, constants=[i64(*pads)], opset=13, mode=mode)
            exact("Pad", x, opset=10, mode=mode, pads=list(pads), value=1.5)
    exact("Pad", x, constants=[i64(*pads), np.asarray(-np.inf, np.float32)], opset=13)
    exact("Pad", x, constants=[i64(1, -1, 2, 0), None, i64(2, -1)], opset=18)


def test_pad_by_a_value_of_the_run() -> None:
    feeds = {"x": whole(1, 2, 5, 6), "fill": np.asarray(2.5, np.float32)}
    node = helper.make_node("Pad", ["x", "pads", "fill"], ["y"])
    model = model_of([node], feeds, {"pads": i64(0, 0, 1, 2, 0, 0, 3, -1)}, shapes={"x": ["N", 2, 5, "W"]})
    agree(model, feeds, exact=True)


def test_only_constant_padding_has_a_value() -> None:
    feeds = {"x": whole(3, 4), "fill": np.asarray(2.5, np.float32)}
    for mode in ("reflect", "edge"):
        node = helper.make_node("Pad", ["x", "pads", "fill"], ["y"], mode=mode)
        agree(model_of([node], feeds, {"pads": i64(1, 0, 2, 1)}), feeds, exact=True)


def test_pad_of_truth_values() -> None:
    x, pads = np.array([[True, False]]), i64(1, 0, 0, 1)
    for fill in (None, np.asarray(True)):
        exact("Pad", x, constants=[pads, fill], opset=13, result=TensorProto.BOOL)


def test_concat() -> None:
    x = whole(2, 3, 4)
    exact("Concat", x, whole(2, 5, 4), x, axis=1)
    exact("Concat", x, constants=[whole(2, 3, 2)], axis=-1)
    assert exact("Concat", x, axis=0) == []


@pytest.mark.parametrize("indices", [i64(0, 2, 1), i64(1, 1), i64(), np.array([[0, 1], [2, 0]])], ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_gather(indices: np.ndarray, axis: int) -> None:
    assert exact("Gather", whole(2, 3, 4), constants=[indices], axis=axis) == ["Gather"]


EVEN = [np.array(1), np.array(-1), i64(2), np.array([1], np.int32), i64(0, 2), i64(2, 1, 0), np.array([[0, 1], [2, 3]])]


@pytest.mark.parametrize("indices", EVEN, ids=str)
def test_indices_that_are_evenly_spaced_are_a_slice(indices: np.ndarray) -> None:
    used = exact("Gather", whole(2, 3, 5), constants=[indices], axis=2)
    assert used == (["Slice"] if indices.ndim == 1 else ["Slice", "Reshape"])
    assert exact("Gather", whole(2, 4), constants=[np.arange(4).reshape(2, 2)], axis=1) == ["Reshape"]


def test_gather_outside() -> None:
    with pytest.raises(errors.ShapeError, match="index -4"):
        one("Gather", whole(2, 3, 4), constants=[i64(-4)], axis=1, expected=[whole(1)])


# -- constants ---------------------------------------------------------------------------------------------------------
CONSTANTS: list[dict[str, Any]] = [
    {"value_float": 1.5},
    {"value_floats": [1.0, 2.0, 4.0]},
    {"value": numpy_helper.from_array(np.array([[1.0], [2.0]], np.float32))},
]


@pytest.mark.parametrize("attributes", CONSTANTS, ids=lambda a: next(iter(a)))
def test_constants_of_floats(attributes: dict[str, Any]) -> None:
    feeds = {"x": whole(2, 3)}
    nodes = [helper.make_node("Constant", [], ["c"], **attributes), helper.make_node("Add", ["x", "c"], ["y"])]
    agree(model_of(nodes, feeds), feeds, exact=True)


@pytest.mark.parametrize(("name", "value"), [("value_int", 6), ("value_ints", [2, 3])])
def test_constants_of_integers(name: str, value: int | list[int]) -> None:
    feeds = {"x": whole(2, 3)}
    nodes = [
        helper.make_node("Constant", [], ["c"], **{name: value}),
        helper.make_node("Constant", [], ["f"], value_ints=[-1]),
        helper.make_node("Reshape", ["c", "f"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    assert ops_of(agree(model_of(nodes, feeds), feeds, exact=True)) == ["Reshape"]


def test_sparse_constants_and_initializers() -> None:
    values = numpy_helper.from_array(np.array([5, 7], np.float32), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(i64(0, 4), "i"), [2, 3])
    feeds = {"x": whole(2, 3)}
    wanted = {"y": feeds["x"] + np.array([[5, 0, 0], [0, 7, 0]], np.float32)}
    nodes = [helper.make_node("Constant", [], ["c"], sparse_value=sparse), helper.make_node("Add", ["x", "c"], ["y"])]
    agree(model_of(nodes, feeds), feeds, exact=True, expected=wanted)
    model = model_of([helper.make_node("Add", ["x", "s"], ["y"])], feeds)
    model.graph.sparse_initializer.append(sparse)
    agree(model, feeds, exact=True, expected=wanted)
    model.graph.sparse_initializer[0].indices.CopyFrom(numpy_helper.from_array(i64(0, 6), "i"))
    with pytest.raises(errors.LoadError, match="outside its shape"):
        import_onnx(model)


def test_weights_from_constant_of_shape() -> None:
    feeds = {"x": whole(1, 2, 5, 5)}
    fill = numpy_helper.from_array(np.array([2.0], np.float32))
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["w"], value=fill),
        helper.make_node("ConstantOfShape", ["b"], ["bias"]),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"]),
    ]
    agree(model_of(nodes, feeds, {"s": i64(3, 2, 3, 3), "b": i64(3)}), feeds, exact=True)


def test_range_and_size() -> None:
    feeds = {"x": whole(2, 3)}
    nodes = [
        helper.make_node("Size", ["x"], ["n"]),
        helper.make_node("Range", ["start", "n", "step"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["f", "shape"], ["g"]),
        helper.make_node("Add", ["x", "g"], ["y"]),
    ]
    constants = {"start": np.asarray(0), "step": np.asarray(1), "shape": i64(2, 3)}
    assert ops_of(agree(model_of(nodes, feeds, constants), feeds, exact=True)) == ["Add"]


@pytest.mark.parametrize(("opset", "attributes"), [(13, {}), (15, {"start": 1}), (15, {"start": -3, "end": -1})])
def test_shape(opset: int, attributes: dict[str, int]) -> None:
    feeds = {"x": floats(2, 3, 4, 5)}
    node = helper.make_node("Shape", ["x"], ["y"], **attributes)
    model = model_of([node], feeds, opset=opset, types={"y": TensorProto.INT64})
    assert ops_of(agree(model, feeds, exact=True)) == []


# -- symbolic sizes ----------------------------------------------------------------------------------------------------
def flattened_by_shape(x: str = "x") -> list[Any]:
    """What exporters write for ``x.reshape(len(x), -1)``."""
    return [
        helper.make_node("Shape", [x], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axes"], ["n1"]),
        helper.make_node("Cast", ["rest"], ["rest64"], to=TensorProto.INT64),
        helper.make_node("Concat", ["n1", "rest64"], ["shape"], axis=0),
        helper.make_node("Reshape", [x, "shape"], ["y"]),
    ]


FLATTENING = {"zero": np.asarray(0), "axes": i64(0), "rest": np.array([-1], np.int32)}


@pytest.mark.parametrize("name", ["batch", "N 1", "lambda", "2x", None])
def test_a_symbolic_batch_stays_symbolic(name: str | None) -> None:
    feeds = {"x": whole(3, 4, 5)}
    shapes = {"x": [name, 4, 5]}
    model = model_of(flattened_by_shape(), feeds, FLATTENING, opset=13, shapes=shapes)
    graph = agree(model, feeds, exact=True)
    [symbol] = graph.symbols
    assert symbol.isidentifier()
    assert [str(dim) for dim in graph.graph_outputs[0].outputs[0].shape] == [symbol, "20"]
    bound = import_onnx(model, dims={name or symbol: 3})
    assert bound.graph_outputs[0].outputs[0].shape == (3, 20)
    with pytest.raises(errors.UsageError, match=r"width.*symbolic dimensions: "):
        import_onnx(model, dims={"width": 3})
    with pytest.raises(errors.UsageError, match="must be an integer"):
        import_onnx(model, dims={symbol: -1})


@pytest.mark.parametrize("keepdims", [0, 1])
def test_symbolic_sizes_are_reduced(keepdims: int) -> None:
    """The number of elements, as exporters count them, and a tensor of as many as all sizes together."""
    feeds = {"x": whole(3, 4, 5)}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReduceProd", ["s"], ["p"], keepdims=keepdims),
        helper.make_node("ReduceSum", ["s"], ["t"], keepdims=keepdims),
        helper.make_node("Reshape", ["p", "vector"], ["count"]),
        helper.make_node("Reshape", ["x", "count"], ["y"]),
        helper.make_node("Reshape", ["t", "vector"], ["total"]),
        helper.make_node("Expand", ["one", "total"], ["z"]),
    ]
    constants = {"vector": i64(-1), "one": whole(1)}
    model = model_of(nodes, feeds, constants, results=["y", "z"], opset=13, shapes={"x": ["N", 4, 5]})
    found = agree(model, feeds, exact=True)
    assert [str(node.outputs[0].shape[0]) for node in found.graph_outputs] == ["20*N", "N+9"]


def test_the_smallest_of_sizes_must_be_certain() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReduceMin", ["s"], ["least"], name="least"),
        helper.make_node("Expand", ["x", "least"], ["y"]),
    ]
    model = model_of(nodes, {"x": whole(1, 4)}, opset=13, shapes={"x": ["N", 4]})
    with pytest.raises(errors.UnsupportedModelError, match=r"node 'least'.: its result depends on the symbolic size"):
        import_onnx(model)


def test_a_symbolic_size_converted_to_int32() -> None:
    feeds = {"x": whole(3, 4, 5)}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["s32"], to=TensorProto.INT32),
        helper.make_node("Slice", ["s32", "zero", "one"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["shape32"], axis=0),
        helper.make_node("Cast", ["shape32"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {"zero": i64(0), "one": i64(1), "rest": np.array([-1], np.int32)}
    agree(model_of(nodes, feeds, constants, shapes={"x": ["N", 4, 5]}), feeds, exact=True)


def test_symbolic_height_and_width() -> None:
    feeds = {"x": whole(2, 3, 9, 11), "w": whole(4, 3, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["p"], ["s"]),
        helper.make_node("Slice", ["s", "a", "b"], ["nc"]),
        helper.make_node("Slice", ["s", "b", "c4"], ["hw"]),
        helper.make_node("ReduceMax", ["p"], ["top"], axes=[2, 3]),
        helper.make_node("Concat", ["nc", "hw"], ["all"], axis=0),
        helper.make_node("Expand", ["top", "all"], ["e"]),
        helper.make_node("Sub", ["e", "p"], ["y"]),
    ]
    constants = {"a": i64(0), "b": i64(2), "c4": i64(4)}
    agree(model_of(nodes, feeds, constants, shapes={"x": ["n", 3, "h", "w"]}), feeds, exact=True)


def test_arithmetic_on_symbolic_sizes() -> None:
    feeds = {"x": whole(6, 4)}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "factors"], ["m"]),
        helper.make_node("Div", ["m", "two"], ["d"]),
        helper.make_node("Equal", ["d", "minus"], ["never"]),
        helper.make_node("Where", ["never", "s", "d"], ["target"]),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"factors": i64(4, 1), "two": i64(2), "minus": i64(-1)}
    graph = agree(model_of(nodes, feeds, constants, shapes={"x": ["N", 4]}), feeds, exact=True)
    assert str(graph.graph_outputs[0].outputs[0].shape[0]) == "2*N"


@pytest.mark.parametrize(("factor", "divisor"), [(-1, 2), (1, -2), (-3, -2)])
def test_symbolic_sizes_divide_towards_zero(factor: int, divisor: int) -> None:
    """As some exporters round up: -(-N / 2)."""
    feeds = {"x": whole(5)}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "factor"], ["m"]),
        helper.make_node("Div", ["m", "divisor"], ["d"]),
        helper.make_node("Mul", ["d", "sign"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["y"]),
    ]
    constants = {"factor": i64(factor), "divisor": i64(divisor), "sign": i64(1 if factor * divisor > 0 else -1)}
    agree(model_of(nodes, feeds, constants, shapes={"x": ["N"]}), feeds, exact=True)


def test_slices_of_symbolic_axes() -> None:
    feeds = {"x": whole(6, 4)}
    for start, end in ((0, 1), (1, 1 << 62), (-1, 1 << 62), (0, -1), (-(1 << 62), 1 << 62)):
        node = helper.make_node("Slice", ["x", "a", "b"], ["y"])
        model = model_of([node], feeds, {"a": i64(start), "b": i64(end)}, shapes={"x": ["N", 4]})
        agree(model, feeds, exact=True)
    flipped = helper.make_node("Slice", ["x", "a", "b", "axes", "steps"], ["y"])
    constants = {"a": i64(-1), "b": i64(-(1 << 62)), "axes": i64(0), "steps": i64(-1)}
    agree(model_of([flipped], feeds, constants, shapes={"x": ["N", 4]}), feeds, exact=True)


def test_what_a_symbolic_size_leaves_open_is_refused() -> None:
    node = helper.make_node("Slice", ["x", "a", "b"], ["y"], name="crop")
    model = model_of([node], {"x": whole(6, 4)}, {"a": i64(0), "b": i64(5)}, shapes={"x": ["N", 4]})
    with pytest.raises(errors.UnsupportedModelError, match=r"Slice \(node 'crop'\).*symbolic size N"):
        import_onnx(model)
    assert import_onnx(model, dims={"N": 6}).graph_outputs[0].outputs[0].shape == (5, 4)
    found = [
        helper.make_node("NonZero", ["x"], ["places"], name="where"),
        helper.make_node("Shape", ["places"], ["count"], start=1),
        helper.make_node("Slice", ["long", "a", "count"], ["y"]),
    ]
    model = model_of(found, {"x": whole(6, 4), "long": whole(24)}, {"a": i64(0)}, opset=15)
    with pytest.raises(errors.UnsupportedModelError, match=r"symbolic size where\.count"):
        import_onnx(model)


def test_shapes_of_the_run_may_be_given_as_constants() -> None:
    feeds = {"x": whole(2, 6), "shape": i64(3, 4)}
    model = model_of([helper.make_node("Reshape", ["x", "shape"], ["y"])], feeds)
    with pytest.raises(errors.UnsupportedModelError, match="shape is computed from the network's input values"):
        import_onnx(model)
    graph = agree(model, feeds, exact=True, constants={"shape": feeds["shape"]})
    assert [node.attributes["name"] for node in graph.graph_inputs] == ["x"]
    assert run(graph, {"x": feeds["x"]})["y"].shape == (3, 4)
    with pytest.raises(errors.UsageError, match="no such input: size"):
        import_onnx(model, constants={"size": feeds["shape"]})
    with pytest.raises(errors.LoadError, match="input 'shape' is declared as int64"):
        import_onnx(model, constants={"shape": np.array([3, 4], np.int32)})
    assert feeds["shape"].flags.writeable


def test_a_batch_that_decides_on_the_graph_takes_its_number() -> None:
    """An index table for each image, as PyTorch's as_strided is exported."""
    x = {"x": floats(3, 4)}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], end=1),
        helper.make_node("Squeeze", ["s"], ["n"]),
        helper.make_node("Range", ["zero", "n", "one"], ["r"]),
        helper.make_node("Mul", ["r", "four"], ["m"]),
        helper.make_node("Unsqueeze", ["m", "axis"], ["u"]),
        helper.make_node("Add", ["u", "columns"], ["i"]),
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("Gather", ["f", "i"], ["y"]),
    ]
    scalars = {"zero": np.array(0), "one": np.array(1), "four": np.array(4)}
    constants = {**scalars, "axis": i64(1), "columns": i64(0, 1, 2, 3), "flat": i64(-1)}
    model = model_of(nodes, x, constants, shapes={"x": ["N", 4]})
    with pytest.raises(errors.UnsupportedModelError, match="length depends on the symbolic size N"):
        import_onnx(model)
    graph = agree(model, x, exact=True, batch=3)
    assert "Gather" not in ops_of(graph) and graph.graph_inputs[0].outputs[0].shape == (3, 4)
