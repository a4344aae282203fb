"""Explicit padding in front of a convolution or pooling becomes its own padding."""

from __future__ import annotations

import math

from ...ir import Graph, Node, Value


def fold_pad(graph: Graph) -> bool:
    """conv(pad(x, p, 0), w, pads=q) → conv(x, w, pads=p+q); average pooling that counts its padding likewise, and
    maximum pooling of −∞, or of zeros around what is nowhere negative."""
    changed = False
    for node in graph.of_kind("Conv", "AveragePool", "MaxPool"):
        pad = graph.producer(graph.inputs(node)[0])
        if pad.op != "Pad" or not _foldable(graph, pad, node):
            continue
        pads = _joined(pad, node)
        inputs = [graph.inputs(pad)[0], *graph.inputs(node)[1:]]
        attributes = {**node.attributes, "pads": pads}
        if node.op == "AveragePool":
            attributes["count_include_pad"] = True
        folded = graph.add(node.operator, inputs, attributes, origins=(*pad.origins, *node.origins))
        graph.replace(Value(node.id), folded)
        graph.remove(node)
        changed = True
    return changed


def _foldable(graph: Graph, pad: Node, node: Node) -> bool:
    pads = pad.attributes["pads"]
    rank = len(pads) // 2
    spatial_only = not any((*pads[:2], *pads[rank : rank + 2]))
    if not spatial_only or pad.attributes["mode"] != "constant":
        return False
    if node.op == "MaxPool":
        fits = not node.attributes["ceil_mode"] and _smaller_than_window(_joined(pad, node), node)
        return fits and _reaches_input(graph, pad, node) and _never_largest(graph, pad)
    if pad.attributes["value"] != 0:
        return False
    return node.op != "AveragePool" or (_counts_padding(node) and _smaller_than_window(_joined(pad, node), node))


def _never_largest(graph: Graph, pad: Node) -> bool:
    """Whether no window's maximum comes from the padding, as long as the window has other elements."""
    source = graph.producer(graph.inputs(pad)[0])
    least = {"Relu": 0.0, "Sigmoid": 0.0, "Abs": 0.0, "Clip": source.attributes.get("min", -math.inf)}
    return bool(pad.attributes["value"] <= least.get(source.op, -math.inf))


def _joined(pad: Node, node: Node) -> tuple[int, ...]:
    """The spatial padding of both."""
    rank = len(pad.attributes["pads"]) // 2
    begins, ends = pad.attributes["pads"][2:rank], pad.attributes["pads"][rank + 2 :]
    return tuple(a + b for a, b in zip((*begins, *ends), node.attributes["pads"], strict=True))


def _smaller_than_window(pads: tuple[int, ...], pool: Node) -> bool:
    """What a pooling demands of its padding."""
    sizes = zip(pool.attributes["kernel_shape"], pool.attributes["dilations"], strict=True)
    spans = [(size - 1) * dilation + 1 for size, dilation in sizes]
    return all(padding < span for padding, span in zip(pads, (*spans, *spans), strict=True))


def _reaches_input(graph: Graph, pad: Node, pool: Node) -> bool:
    """Whether no window steps over the whole input: dilated ones do where it is small."""
    extents = graph.type(graph.inputs(pad)[0]).shape[2:]
    pairs = zip(extents, pool.attributes["dilations"], strict=True)
    return all(isinstance(extent, int) and extent >= dilation for extent, dilation in pairs)


def _counts_padding(pool: Node) -> bool:
    """Whether an average pool treats zeros in its input and its own padding alike (floor mode only)."""
    padded = any(pool.attributes["pads"])
    return not pool.attributes["ceil_mode"] and (pool.attributes["count_include_pad"] or not padded)
