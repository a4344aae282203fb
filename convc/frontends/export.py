"""A graph written as an ONNX model: `export_onnx`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx

from .. import errors
from ..ir.graph import Graph
from .spellings import SPELLINGS, plain
from .writer import Writer

OPSETS = range(13, 25)
"""Opsets that can be written."""

MAX_BYTES = 2**31 - 1
"""Protocol buffers hold no more."""


def export_onnx(graph: Graph, path: str | os.PathLike[str] | None = None, opset: int = 17) -> onnx.ModelProto:
    """``graph`` as an ONNX model, written to ``path`` where one is given.

    Nodes, values and initialisers are called after the graph's origins; symbolic dimensions become ``dim_param``. An
    operator that the opset does not have yet is written as the chain of operators that it abbreviates.

    Raises:
        UsageError: an opset, or a form of an operator in it, that cannot be written.
        ShapeError: a symbolic dimension that does not follow from the shapes of the inputs.
        LimitError: weights of 2 GB or more.
        OutputError: a file that cannot be written; what stood there before is left as it was.
    """
    if opset not in OPSETS:
        raise errors.opset_out_of_range(opset, OPSETS[0], OPSETS[-1])
    size = sum(node.array.nbytes for node in graph.of_kind("Constant"))
    if size > MAX_BYTES:
        raise errors.too_large_for_onnx(size, MAX_BYTES)
    writer = Writer(graph, opset)
    for node in graph.nodes():
        writer.write(node, SPELLINGS.get(node.op, plain))
    model = writer.model()
    if path is not None:
        write_atomically(Path(path), model.SerializeToString())
    return model


def write_atomically(path: Path, data: bytes) -> None:
    """Writes beside ``path`` and renames, so that readers see the old file or the whole new one.

    Raises:
        OutputError: where that fails; nothing is left beside ``path``.
    """
    beside = None
    try:
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(beside).chmod(0o644)
        Path(beside).replace(path)
    except OSError as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise errors.not_written(path, error.strerror or error) from error
