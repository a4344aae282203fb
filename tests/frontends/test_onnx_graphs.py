"""The walk: order, names, functions, branches, limits, and what is said about models that are refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_support import agree, floats, i64, info, model_of, one, ops_of, run, whole

from convc import errors
from convc.backend import ConvcBackend
from convc.frontends.onnx import import_onnx, limits
from convc.frontends.onnx.registry import ADAPTERS

N = helper.make_node
X = {"x": whole(1, 3, 8, 8)}
LOCAL = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def refused(model: onnx.ModelProto, kind: type[errors.ConvcError], match: str) -> errors.ConvcError:
    """The error that importing raises, within a second of this process's time."""
    started = time.process_time()
    with pytest.raises(kind, match=match) as caught:
        import_onnx(model)
    assert time.process_time() - started < 1
    assert "\n" not in str(caught.value)
    return caught.value


# -- names and order ---------------------------------------------------------------------------------------------------
def test_origins_are_the_users_names() -> None:
    nodes = [N("Relu", ["x"], ["a"], name="first"), N("Conv", ["a", "w"], ["y"])]
    graph = agree(model_of(nodes, X, {"w": whole(4, 3, 3, 3)}), X, exact=True)
    assert {node.op: node.origins for node in graph.nodes()} == {
        "Input": ("x",), "Relu": ("first",), "Constant": ("w",), "Conv": ("Conv:y",), "Output": ("y",),
    }  # fmt: skip
    assert graph.name == "net"


def test_one_constant_however_often_an_initializer_is_used() -> None:
    nodes = [N("Add", ["x", "c"], ["a"]), N("Mul", ["a", "c"], ["y"])]
    graph = agree(model_of(nodes, X, {"c": whole(3, 1, 1)}), X, exact=True)
    assert len(list(graph.of_kind("Constant"))) == 1


def test_initializers_listed_as_inputs_are_no_inputs() -> None:
    w = whole(4, 3, 3, 3)
    model = model_of([N("Conv", ["x", "w"], ["y"])], X, {"w": w}, opset=9)
    model.graph.input.append(info("w", w))
    graph = agree(model, X, exact=True)
    assert [node.attributes["name"] for node in graph.graph_inputs] == ["x"]
    model.graph.input[1].CopyFrom(info("w", w.astype(np.float64)))
    refused(model, errors.LoadError, "its value is fp32")


def test_outputs_may_be_inputs_constants_or_intermediate_values() -> None:
    nodes = [N("Relu", ["x"], ["a"]), N("Neg", ["a"], ["y"])]
    model = model_of(nodes, X, {"c": floats(2)}, results=["y", "x", "c", "a"])
    graph = import_onnx(model)
    found = run(graph, X)
    assert list(found) == ["y", "x", "c", "a"]
    np.testing.assert_array_equal(found["a"], np.maximum(X["x"], 0))
    np.testing.assert_array_equal(found["x"], X["x"])


def test_nodes_in_any_order() -> None:
    nodes = [N("Add", ["a", "b"], ["y"]), N("Neg", ["a"], ["b"]), N("Relu", ["x"], ["a"])]
    graph = import_onnx(model_of(nodes, X))
    np.testing.assert_array_equal(run(graph, X)["y"], np.zeros_like(X["x"]))


def test_dead_nodes_vanish() -> None:
    nodes = [N("Exp", ["x"], ["d"]), N("Conv", ["d", "w"], ["e"]), N("Relu", ["x"], ["y"])]
    assert ops_of(agree(model_of(nodes, X, {"w": whole(4, 3, 3, 3)}), X, exact=True)) == ["Relu"]


def test_names_are_only_names() -> None:
    name = "x\"); raise SystemExit('''\n{x}%s ../../"
    nodes = [N("Relu", ["x"], [name], name=name), N("Neg", [name], ["y"], name="n" * 100_000)]
    assert import_onnx(model_of(nodes, X)).nodes()[1].origins == (name,)


