"""Reshapes, transposes and slices: cancel them, move them into weights, keep them away from graph outputs."""

from __future__ import annotations

import numpy as np

from ...ir import Graph, Kind, Node, Value

SIMPLIFIED = ("Reshape", "Transpose", "Slice", "Expand", "Cast", "Pad", "Concat", "MaxPool", "AveragePool")


def simplify_views(graph: Graph) -> bool:
    """reshape(reshape(x)) → reshape(x); transposes compose; what changes nothing goes away."""
    changed = False
    for node in graph.nodes():
        if node.id not in graph or node.op not in SIMPLIFIED:
            continue
        changed |= _drop_identity(graph, node) or _compose(graph, node)
    return changed


def _drop_identity(graph: Graph, node: Node) -> bool:
    source, *others = graph.inputs(node)
    if others or graph.type(source) != node.outputs[0] or not _is_identity(node):
        return False
    graph.replace(Value(node.id), source)
    graph.remove(node)
    return True


def _is_identity(node: Node) -> bool:
    attributes = node.attributes
    if node.op == "Transpose":
        return attributes["perm"] == tuple(range(len(attributes["perm"])))
    if node.op == "Slice":
        return not any(attributes["starts"]) and all(step == 1 for step in attributes["steps"])
    if node.op in ("MaxPool", "AveragePool"):
        ones = (*attributes["kernel_shape"], *attributes["strides"])
        return all(one == 1 for one in ones) and not any(attributes["pads"])
    return True


def _compose(graph: Graph, node: Node) -> bool:
    source = graph.producer(graph.inputs(node)[0])
    if node.op != source.op or node.op not in ("Reshape", "Transpose"):
        return False
    attributes = dict(node.attributes)
    if node.op == "Transpose":
        attributes["perm"] = tuple(source.attributes["perm"][axis] for axis in node.attributes["perm"])
    origins = (*source.origins, *node.origins)
    composed = graph.add(node.operator, graph.inputs(source)[:1], attributes, origins=origins)
    graph.replace(Value(node.id), composed)
    graph.remove(node)
    _drop_identity(graph, graph.node(composed.node))
    return True


def isolate_outputs(graph: Graph) -> bool:
    """Gives every graph output a value that a kernel writes for it alone: a copy where it is an input, a constant, a
    part of something, or read elsewhere through a view."""
    changed = False
    for output in graph.graph_outputs:
        (value,) = graph.inputs(output)
        if _writable(graph, value):
            continue
        copy = graph.add("Copy", [value], origins=output.origins)
        use = next(use for use in graph.users(value) if use.node == output.id)
        graph.rewire(use, copy)
        changed = True
    return changed


def _writable(graph: Graph, value: Value) -> bool:
    """Whether the kernel that computes ``value`` can write it straight into an output buffer."""
    node = graph.producer(value)
    if sum(graph.node(use.node).op == "Output" for use in graph.users(value)) > 1:
        return False
    while node.op in ("Reshape", "Transpose"):
        value = graph.inputs(node)[0]
        node = graph.producer(value)
        if len(graph.users(value)) != 1:
            return False
    return node.kind not in (Kind.STRUCTURAL, Kind.VIEW)


def flatten_into_weights(graph: Graph) -> bool:
    """gemm(flatten(x), w) → gemm(flatten(channels_last(x)), permute(w)).

    The flattening of a channels-last tensor in channels-last order is a view; in the order of ONNX it is a copy. The
    weights are constant and can be permuted once instead.
    """
    changed = False
    for node in graph.of_kind("Gemm", "MatMul"):
        flat, weights, *rest = graph.inputs(node)
        reshape, weight = graph.producer(flat), graph.constant(weights)
        if weight is None or weight.ndim != 2 or not _flattens(graph, reshape, node):
            continue
        x = graph.inputs(reshape)[0]
        shape = graph.type(x).shape
        axis = 1 if node.attributes.get("trans_b") else 0
        permuted = graph.add_constant(_permuted(weight, axis, [int(d) for d in shape[1:]]))  # type: ignore[arg-type]
        graph.add_origins(permuted, graph.producer(weights).origins)
        perm = (0, *range(2, len(shape)), 1)
        last = graph.add("Transpose", [x], {"perm": perm}, origins=reshape.origins)
        flattened = graph.add("Reshape", [last], reshape.attributes, origins=reshape.origins)
        product = graph.add(node.operator, [flattened, permuted, *rest], node.attributes, origins=node.origins)
        graph.replace(Value(node.id), product)
        graph.remove(node)
        changed = True
    return changed


def _flattens(graph: Graph, reshape: Node, user: Node) -> bool:
    """Whether ``reshape`` turns [N, C, H, W] with more than one pixel into [N, C·H·W] for the left operand alone."""
    if reshape.op != "Reshape" or user.attributes.get("trans_a"):
        return False
    source, target = graph.type(graph.inputs(reshape)[0]), reshape.outputs[0]
    if source.rank < 3 or target.rank != 2 or source.shape[0] != target.shape[0] or not source.is_static:
        return False
    pixels = int(np.prod([int(dim) for dim in source.shape[2:]]))  # type: ignore[arg-type]
    return pixels > 1 and source.shape[1] != 1


def _permuted(weight: np.ndarray, axis: int, chw: list[int]) -> np.ndarray:
    """Weights whose input dimension ``axis`` runs over (C, spatial…), reordered to run over (spatial…, C)."""
    moved = np.moveaxis(weight, axis, 0)
    by_position = moved.reshape(*chw, moved.shape[1])
    reordered = np.moveaxis(by_position, 0, len(chw) - 1).reshape(moved.shape)
    return np.ascontiguousarray(np.moveaxis(reordered, 0, axis))
