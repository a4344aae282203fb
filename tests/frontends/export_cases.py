"""A form or several of every operator, which the tests of the export write out."""

from __future__ import annotations

from typing import Any

import numpy as np

from convc.frontends.spellings import REDUCTIONS
from convc.ir.dims import Dim
from convc.ir.graph import Graph
from convc.ir.types import DType, TensorType

IMAGE = (2, 4, 9, 8)
WINDOW = {"kernel_shape": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1)}
BOTH = {"a": (2, 3), "b": (1, 3)}

Case = tuple[str, dict[str, tuple[int, ...]], dict[str, Any]]

UNARY: list[Case] = [
    *((op, {"x": IMAGE}, {}) for op in ("Relu", "Sigmoid", "HardSwish", "Tanh", "Softplus", "Softsign", "Mish")),
    *((op, {"x": IMAGE}, {}) for op in ("Silu", "Erf", "Exp", "Abs", "Neg", "Floor", "Ceil", "Sign", "Copy")),
    *((op, {"positive": IMAGE}, {}) for op in ("Log", "Sqrt", "Reciprocal")),
    ("LeakyRelu", {"x": IMAGE}, {"alpha": 0.3}),
    ("Elu", {"x": IMAGE}, {"alpha": 0.7}),
    ("Celu", {"x": IMAGE}, {"alpha": 0.7}),
    ("Selu", {"x": IMAGE}, {}),
    ("HardSigmoid", {"x": IMAGE}, {"alpha": 0.3, "beta": 0.4}),
    ("Gelu", {"x": IMAGE}, {}),
    ("Gelu", {"x": IMAGE}, {"approximate": "tanh"}),
    ("Clip", {"x": IMAGE}, {"min": -0.5, "max": 0.5}),
    ("Clip", {"x": IMAGE}, {"min": -0.5}),
    ("Clip", {"x": IMAGE}, {"max": 0.5}),
    ("Clip", {"x": IMAGE}, {}),
    ("Cast", {"x": IMAGE}, {"dtype": DType.INT32}),
    ("Cast", {"x": IMAGE}, {"dtype": DType.FP64}),
]
BINARY: list[Case] = [
    *((op, BOTH, {}) for op in ("Add", "Sub", "Mul", "Max", "Min", "Equal", "Less", "LessOrEqual")),
    *((op, BOTH, {}) for op in ("Greater", "GreaterOrEqual", "PRelu")),
    ("Div", {"a": (2, 3), "positive": (1, 3)}, {}),
    ("Pow", {"positive": (2, 3), "b": (1, 3)}, {}),
    ("PRelu", {"b": (1, 3), "a": (2, 1)}, {}),
    ("And", {"truth": (2, 3), "other truth": (1, 3)}, {}),
    ("Or", {"truth": (2, 3), "other truth": (1, 3)}, {}),
    ("Not", {"truth": (2, 3)}, {}),
    ("Where", {"truth": (2, 3), "a": (1, 3), "b": (2, 1)}, {}),
]
CONTRACTIONS: list[Case] = [
    ("MatMul", {"a": (2, 1, 3, 4), "b": (5, 4, 2)}, {}),
    ("Gemm", {"a": (3, 4), "b": (4, 5)}, {}),
    ("Gemm", {"a": (4, 3), "b": (5, 4), "c": (3, 1)}, {"alpha": 0.5, "beta": 2.0, "trans_a": True, "trans_b": True}),
    (
        "Conv",
        {"x": (2, 4, 9), "w": (6, 2, 3), "b": (6,)},
        {"strides": (2,), "pads": (1, 0), "dilations": (2,), "groups": 2},
    ),
    ("Conv", {"x": IMAGE, "w": (3, 4, 3, 2)}, {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}),
    (
        "Conv",
        {"x": (1, 2, 5, 4, 6), "w": (3, 2, 2, 3, 1)},
        {"strides": (1,) * 3, "pads": (0,) * 6, "dilations": (1,) * 3},
    ),
    (
        "ConvInteger",
        {"differences": IMAGE, "other differences": (6, 2, 3, 3), "sums": (6,)},
        {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "groups": 2},
    ),
    (
        "ConvInteger",
        {"bits": IMAGE, "other bits": (3, 4, 3, 2)},
        {n: WINDOW[n] for n in ("strides", "pads", "dilations")},
    ),
    ("MatMulInteger", {"differences": (2, 1, 3, 4), "bits": (5, 4, 2)}, {}),
]
WINDOWS: list[Case] = [
    ("MaxPool", {"x": IMAGE}, WINDOW),
    ("MaxPool", {"x": IMAGE}, {**WINDOW, "strides": (3, 3), "ceil_mode": True}),
    ("MaxPool", {"x": IMAGE}, {**WINDOW, "dilations": (2, 2)}),
    ("AveragePool", {"x": IMAGE}, WINDOW),
    ("AveragePool", {"x": IMAGE}, {**WINDOW, "count_include_pad": True}),
    ("AveragePool", {"x": IMAGE}, {**WINDOW, "strides": (3, 3), "ceil_mode": True}),
    ("LRN", {"x": IMAGE}, {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}),
    ("BatchNormalization", {"x": IMAGE, "s": (4,), "b": (4,), "m": (4,), "positive": (4,)}, {"epsilon": 1e-3}),
    ("Softmax", {"x": IMAGE}, {"axis": 1}),
    ("LogSoftmax", {"x": IMAGE}, {"axis": 3}),
]
SHAPES: list[Case] = [
    *((op, {"positive": IMAGE}, {"axes": (1, 3), "keepdims": False}) for op in REDUCTIONS),
    *((op, {"positive": IMAGE}, {"axes": (2, 3)}) for op in REDUCTIONS),
    ("Reshape", {"x": IMAGE}, {"shape": (8, 72)}),
    ("Transpose", {"x": IMAGE}, {"perm": (2, 0, 3, 1)}),
    ("Slice", {"x": IMAGE}, {"starts": (0, 3, 8, 1), "sizes": (2, 2, 5, 3), "steps": (1, -2, -2, 2)}),
    ("Slice", {"x": IMAGE}, {"starts": (0, 3, 0, 7), "sizes": (2, 4, 9, 8), "steps": (1, -1, 1, -1)}),
    ("Slice", {"x": IMAGE}, {"starts": (0,) * 4, "sizes": IMAGE, "steps": (1,) * 4}),
    ("Expand", {"x": (4, 1, 8)}, {"shape": (2, 4, 9, 8)}),
    ("Concat", {"a": (2, 3, 4), "b": (2, 1, 4), "c": (2, 2, 4)}, {"axis": 1}),
    ("Pad", {"x": IMAGE}, {"pads": (0, 1, 2, 0, 1, 0, 0, 3), "value": -1.5}),
    ("Pad", {"x": IMAGE}, {"pads": (0, 0, 2, 3, 0, 0, 1, 0), "mode": "reflect"}),
    ("Pad", {"x": IMAGE}, {"pads": (0, 0, 2, 3, 0, 0, 1, 0), "mode": "edge"}),
    ("Gather", {"x": IMAGE, "indices": (2, 3)}, {"axis": 2}),
]
GRID = {"x": IMAGE, "grid": (2, 3, 5, 2)}
DEFORMED = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 2, "offset_groups": 2}
TRANSPOSED = {"strides": (2, 1), "pads": (1, 0, 0, 1), "dilations": (1, 2), "output_padding": (1, 0)}
PLACED = {"reduction": "add"}
HOST: list[Case] = [
    *((op, {"x": IMAGE}, {}) for op in ("Round", "Sin", "Cos", "Sinh", "Cosh", "Atan", "Asinh", "IsNaN")),
    *((op, {"small": IMAGE}, {}) for op in ("Tan", "Asin", "Acos", "Atanh")),
    ("Acosh", {"large": IMAGE}, {}),
    ("IsInf", {"x": IMAGE}, {"negative": False}),
    ("Xor", {"truth": (2, 3), "other truth": (1, 3)}, {}),
    ("Mod", {"a": (2, 3), "positive": (1, 3)}, {"fmod": True}),
    ("BitShift", {"bits": (2, 3), "other bits": (1, 3)}, {"direction": "LEFT"}),
    *((op, {"bits": (2, 3), "other bits": (1, 3)}, {}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    ("BitwiseNot", {"bits": (2, 3)}, {}),
    ("ConvTranspose", {"x": IMAGE, "w": (4, 3, 2, 3), "b": (6,)}, {**TRANSPOSED, "groups": 2}),
    ("Resize", {"x": IMAGE}, {"sizes": (2, 4, 13, 5), "mode": "linear"}),
    ("Resize", {"x": IMAGE}, {"sizes": (2, 4, 22, 12), "scales": (1.0, 1.0, 2.5, 1.5), "transformation": "asymmetric"}),
    ("Resize", {"x": IMAGE}, {"sizes": (2, 4, 5, 5), "mode": "cubic", "transformation": "align_corners"}),
    ("GatherElements", {"x": IMAGE, "indices": (2, 4, 3, 2)}, {"axis": 2}),
    ("ScatterElements", {"x": IMAGE, "indices": (1, 2, 3, 2), "u": (1, 2, 3, 2)}, {"axis": 3}),
    ("ScatterElements", {"x": IMAGE, "indices": (1, 2, 3, 2), "u": (1, 2, 3, 2)}, {"axis": 3, **PLACED}),
    ("GatherND", {"d": (5, 4, 6), "indices": (5, 3, 1)}, {"batch_dims": 1}),
    ("ScatterND", {"d": (5, 4, 6), "indices": (3, 2), "u": (3, 6)}, PLACED),
    *((op, {"x": IMAGE}, {"axis": 2, "keepdims": False}) for op in ("ArgMax", "ArgMin")),
    *((op, {"x": IMAGE}, {"axis": 3, "k": 3}) for op in ("TopK", "TopKIndices")),
    ("CumSum", {"x": IMAGE}, {"axis": 1, "exclusive": True, "reverse": True}),
    ("CumProd", {"x": IMAGE}, {"axis": 1}),
    ("BitCast", {"x": IMAGE}, {"dtype": DType.INT32}),
    ("MaxPoolIndices", {"x": IMAGE}, WINDOW),
    ("GridSample", GRID, {}),
    ("GridSample", GRID, {"mode": "cubic", "padding_mode": "reflection", "align_corners": True}),
    ("DeformConv", {"x": IMAGE, "w": (6, 2, 3, 3), "o": (2, 36, 9, 8), "b": (6,), "m": (2, 18, 9, 8)}, DEFORMED),
    ("RoiAlign", {"x": IMAGE, "rois": (3, 4), "images": (3,)}, {"output_height": 3, "output_width": 2}),
    ("NonZero", {"whole": (3, 4)}, {"count": Dim.symbol("found")}),
    (
        "NonMaxSuppression",
        {"boxes": (1, 9, 4), "scores": (1, 2, 9)},
        {"count": Dim.symbol("found"), "most": 3, "overlap": 0.25},
    ),
    ("Einsum", {"a": (2, 3, 4), "b": (4, 3)}, {"equation": "bij,ji->bi"}),
    ("Det", {"a": (2, 3, 3)}, {}),
]
FIRST_OPSET = {"BitwiseAnd": 18, "BitwiseOr": 18, "BitwiseXor": 18, "BitwiseNot": 18, "GridSample": 16, "RoiAlign": 16}
FIRST_OPSET |= {"DeformConv": 19, "CumProd": 26, "BitCast": 26}
CASES = [*UNARY, *BINARY, *CONTRACTIONS, *WINDOWS, *SHAPES, *HOST]


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values by kind: "indices", "truth", "positive", …, or standard normal."""
    stream = np.random.default_rng(len(name))
    if name == "indices":
        return stream.integers(-4, 4, shape)
    if name == "images":
        return stream.integers(0, 2, shape)
    if "differences" in name:
        return stream.integers(-255, 256, shape).astype(np.int16)
    if name == "sums":
        return stream.integers(-(2**20), 2**20, shape).astype(np.int32)
    if "bits" in name:
        return stream.integers(0, 9, shape).astype(np.uint8)
    if name == "whole":
        return stream.integers(-1, 2, shape).astype(np.float32)
    if name in ("boxes", "rois"):
        low = stream.uniform(0, 4, (*shape[:-1], 2))
        return np.concatenate([low, low + stream.uniform(1, 4, low.shape)], axis=-1).astype(np.float32)
    if name in ("small", "large", "grid"):
        return stream.uniform(*{"small": (-0.9, 0.9), "large": (1.1, 9), "grid": (-1.2, 1.2)}[name], shape).astype("f4")
    values = stream.standard_normal(shape).astype(np.float32)
    return values > 0 if "truth" in name else np.abs(values) + np.float32(0.1) if name == "positive" else values


def single(
    op: str, shapes: dict[str, tuple[int, ...]], attributes: dict[str, Any]
) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph of one operator with its inputs; the weights of a Conv, known when it runs, are inputs here too."""
    graph = Graph(op)
    arrays = {name: drawn(name, shape) for name, shape in shapes.items()}
    types = {name: TensorType(DType.of(array.dtype), array.shape) for name, array in arrays.items()}
    values = [graph.add_input(name, type) for name, type in types.items()]
    graph.add_output("y", graph.add(op, values, attributes, origins=[op.lower()]))
    return graph, arrays
