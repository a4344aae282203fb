"""The ONNX importer: a model becomes a `Graph` of canonical operators."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import onnx

from convc import errors
from convc.ir import ops as _ops  # noqa: F401  defines the operators
from convc.ir.graph import Graph
from convc.ir.types import TensorType

from . import (  # noqa: F401  they enter themselves in the registry
    convolution,
    elementwise,
    matmul,
    movement,
    normalization,
    picking,
    pooling,
    quantization,
    recurrent,
    reduction,
    resampling,
    sequences,
    shape,
    shuffles,
    signals,
)
from .files import open_source
from .importer import Importer
from .inputs import Symbols, input_type

__all__ = ["declared_inputs", "import_onnx"]


def import_onnx(
    source: str | os.PathLike[str] | onnx.ModelProto,
    *,
    dims: Mapping[str, int] | None = None,
    constants: Mapping[str, np.ndarray] | None = None,
    batch: int | None = None,
) -> Graph:
    """The network in an ONNX model.

    source: a file, or a message in memory (which may have no external data). dims: numbers for symbolic sizes, by the
    model's name or the graph's. constants: values for inputs that are then no inputs any more, such as a shape that the
    model takes at run time. batch: what a symbolic first size is where the graph cannot be read with it open.

    Names of inputs and outputs are kept, sizes without a number become symbols, weights are views of the
    file's bytes where possible, and everything that depends on constants and shapes alone is evaluated.

    Raises:
        UnsupportedModelError: operators, or forms of them, that convc does not compile; all of them.
        LoadError: a file that is no model, or a broken one.
        ShapeError: a node whose inputs do not fit.
        LimitError: a model past the limits on nodes, depth, rank or bytes.
        UsageError: a size in ``dims`` that the model does not have.
    """
    name = None if isinstance(source, onnx.ModelProto) else os.fspath(source)
    try:
        importer = Importer(open_source(source), Symbols(dims), constants or {})
        try:
            return importer.run()
        except errors.UnsupportedModelError:
            if batch is None or not importer.batches:
                raise
        bound = {**(dims or {}), **dict.fromkeys(importer.batches, batch)}
        return Importer(open_source(source), Symbols(bound), constants or {}).run()
    except errors.ConvcError as error:
        error.file = error.file or name
        raise
    except Exception as error:
        failure = errors.not_readable("the model", error)
        failure.file = name
        raise failure from error


def declared_inputs(
    source: str | os.PathLike[str] | onnx.ModelProto, dims: Mapping[str, int] | None = None
) -> dict[str, TensorType]:
    """The inputs that a model must be given, in its order; sizes that it leaves open are symbols, as in its graph.

    dims: as for `import_onnx`.

    Raises:
        LoadError: an input that is no tensor, or whose shape or element type is not one that convc has; a file that
            is no model. UsageError: a size in ``dims`` that the model does not have.
    """
    model, symbols = open_source(source).model, Symbols(dims)
    taken = {tensor.name for tensor in model.graph.initializer}
    taken |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    types = {info.name: input_type(info, symbols) for info in model.graph.input if info.name not in taken}
    symbols.check_all_used()
    return types
