"""The text form: prints, and parses back to an equal graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ir_dims import expressions

from convc.errors import LoadError
from convc.ir import Dim, DType, Graph, Kind, Operator, TensorType, Value, operators, parse_graph, print_graph
from convc.ir.graph import Payload
from convc.ir.operator import _REGISTRY, define

NAMES = st.text(max_size=8)
FLOATS = st.floats() | st.sampled_from([0.0, -0.0, float("nan"), float("inf"), float("-inf")])
DIMS = expressions().map(lambda expression: expression[0]) | st.text(max_size=4).map(Dim.symbol)
SCALARS = st.booleans() | st.integers() | FLOATS | NAMES | st.sampled_from(DType) | DIMS | st.none()
ATTRIBUTES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
TYPES = st.builds(TensorType, st.sampled_from(DType), st.lists(DIMS, max_size=3).map(tuple))
DATA = st.sampled_from(DType).flatmap(
    lambda dtype: hnp.arrays(np.uint8, st.integers(0, 18).map(lambda n: n * dtype.itemsize)).map(
        lambda bytes: (bytes & 1).astype(bool) if dtype is DType.BOOL else bytes.view(dtype.numpy)
    )
)


def _given_types(attributes: Any, inputs: Any) -> Any:
    return attributes["types"]


@pytest.fixture(scope="module", autouse=True)
def anything_operator() -> Iterator[None]:
    """An operator with any number of inputs and outputs, and attributes of any kind; known in this module only."""
    attributes = {"types": (), "a": 0.0, "b": (1,), "c": None}
    define(Operator("Anything", Kind.MOVEMENT, _given_types, _given_types, attributes))
    yield
    _REGISTRY.pop("Anything")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    graph = Graph(draw(NAMES), draw(st.sampled_from(["imported", "channels-last"])))
    values = [graph.add_input(draw(NAMES), draw(TYPES)) for _ in range(draw(st.integers(0, 2)))]
    values += [
        graph.add_constant(draw(DATA), origins=draw(st.lists(NAMES, max_size=2)))
        for _ in range(draw(st.integers(0, 2)))
    ]
    for _ in range(draw(st.integers(0, 4))):
        inputs = draw(st.lists(st.sampled_from(values), max_size=3)) if values else []
        types = draw(st.lists(TYPES, min_size=1, max_size=3))
        attributes = draw(st.fixed_dictionaries({}, optional=dict.fromkeys("abc", ATTRIBUTES)))
        full = operators()["Anything"].complete(attributes)
        value = graph._insert(operators()["Anything"], full, tuple(types), inputs, draw(st.lists(NAMES, max_size=3)))
        graph.update(graph.producer(value), region=draw(st.none() | st.integers(0, 99)))
        values += graph.values(value.node)
        if draw(st.booleans()):
            graph._next += draw(st.integers(1, 5))
    for value in values[::-1][:2]:
        graph.add_output(draw(NAMES), value)
    return graph


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_text_parses_back_to_an_equal_graph(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text)
    assert again == graph
    assert (again.name, again.stage) == (graph.name, graph.stage)
    assert print_graph(again) == text
    assert [node.id for node in again.graph_outputs] == [node.id for node in graph.graph_outputs]


def example() -> tuple[Graph, np.ndarray]:
    graph = Graph("lenet")
    weights = np.arange(6 * 25, dtype=np.float32).reshape(6, 1, 5, 5)
    x = graph.add_input("x", TensorType(DType.FP32, (Dim.symbol("N"), 1, 28, 28)))
    w = graph.add_constant(weights, origins=["conv1.weight"])
    attributes = {"strides": (1, 1), "pads": (2,) * 4, "dilations": (1, 1)}
    y = graph.add("Conv", [x, w], attributes, origins=["conv1"])
    y = graph.add("Add", [y, graph.add_constant(np.array([0.1], np.float32))])
    y = graph.add("Clip", [y], {"max": 6.0})
    graph.update(graph.producer(y), region=0)
    graph.add_output("y", graph.add("Cast", [y], {"dtype": DType.FP16}))
    return graph, weights


TEXT = """\
graph "lenet" stage=imported
%0 = Input() {name="x"} : fp32[N, 1, 28, 28]  # "x"
%1 = Constant(@DIGEST) : fp32[6, 1, 5, 5]  # "conv1.weight"
%2 = Conv(%0, %1) {dilations=(1, 1), pads=(2, 2, 2, 2), strides=(1, 1)} : fp32[N, 6, 28, 28]  # "conv1"
%3 = Constant([0.1]) : fp32[1]
%4 = Add(%2, %3) : fp32[N, 6, 28, 28]
%5 = Clip(%4) {max=6.0} : fp32[N, 6, 28, 28] region=0
%6 = Cast(%5) {dtype=fp16} : fp16[N, 6, 28, 28]
%7 = Output(%6) {name="y"} : fp16[N, 6, 28, 28]  # "y"
"""


def test_text_as_people_read_it() -> None:
    graph, weights = example()
    assert print_graph(graph) == TEXT.replace("DIGEST", Payload(weights).digest)


def test_data_comes_by_digest() -> None:
    graph, weights = example()
    digest = Payload(weights).digest
    complete = parse_graph(print_graph(graph), {digest: weights})
    np.testing.assert_array_equal(complete.constant(Value(1)), weights)
    bare = parse_graph(print_graph(graph))
    assert bare == complete == graph
    with pytest.raises(LoadError, match=f"@{digest} was not given"):
        bare.constant(Value(1))


def test_comments_and_empty_lines_say_nothing() -> None:
    graph, _ = example()
    lines = print_graph(graph).split("\n")
    assert parse_graph("# golden\n\n" + "\n  # note\n\n".join(lines)) == graph


def test_parsing_continues_numbering() -> None:
    graph = parse_graph(print_graph(example()[0]))
    assert graph.add("Relu", [Value(0)]).node == 8


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT)), st.integers(0, 12), st.text('%()[]{}"#=,:.@-0aN \\\n') | st.text(max_size=3))
def test_damaged_text_is_a_load_error_or_a_graph(start: int, cut: int, insert: str) -> None:
    damaged = TEXT[:start] + insert + TEXT[start + cut :]
    try:
        graph = parse_graph(damaged)
    except LoadError:
        return
    assert parse_graph(print_graph(graph)) == graph


HEAD = 'graph "g" stage=imported\n%0 = Input() {name="x"} : fp32[2]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 .* expected a graph"),
        ("not a graph", "line 1 .* header"),
        ('graph "\\g" stage=imported', "line 1 .* header"),
        (HEAD + "%1 = Relu(%0) : fp32[0.5]", "is not a shape"),
        (HEAD + "%1 = Relu(%0) : fp32[True]", "is not a shape"),
        (HEAD + "%1 = Relu(%0) : fp32[(1, 2)]", "is not a shape"),
        (HEAD + "%1 = Relu(%0)", "line 3"),
        (HEAD + "%1 = Nonesuch(%0) : fp32[2]", "line 3 .*Nonesuch"),
        (HEAD + "%1 = Relu(%7) : fp32[2]", "%7 is not a value defined above"),
        (HEAD + "%1 = Relu(%0.3) : fp32[2]", "%0.3"),
        (HEAD + "%0 = Relu(%0) : fp32[2]", "%0 is defined twice"),
        (HEAD + "%1 = Relu(%0) : fp33[2]", "fp33"),
        (HEAD + "%1 = Relu(%0) : fp32[2", "is not a type"),
        (HEAD + "%1 = Relu(%0) : ", "line 3"),
        (HEAD + "%1 = Relu(%0) {alpha=1} : fp32[2]", "alpha"),
        (HEAD + "%1 = Softmax(%0) : fp32[2]", "axis"),
        (HEAD + "%1 = Softmax(%0) {axis=print(1)} : fp32[2]", "is not a value"),
        (HEAD + "%1 = Softmax(%0) {axis=1) + f(axis=2} : fp32[2]", "does not name attributes"),
        (HEAD + "%1 = Softmax(%0) {axis=} : fp32[2]", "line 3"),
        (HEAD + "%1 = Constant([1, 2]) : int8[3]", "line 3"),
        (HEAD + "%1 = Constant([300]) : int8[1]", "line 3"),
    ],
)
def test_bad_text(text: str, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        parse_graph(text)
