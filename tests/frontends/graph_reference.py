"""What the tests here share: a walk over a graph by the operators' references, and ONNX Runtime beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from convc.frontends.dsl import Network
from convc.ir.graph import Graph, Value


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[Value, np.ndarray]:
    """Every value of the graph, by the operators' references."""
    found: dict[Value, np.ndarray] = {}
    for node in graph.nodes():
        if node.op == "Constant":
            found[Value(node.id)] = node.array
        elif node.op == "Input":
            found[Value(node.id)] = inputs[str(node.attributes["name"])]
        elif node.op != "Output":
            arrays = [found[value] for value in graph.inputs(node)]
            results = node.operator.evaluate(node.attributes, arrays)
            found.update(zip(graph.values(node), results, strict=True))
    return found


def outputs(graph: Graph, found: Mapping[Value, np.ndarray]) -> dict[str, np.ndarray]:
    """The graph's outputs by name."""
    return {str(node.attributes["name"]): found[graph.inputs(node)[0]] for node in graph.graph_outputs}


def compute(net: Network, *arrays: Any) -> np.ndarray:
    """The first output for these inputs."""
    names = [str(node.attributes["name"]) for node in net.graph.graph_inputs]
    given = {name: np.asarray(array, net.dtype.numpy) for name, array in zip(names, arrays, strict=True)}
    return outputs(net.graph, evaluate(net.graph, given))["output"]


def random_inputs(graph: Graph, batch: int = 1) -> dict[str, np.ndarray]:
    """Standard normal inputs; every symbol is ``batch``."""
    bound = graph.bind(dict.fromkeys(graph.symbols, batch))
    stream = np.random.default_rng(1)
    return {
        str(node.attributes["name"]): stream.standard_normal(node.outputs[0].shape).astype(node.outputs[0].dtype.numpy)
        for node in bound.graph_inputs
    }


def onnxruntime_outputs(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime computes with its optimisations disabled, once the model has passed ONNX's checker."""
    data = model.SerializeToString()
    onnx.checker.check_model(data, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def rounding_bound(graph: Graph, epsilon: float) -> float:
    """Relative error that two summation orders may have accumulated at the outputs.

    The rounding errors of a dot product of length K grow like a random walk, to √K · ε of the result's size; layers add
    up, since filters of zero mean and He's variance pass an error on about as large as they pass a signal. Two
    implementations have it each; any other operator counts as a product of length 1.
    """
    total = 0.0
    for node in graph.nodes():
        types = [graph.type(value) for value in graph.inputs(node)]
        macs = node.operator.macs(node.attributes, types, node.outputs)
        total += np.sqrt(max(macs // node.outputs[0].size, 1))
    return 2 * epsilon * total


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative error in the Euclidean norm."""
    difference = np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64))
    return float(difference / np.linalg.norm(expected.astype(np.float64)))