def test_long_chains_and_many_paths() -> None:
    chain = [N("Relu" if i % 2 else "Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(3000)]
    model = model_of([N("Abs", ["x"], ["t0"]), *chain], X, results=["t3000"])
    assert len(import_onnx(model)) == 3003
    nodes = [N("Abs", ["x"], ["t0"])]
    for i in range(64):
        nodes += [N("Relu", [f"t{i}"], [f"a{i}"]), N("Add", [f"a{i}", f"t{i}"], [f"t{i + 1}"])]
    assert len(import_onnx(model_of(nodes, X, results=["t64"]))) == 131


NAMES: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "cycle": ([N("Add", ["x", "b"], ["a"]), N("Neg", ["a"], ["b"]), N("Abs", ["b"], ["y"])], "cycle through"),
    "self loop": ([N("Add", ["x", "y"], ["y"])], "cycle through 'Add:y'"),
    "dangling": ([N("Add", ["x", "nowhere"], ["y"], name="sum")], "node 'sum': value 'nowhere'"),
    "two definitions": ([N("Relu", ["x"], ["y"]), N("Neg", ["x"], ["y"])], "value 'y' is defined twice"),
    "shadowed input": ([N("Relu", ["x"], ["x"]), N("Neg", ["x"], ["y"])], "value 'x' is defined twice"),
    "shadowed initializer": ([N("Relu", ["x"], ["c"]), N("Neg", ["x"], ["y"])], "value 'c' is defined twice"),
    "missing output": ([N("Relu", ["x"], ["z"])], "value 'y' is used"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_must_be_defined_once(name: str) -> None:
    nodes, message = NAMES[name]
    refused(model_of(nodes, X, {"c": floats(2)}), errors.LoadError, message)


def test_repeated_initializers_and_inputs() -> None:
    for field in ("initializer", "input"):
        model = model_of([N("Add", ["x", "c"], ["y"])], X, {"c": whole(3, 1, 1)})
        repeated = getattr(model.graph, field)
        repeated.append(repeated[0])
        refused(model, errors.LoadError, f"{field} '.' is defined twice")


def test_an_output_that_is_listed_again() -> None:
    """Exporters write it for a network that returns one tensor twice."""
    model = model_of([N("Neg", ["x"], ["y"]), N("Abs", ["y"], ["z"])], X, results=["y", "z"])
    model.graph.output.append(model.graph.output[0])
    assert [output.attributes["name"] for output in import_onnx(model).graph_outputs] == ["y", "z"]
    y, z, again = ConvcBackend.prepare(model).run(X)
    np.testing.assert_array_equal(y, -X["x"])
    np.testing.assert_array_equal(z, np.abs(y))
    np.testing.assert_array_equal(again, y)


# -- versions, operators, attributes -----------------------------------------------------------------------------------
def changed(change: Callable[[onnx.ModelProto], Any]) -> onnx.ModelProto:
    model = model_of([N("Relu", ["x"], ["y"])], X)
    change(model)
    return model


VERSIONS: dict[str, tuple[Callable[[onnx.ModelProto], Any], str]] = {
    "no IR version": (lambda m: m.ClearField("ir_version"), "no IR version"),
    "IR 99": (lambda m: setattr(m, "ir_version", 99), "IR version 99"),
    "IR -3": (lambda m: setattr(m, "ir_version", -3), "IR version -3"),
    "no opset": (lambda m: m.ClearField("opset_import"), "no operator set"),
    "opset 0": (lambda m: setattr(m.opset_import[0], "version", 0), "opset 0"),
    "opset -1": (lambda m: setattr(m.opset_import[0], "version", -1), "opset -1"),
    "opset 999": (lambda m: setattr(m.opset_import[0], "version", 999), "opset 999"),
    "two opsets": (lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 13)), "imported twice"),
    "no graph": (lambda m: m.ClearField("graph"), "no graph"),
    "no outputs": (lambda m: m.graph.ClearField("output"), "no outputs"),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_and_parts(name: str) -> None:
    change, message = VERSIONS[name]
    refused(changed(change), errors.LoadError, message)


def test_operator_sets_older_than_six_where_nothing_changed() -> None:
    one("Not", whole(2, 3) > 0, opset=1, result=TensorProto.BOOL)
    refused(model_of([N("Reshape", ["x"], ["y"], shape=[1, -1])], X, opset=4), errors.LoadError, "opset 4 is older")


OPERATORS: dict[str, tuple[onnx.NodeProto, int, str]] = {
    "too new": (N("HardSwish", ["x"], ["y"]), 13, "HardSwish exists from opset 14"),
    "removed": (N("Upsample", ["x", "c"], ["y"]), 17, "Upsample was removed in opset 10"),
    "unknown attribute": (N("Conv", ["x", "w"], ["y"], groups=1), 17, "attribute 'groups' is not one of"),
    "attribute type": (N("Conv", ["x", "w"], ["y"], strides=[1.0, 1.0]), 17, "has type FLOATS; expected INTS"),
    "missing attribute": (N("MaxPool", ["x"], ["y"]), 17, "attribute 'kernel_shape' is required"),
    "too few inputs": (N("Conv", ["x"], ["y"]), 17, "1 inputs; expected 2 to 3"),
    "input left out": (N("Conv", ["x", ""], ["y"]), 17, "input 1 of Conv is required"),
    "no inputs": (N("Concat", [], ["y"], axis=1), 17, "0 inputs"),
    "axis": (N("Concat", ["x", "x"], ["y"], axis=4), 17, "axis 4 is outside"),
    "permutation": (N("Transpose", ["x"], ["y"], perm=[0, 1, 1, 3]), 17, "permutation"),
    "dtypes": (N("Add", ["x", "d"], ["y"]), 17, "fp32, fp64"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_and_attributes(name: str) -> None:
    node, opset, message = OPERATORS[name]
    constants = {"w": whole(4, 3, 3, 3), "c": np.ones(4, np.float32), "d": np.ones(1, np.float64)}
    node.name = "culprit"
    error = refused(model_of([node], X, constants, opset=opset), errors.ConvcError, message)
    assert error.node == "culprit"


def test_every_unsupported_operator_is_listed() -> None:
    nodes = [
        N("Frobnicate", ["x"], ["a"], name="f"),
        N("Relu", ["a"], ["b"], name="after"),
        N("Twirl", ["b"], ["c"], name="n1"),
        N("Twirl", ["x"], ["d"], name="n2"),
        N("Exec", ["x"], ["e"], name="evil", domain="com.evil"),
        N("Reshape", ["x", "d"], ["g"], name="unknown shape"),
        N("ReduceSum", ["x", "e"], ["y"], name="quiet"),
    ]
    error = refused(model_of(nodes, X), errors.UnsupportedModelError, "com.evil::Exec")
    assert [(entry.op, entry.domain, entry.nodes) for entry in error.unsupported] == [
        ("Frobnicate", "", ("f",)), ("Twirl", "", ("n1", "n2")), ("Exec", "com.evil", ("evil",)),
    ]  # fmt: skip


def test_unforeseen_failures_name_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(call: object) -> Any:
        raise KeyError("surprise")

    monkeypatch.setitem(ADAPTERS, "Relu", broken)
    refused(model_of([N("Relu", ["x"], ["y"], name="r")], X), errors.LoadError, "node 'r': Relu .* KeyError")


# -- inputs ------------------------------------------------------------------------------------------------------------
def test_inputs_must_be_shaped_tensors() -> None:
    def declared(value: onnx.ValueInfoProto) -> onnx.ModelProto:
        model = model_of([N("Relu", ["x"], ["y"])], X)
        model.graph.input[0].CopyFrom(value)
        return model

    make = helper.make_tensor_value_info
    refused(declared(make("x", TensorProto.FLOAT, None)), errors.LoadError, "input 'x' has no shape")
    refused(declared(make("x", TensorProto.FLOAT, [-1, 3])), errors.LoadError, "has size -1")
    refused(declared(make("x", TensorProto.STRING, [1])), errors.LoadError, "STRING")
    refused(declared(make("x", TensorProto.FLOAT, [1] * 9)), errors.LimitError, "9 dimensions")
    refused(declared(make("x", TensorProto.FLOAT, [1 << 20, 1 << 20])), errors.LimitError, "bytes")
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    refused(declared(sequence), errors.LoadError, "sequence type")
    refused(declared(onnx.ValueInfoProto(name="x")), errors.LoadError, "no type")


# -- functions and branches --------------------------------------------------------------------------------------------
def function(name: str, nodes: list[onnx.NodeProto], **more: Any) -> onnx.FunctionProto:
    return helper.make_function("local", name, ["a"], ["b"], nodes, LOCAL, **more)


def call(callee: str, x: str = "x", y: str = "y", **attributes: Any) -> onnx.NodeProto:
    return N(callee, [x], [y], domain="local", **attributes)


def test_local_functions_are_inlined() -> None:
    leaky = N("LeakyRelu", ["t"], ["b"])
    leaky.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope"))
    default = helper.make_attribute("slope", 0.25)
    inner = function("Act", [N("Neg", ["a"], ["t"]), leaky], attribute_protos=[default])
    outer = function("Twice", [call("Act", "a", "t", slope=0.5, name="one"), call("Act", "t", "b")])
    model = model_of([call("Twice", name="block")], X, functions=[outer, inner], opset_imports=LOCAL)
    graph = agree(model, X, exact=True)
    assert ops_of(graph) == ["Neg", "LeakyRelu", "Neg", "LeakyRelu"]
    assert [node.attributes["alpha"] for node in graph.of_kind("LeakyRelu")] == [0.5, 0.25]
    assert graph.nodes()[1].origins == ("block/one/Neg:t",)


def test_recursive_functions_and_bombs_are_refused() -> None:
    loop = [function("F", [call("G", "a", "b")]), function("G", [call("F", "a", "b")])]
    refused(model_of([call("F")], X, functions=loop, opset_imports=LOCAL), errors.LoadError, "calls itself")
    bomb = [function("F0", [N("Relu", ["a"], ["b"])])]
    bomb += [function(f"F{i}", [call(f"F{i - 1}", "a", "t"), call(f"F{i - 1}", "t", "b")]) for i in range(1, 60)]
    refused(model_of([call("F59")], X, functions=bomb, opset_imports=LOCAL), errors.LimitError, "after inlining")


def branch(*nodes: onnx.NodeProto, constants: list[onnx.TensorProto] | None = None) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), "branch", [], [result], constants or [])


@pytest.mark.parametrize("taken", [True, False])
def test_constant_branches_are_entered(taken: bool) -> None:
    scale = numpy_helper.from_array(np.asarray(3.0, np.float32), "k")
    inner = N("If", ["yes"], ["i"], then_branch=branch(N("Mul", ["a", "k"], ["m"]), constants=[scale]),
              else_branch=branch(N("Neg", ["x"], ["n"])))  # fmt: skip
    nodes = [
        N("Relu", ["x"], ["a"]),
        N("If", ["c"], ["y"], then_branch=branch(inner), else_branch=branch(N("Sub", ["x", "a"], ["s"]))),
    ]
    model = model_of(nodes, X, {"c": np.asarray(taken), "yes": np.asarray(True)})
    assert ops_of(agree(model, X, exact=True)) == (["Relu", "Mul"] if taken else ["Relu", "Sub"])


def test_branches_on_shapes_are_constant_and_on_values_are_not() -> None:
    feeds = {"x": whole(2, 1, 3)}
    squeeze = branch(N("Squeeze", ["x", "one"], ["s"]))
    keep = branch(N("Identity", ["x"], ["k"]))
    nodes = [
        N("Shape", ["x"], ["shape"]),
        N("Gather", ["shape", "one"], ["n"], axis=0),
        N("Equal", ["n", "one"], ["c"]),
        N("If", ["c"], ["y"], name="if", then_branch=squeeze, else_branch=keep),
    ]
    assert ops_of(agree(model_of(nodes, feeds, {"one": i64(1)}), feeds, exact=True)) == ["Reshape"]
    open_shape = model_of(nodes, feeds, {"one": i64(1)}, shapes={"x": [2, "C", 3]})
    assert refused(open_shape, errors.UnsupportedModelError, "symbolic").unsupported[0].op == "Equal"
    asked = feeds | {"c": np.array([True])}
    runtime = model_of(nodes[3:], asked, {"one": i64(1)})
    refused(runtime, errors.UnsupportedModelError, "If .*condition is computed")


# -- limits ------------------------------------------------------------------------------------------------------------
BOMBS = {
    "ConstantOfShape": ([N("ConstantOfShape", ["s"], ["y"])], i64(1 << 19, 1 << 19)),
    "Expand": ([N("Expand", ["x", "s"], ["y"])], i64(1 << 25, 3, 8, 8)),
    "Tile": ([N("Tile", ["x", "s"], ["y"])], i64(1, 1, 1 << 20, 1 << 20)),
    "Range": ([N("Range", ["zero", "end", "one"], ["y"])], i64(0)),
    "Pad": ([N("Pad", ["x", "s"], ["y"])], i64(0, 0, 1 << 20, 1 << 20, 0, 0, 0, 0)),
    "rank": ([N("Unsqueeze", ["x", "s"], ["y"])], i64(0, 1, 2, 3, 4)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_computed(name: str) -> None:
    nodes, s = BOMBS[name]
    constants = {"s": s, "zero": np.asarray(0), "one": np.asarray(1), "end": np.asarray(1 << 50)}
    refused(model_of(nodes, X, constants), errors.LimitError, "limit|convc accepts")


def test_the_number_of_nodes_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NODES", 10)
    chain = [N("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(10)]
    model = model_of([N("Relu", ["x"], ["t0"]), *chain], X, results=["t10"])
    refused(model, errors.LimitError, "11 nodes")


def test_the_depth_of_subgraphs_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUBGRAPH_DEPTH", 3)
    inner = branch(N("Neg", ["x"], ["r"]))
    for level in range(4):
        inner = branch(N("If", ["c"], [f"r{level}"], then_branch=inner, else_branch=inner))
    node = N("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    refused(model_of([node], X, {"c": np.asarray(True)}), errors.LimitError, "levels of subgraphs")


@pytest.mark.parametrize("limit", ["FOLDED_BYTES", "FOLDED_MACS"])
def test_what_is_too_much_to_fold_stays_in_the_graph(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [N("MatMul", ["a", "b"], ["m"]), N("Add", ["x", "m"], ["y"])]
    model = model_of(nodes, X, {"a": whole(8, 6), "b": whole(6, 8)})
    assert ops_of(agree(model, X, exact=True)) == ["Add"]
    monkeypatch.setattr(limits, limit, 100)
    assert ops_of(agree(model, X, exact=True)) == ["MatMul", "Add"]
