"""Independent judges of the operators: ONNX's reference evaluator and ONNX Runtime with its optimisations disabled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from convc.ir import DType, TensorType, operator

OPSET = 20


def evaluate(op: str, arrays: Sequence[np.ndarray], **attributes: Any) -> np.ndarray:
    """Our reference's first output, whose type the operator must have inferred."""
    definition = operator(op)
    full = definition.complete(attributes)
    types = [TensorType(DType.of(array.dtype), array.shape) for array in arrays]
    inferred = definition.infer(full, types)
    results = definition.evaluate(full, arrays)
    assert [TensorType(DType.of(array.dtype), array.shape) for array in results] == list(inferred)
    return results[0]


def model(op: str, arrays: Sequence[np.ndarray], attributes: Mapping[str, Any], outputs: int = 1) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(arrays))]
    results = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, **attributes)],
        "one_node",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def onnx_reference(op: str, arrays: Sequence[np.ndarray], **attributes: Any) -> np.ndarray:
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(model(op, arrays, attributes)).run(None, feeds)[0])


def onnx_runtime(op: str, arrays: Sequence[np.ndarray], **attributes: Any) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    one = model(op, arrays, attributes)
    for output in one.graph.output:
        output.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(arrays[0].dtype)
    session = onnxruntime.InferenceSession(one.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {f"x{i}": array for i, array in enumerate(arrays)})[0]


def accumulated(length: int, epsilon: float) -> float:
    """Higham's gamma: relative error bound, in units of the sum of magnitudes, of a sum of ``length`` products."""
    return length * epsilon / (1 - length * epsilon)
