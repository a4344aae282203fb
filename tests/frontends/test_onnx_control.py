"""Loops, scans, branches, sequences and operators that ONNX defines by others, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_support import agree, floats, i64, model_of, one, ops_of, whole

from convc import errors
from convc.frontends.onnx import import_onnx, limits

X = whole(4, 3)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node of these names, "-" for one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=f"the_{op.lower()}", **attributes)


SINGLE = {"i": TensorProto.INT64, "going": TensorProto.BOOL, "on": TensorProto.BOOL}
"""Names of single values, with their types; all others are floats of any shape."""


def graph(nodes: Sequence[onnx.NodeProto], inputs: str, outputs: str) -> onnx.GraphProto:
    infos = [
        [
            helper.make_tensor_value_info(name, SINGLE.get(name, TensorProto.FLOAT), [] if name in SINGLE else None)
            for name in names.split()
        ]
        for names in (inputs, outputs)
    ]
    return helper.make_graph(list(nodes), "inner", *infos)


def turning(*nodes: onnx.NodeProto, inputs: str = "i going v", outputs: str = "on w") -> onnx.GraphProto:
    """The body of a loop that goes on as long as it is told to."""
    return graph([node("Identity", "going", "on"), *nodes], inputs, outputs)


# -- loops ------------------------------------------------------------------------------------------------------------
def test_a_loop_is_written_out() -> None:
    doubled = turning(node("Add", "v x", "w"), node("Mul", "w w", "each"), outputs="on w each")
    feeds = {"x": X}
    model = model_of([node("Loop", "turns - x", "y all", body=doubled)], feeds, {"turns": i64(3)}, results=["y", "all"])
    found = agree(model, feeds, exact=True)
    assert ops_of(found).count("Add") == 3
    adds = [origin for n in found.nodes() if n.op == "Add" for origin in n.origins]
    assert adds == [f"the_loop[{turn}]/the_add" for turn in range(3)]


def test_a_loop_ends_where_its_condition_does() -> None:
    """The condition depends on the number of the turn alone."""
    body = graph([node("Less", "i last", "on"), node("Add", "v x", "w")], "i going v", "on w")
    feeds, true = {"x": X}, np.array(True)
    model = model_of([node("Loop", "- true x", "y", body=body)], feeds, {"true": true, "last": np.array(2)})
    assert ops_of(agree(model, feeds, exact=True)).count("Add") == 3
    stopped = model_of([node("Loop", "turns true x", "y", body=turning(node("Add", "v x", "w")))], feeds,
                       {"turns": i64(5), "true": np.array(False)})  # fmt: skip
    assert not ops_of(agree(stopped, feeds, exact=True))


def test_loops_that_only_the_run_can_end_are_refused_once() -> None:
    body, feeds = turning(node("Add", "v x", "w")), {"x": X, "turns": i64(2)}
    model = model_of([node("Loop", "turns - x", "y", body=body)], feeds)
    with pytest.raises(errors.UnsupportedModelError, match=r"Loop .node 'the_loop'.: its trip count is computed"):
        import_onnx(model)
    agree(model, feeds, exact=True, constants={"turns": i64(2)})
    strange = turning(node("RandomNormalLike", "v", "w"))
    model = model_of([node("Loop", "turns - x", "y", body=strange)], {"x": X}, {"turns": i64(1000)})
    with pytest.raises(errors.UnsupportedModelError) as caught:
        import_onnx(model)
    assert str(caught.value).count("the_randomnormallike") == 1


@pytest.mark.parametrize("wanted", ["w", "on", "each"])
def test_what_a_loop_reads_of_an_unsupported_node_is_unknown(wanted: str) -> None:
    """Only the node itself is named, wherever its result goes to: into a carried or collected value, or a condition."""
    sources = {"w": "v", "on": "going", "each": "v"} | {wanted: "u"}
    body = graph([node("Identity", source, name) for name, source in sources.items()], "i going v", "on w each")
    nodes = [node("RandomNormalLike", "x", "u"), node("Loop", "turns - x", "y all", body=body)]
    with pytest.raises(errors.UnsupportedModelError) as caught:
        import_onnx(model_of(nodes, {"x": X}, {"turns": i64(3)}, results=["y", "all"]))
    assert str(caught.value) == "unsupported: RandomNormalLike (node 'the_randomnormallike')"


@pytest.mark.parametrize(("outputs", "results", "needed"), [("on", ["y"], 2), ("on w", ["y", "all"], 3)])
def test_bodies_with_too_few_outputs(outputs: str, results: list[str], needed: int) -> None:
    body = turning(node("Add", "v x", "w"), outputs=outputs)
    model = model_of([node("Loop", "turns - x", " ".join(results), body=body)], {"x": X}, {"turns": i64(3)})
    with pytest.raises(errors.LoadError, match=f"{needed - 1} outputs of the body; expected {needed}$"):
        import_onnx(model)


def test_endless_loops_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of([node("Loop", "- - x", "y", body=turning(node("Add", "v x", "w")))], {"x": X})
    for name, limit, what in (
        ("TURNS", 50, "turns of a loop"),
        ("NODES", 70, "nodes, with functions and loops written"),
    ):
        monkeypatch.setattr(limits, name, limit)
        with pytest.raises(errors.LimitError, match=f"{limit + 1} {what}"):
            import_onnx(model)


@pytest.mark.parametrize("backwards", [0, 1])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_takes_slices(axis: int, backwards: int) -> None:
    body = graph([node("Add", "state part", "next"), node("Mul", "next next", "each")], "state part", "next each")
    feeds = {"x": X}
    start = np.zeros(X.shape[1 - axis], np.float32)
    scanned = node("Scan", "start x", "y all", body=body, num_scan_inputs=1, scan_input_axes=[axis],
                   scan_output_axes=[1], scan_output_directions=[backwards],
                   scan_input_directions=[backwards])  # fmt: skip
    agree(model_of([scanned], feeds, {"start": start}, results=["y", "all"]), feeds, exact=True)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_scan_of_nothing_collects_nothing_along_its_axis(axis: int) -> None:
    """ONNX Runtime cannot run it."""
    body = graph([node("Identity", "part", "each")], "part", "each")
    body.output[0].CopyFrom(helper.make_tensor_value_info("each", TensorProto.FLOAT, [3]))
    scanned = node("Scan", "x", "y", body=body, num_scan_inputs=1, scan_output_axes=[axis])
    [found] = import_onnx(model_of([scanned], {"x": np.zeros((0, 3), np.float32)})).graph_outputs
    assert found.outputs[0].shape == ((3, 0) if axis else (0, 3))


# -- branches ---------------------------------------------------------------------------------------------------------
def branching(*, rows: int) -> onnx.ModelProto:
    """The sum decides: x doubled, or as many of its first rows negated."""
    doubled = graph([node("Add", "x x", "a")], "", "a")
    cut = graph([node("Slice", "x zero rows", "c"), node("Neg", "c", "b")], "", "b")
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum none", "large"),
        node("If", "large", "y", then_branch=doubled, else_branch=cut),
    ]
    return model_of(nodes, {"x": X}, {"none": np.float32(0), "zero": i64(0), "rows": i64(rows)})


def test_a_computed_condition_picks_between_both_branches() -> None:
    for x in (np.abs(X) + 1, -np.abs(X) - 1):
        assert "Where" in ops_of(agree(branching(rows=4), {"x": x}, exact=True))


def test_branches_of_different_shapes_need_a_known_condition() -> None:
    with pytest.raises(errors.UnsupportedModelError, match=r"If .node 'the_if'.: its condition is computed"):
        import_onnx(branching(rows=2))


def test_sizes_that_both_branches_find_are_not_one_size() -> None:
    """Though nodes of the same name find them."""
    every = graph([node("NonZero", "x", "a")], "", "a")
    positive = graph([node("Relu", "x", "p"), node("NonZero", "p", "b")], "", "b")
    nodes = [
        node("ReduceSum", "x", "sum", keepdims=0),
        node("Greater", "sum none", "large"),
        node("If", "large", "y", then_branch=every, else_branch=positive),
    ]
    with pytest.raises(errors.UnsupportedModelError, match=r"If .node 'the_if'.: its condition is computed"):
        import_onnx(model_of(nodes, {"x": X}, {"none": np.float32(0)}, types={"y": TensorProto.INT64}))


# -- sequences --------------------------------------------------------------------------------------------------------
def test_sequences_are_taken_apart() -> None:
    nodes = [
        node("SequenceConstruct", "x x", "two"),
        node("Neg", "x", "n"),
        node("SequenceInsert", "two n one", "three"),
        node("SequenceErase", "three last", "left"),
        node("ConcatFromSequence", "left", "y", axis=1, new_axis=1),
    ]
    feeds = {"x": X}
    agree(model_of(nodes, feeds, {"one": np.array(1), "last": np.array(-1)}), feeds, exact=True)


def test_indices_outside_a_sequence() -> None:
    nodes = [node("SequenceConstruct", "x x", "two"), node("SequenceErase", "two at", "left"), node("SequenceAt", "left zero", "y")]  # fmt: skip  # noqa: E501
    with pytest.raises(errors.ShapeError, match="index 2 is outside an axis of size 2"):
        import_onnx(model_of(nodes, {"x": X}, {"at": np.array(2), "zero": np.array(0)}))


def test_a_body_is_mapped_over_sequences() -> None:
    """Members side by side, a tensor that every turn gets whole, and one that the body has from around it."""
    body = graph([node("Mul", "a b", "ab"), node("Add", "ab t", "s"), node("Sub", "s around", "m")], "a b t", "m ab")
    nodes = [
        node("Neg", "x", "n"),
        node("SequenceConstruct", "x n", "two"),
        node("SequenceConstruct", "n n", "other"),
        node("SequenceMap", "two other n", "mapped products", body=body),
        node("ConcatFromSequence", "mapped", "y", axis=0),
        node("SequenceAt", "products one", "z"),
    ]
    nodes[2].name = "the_other"
    model = model_of(nodes, {"x": X}, {"around": np.float32(2), "one": np.array(1)}, results=["y", "z"])
    found = agree(model, {"x": X}, exact=True)
    assert [origin for n in found.nodes() if n.op == "Sub" for origin in n.origins] == [
        f"the_sequencemap[{turn}]/the_sub" for turn in range(2)
    ]


def test_mapped_sequences_have_one_length() -> None:
    nodes = [
        node("SequenceConstruct", "x x", "two"),
        node("SequenceConstruct", "x", "one"),
        node("SequenceMap", "two one", "mapped", body=graph([node("Add", "a b", "m")], "a b", "m")),
        node("ConcatFromSequence", "mapped", "y", axis=0),
    ]
    with pytest.raises(errors.ShapeError, match=r"the_sequencemap.*\[2, 1\]; expected one length"):
        import_onnx(model_of(nodes, {"x": X}))


# -- operators that ONNX defines by others ----------------------------------------------------------------------------
def test_operators_without_a_definition_are_expanded() -> None:
    x, cos, sin = floats(1, 2, 3, 8), floats(5, 4), floats(5, 4)
    found = one("RotaryEmbedding", x, cos, sin, constants=[i64(0, 1, 2).reshape(1, 3)], opset=23)
    assert all(origin.startswith("the_node/") for n in found.nodes() if n.op == "Mul" for origin in n.origins)


def test_attributes_that_are_left_out_have_their_defaults() -> None:
    """``periodic`` is 1 unless the node says otherwise, which the body reads by name."""
    for attributes in ({}, {"periodic": 0}):
        one("HannWindow", constants=[np.array(10)], opset=17, **attributes)


def test_what_the_body_needs_and_convc_lacks_is_named() -> None:
    model = model_of([node("Bernoulli", "x", "y")], {"x": X}, opset=15)
    with pytest.raises(errors.UnsupportedModelError, match=r"RandomUniformLike .node 'the_bernoulli/"):
        import_onnx(model)
