"""Building, reading and changing graphs."""

from __future__ import annotations

import numpy as np
import pytest

from convc.errors import ShapeError
from convc.ir import Dim, DType, Graph, Kind, Operator, Payload, TensorType, Use, Value, operator, operators

N, M = Dim.symbol("N"), Dim.symbol("M")
IMAGE = TensorType(DType.FP32, (N, 4))


def small() -> tuple[Graph, dict[str, Value]]:
    graph = Graph("small")
    values = {"x": graph.add_input("x", IMAGE), "c": graph.add_constant(np.ones(4, np.float32), origins=["one"])}
    values["sum"] = graph.add("Add", [values["x"], values["c"]], origins=["add"])
    values["relu"] = graph.add("Relu", [values["sum"]])
    values["y"] = graph.add_output("y", values["relu"])
    return graph, values


def test_reading() -> None:
    graph, v = small()
    assert len(graph) == 5
    assert graph.inputs(v["sum"].node) == [v["x"], v["c"]]
    assert graph.users(v["x"]) == [Use(v["sum"].node, 0)]
    assert graph.type(v["relu"]) == IMAGE
    assert [node.op for node in graph.nodes()] == ["Input", "Constant", "Add", "Relu", "Output"]
    assert [node.label for node in graph.of_kind("Add", "Relu")] == ["add", f"Relu_{v['relu'].node}"]
    assert [node.attributes["name"] for node in graph.graph_inputs + graph.graph_outputs] == ["x", "y"]
    assert graph.constant(v["c"]).tolist() == [1] * 4
    assert graph.constant(v["x"]) is None
    assert graph.symbols == {"N"}
    assert graph.values(v["sum"].node) == [v["sum"]]
    assert graph.node(v["sum"].node).kind is Kind.ELEMENTWISE


def test_both_inputs_may_read_one_value() -> None:
    graph, v = small()
    square = graph.add("Mul", [v["x"], v["x"]])
    assert graph.inputs(square.node) == [v["x"], v["x"]]
    assert graph.users(v["x"])[1:] == [Use(square.node, 0), Use(square.node, 1)]


def test_replace_rewire_remove_and_prune() -> None:
    graph, v = small()
    graph.replace(v["relu"], v["sum"])
    assert graph.inputs(v["y"].node) == [v["sum"]]
    graph.remove(v["relu"].node)
    assert v["relu"].node not in graph
    graph.rewire(Use(v["sum"].node, 1), v["x"])
    assert [node.op for node in graph.prune()] == ["Constant"]
    assert graph.inputs(v["sum"].node) == [v["x"], v["x"]]


def test_origins_are_kept_once() -> None:
    graph, v = small()
    graph.add_origins(v["sum"], ["bias", "add"])
    assert graph.producer(v["sum"]).origins == ("add", "bias")


def test_copies_are_independent_and_equal() -> None:
    graph, v = small()
    copy = graph.copy()
    assert copy == graph
    copy.add_origins(v["sum"], ["more"])
    assert copy != graph


def test_equality_sees_attributes_data_and_connections() -> None:
    def build(alpha: float, data: float, swap: bool) -> Graph:
        graph = Graph()
        x, c = graph.add_input("x", IMAGE), graph.add_constant(np.full(4, data, np.float32))
        leaky = graph.add("LeakyRelu", [x], {"alpha": alpha})
        graph.add_output("y", graph.add("Sub", [c, leaky] if swap else [leaky, c]))
        return graph

    assert build(0.1, 1, False) == build(0.1, 1, False)
    assert build(float("nan"), float("nan"), True) == build(float("nan"), float("nan"), True)
    for other in (build(0.2, 1, False), build(0.1, 2, False), build(0.1, 1, True)):
        assert build(0.1, 1, False) != other
    assert build(0.1, 1, False) != "a graph"


def test_bind_gives_numbers_to_symbols() -> None:
    graph, v = small()
    reshaped = graph.add("Reshape", [v["relu"]], {"shape": (2, 2 * N)})
    graph.add_output("z", reshaped)
    bound = graph.bind({"N": 3})
    assert bound.type(reshaped).shape == (2, 6)
    assert bound.node(reshaped.node).attributes["shape"] == (2, 6)
    assert graph.type(reshaped).shape == (2, 2 * N)
    assert all(data["type"].is_static for _, _, data in bound.networkx.edges(data=True))


def test_bound_sizes_must_fit() -> None:
    """What a symbol left open is decided by its number: whether shapes fit, and what they broadcast to."""
    graph = Graph("open")
    x, rows, columns = (
        graph.add_input(name, TensorType(DType.FP32, (dim, 4))) for name, dim in (("x", N), ("rows", 3), ("y", M))
    )
    total = graph.add("Add", [x, rows], origins=["total"])
    both = graph.add("Add", [x, columns])
    assert [graph.bind({"N": size}).type(total).shape for size in (1, 3)] == [(3, 4), (3, 4)]
    assert graph.bind({"N": 1, "M": 5}).type(both).shape == (5, 4)
    with pytest.raises(ShapeError, match="node 'total': Add expects shapes that broadcast"):
        graph.bind({"N": 2})


def test_constants_are_not_copied_and_cannot_change() -> None:
    data = np.ones(3)
    payload = Payload(data)
    assert np.shares_memory(payload.array, data)
    assert data.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        payload.array[0] = 2
    assert payload.digest == Payload(np.ones(3)).digest
    assert len({Payload(a).digest for a in (np.ones(3), np.ones((1, 3)), np.ones(3, np.int64), np.zeros(3))}) == 4
    narrow = [dtype for dtype in DType if dtype.numpy.itemsize == 1]
    assert len({Payload(np.ones(3, np.uint8).view(dtype.numpy)).digest for dtype in narrow}) == len(narrow) > 8


def test_unknown_operators_and_attributes() -> None:
    graph, v = small()
    for op, attributes, missing in [("Nonesuch", {}, "Nonesuch"), ("Relu", {"a": 1}, "a"), ("Softmax", {}, "axis")]:
        with pytest.raises(KeyError, match=missing):
            graph.add(op, [v["x"]], attributes)
    with pytest.raises(ShapeError):
        graph.add("Relu", [])
    assert len(graph) == 5


def test_sources_have_nothing_to_infer_or_compute() -> None:
    for name in ("Input", "Constant"):
        definition = operator(name)
        with pytest.raises(TypeError):
            definition.infer({}, [])
        with pytest.raises(TypeError):
            definition.evaluate({}, [])


def test_operators_are_defined_once() -> None:
    from convc.ir.operator import define

    with pytest.raises(ValueError, match="twice"):
        define(operator("Relu"))
    assert all(isinstance(definition, Operator) and str(definition) == name for name, definition in operators().items())
