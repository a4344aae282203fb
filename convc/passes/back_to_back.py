"""A convolution and the 1x1 convolution behind it in one kernel, and when that pays.

The second product needs every channel of a pixel, so the first one's tile has them all: at most `MOST_MIDDLE`. Its rows
are then all there is to divide among programs, and no reduction can be split, which leaves multiprocessors idle where
images are small; columns of the second product can be divided too, each program making the first one again.

With N·P·Q pixels of M middle channels, fusion saves 2·e·N·M·P·Q bytes (written and read, e = 2 bytes an element) and a
launch. What it costs is not counted in operations but in the time of the best tiles (`convc.passes.tiling`): that of
one kernel less those of the two, on each GPU. The policy weighs both sides (`convc.passes.choice`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir import DType, Graph, Node, Value
from ..ir.chained import ChainedContraction
from ..ir.problem import Axis, Contraction, IterDim, Operand, Tap
from ..targets import GPUS, Target
from .chains import behind, elements, extents, unfit_chain, unfit_product, unfree
from .choice import ELEMENT_BYTES, Choice, saved_seconds
from .layout import channels_last, dense_strides
from .tiling import ranked

RULE = "back-to-back"
MOST_MIDDLE = 128
"""Most channels between the products."""


def propose(graph: Graph, conv: Node, taken: Mapping[int, int], gpus: Sequence[Target] = GPUS) -> Choice | str | None:
    """The convolution and the elementwise operators that ``conv`` can follow in one kernel, or why not.

    gpus: those whose times are compared, with the features that their kernels have. None where no ordinary convolution
    leads to ``conv``, and where ``conv`` is none.
    """
    if conv.op != "Conv" or conv.attributes["groups"] > 1:
        return None
    chain, sources = behind(graph, conv)
    starts = [value for value in sources if _is_ordinary(graph.producer(value))]
    if not starts or conv.id in taken:
        return None
    start = graph.producer(starts[0])
    nodes = [start.id, *chain]
    reason = (
        unfit_product(graph, conv)
        or _unfit_weights(graph, start, conv)
        or unfit_chain(graph, chain, starts[0], sources)
        or unfree(graph, nodes, conv, taken)
    )
    return reason or _choice(graph, start, conv, nodes, gpus)


def _is_ordinary(node: Node) -> bool:
    return node.op == "Conv" and bool(node.attributes["groups"] == 1)


def _unfit_weights(graph: Graph, start: Node, conv: Node) -> str | None:
    if any(graph.constant(value) is None for node in (start, conv) for value in graph.inputs(node)[1:2]):
        return "weights are computed at run time"
    middle = extents(graph, Value(start.id))[1]
    return f"{middle} channels between them are more than a tile's {MOST_MIDDLE}" if middle > MOST_MIDDLE else None


def _choice(graph: Graph, start: Node, conv: Node, nodes: list[int], gpus: Sequence[Target]) -> Choice | str:
    """What fusing saves and costs, or that no tile holds both products."""
    choice = Choice(
        RULE,
        (*nodes, conv.id),
        conv.id,
        tuple(nodes),
        saved_bytes=2 * ELEMENT_BYTES * elements(graph, Value(start.id)),
        why="dividing the work of both by pixels alone",
    )
    first, second = _product(graph, start), _product(graph, conv)
    whole = ChainedContraction(
        "chained", "conv", second.dims, second.output, first=first, w=second.w, w_depth=second.w_depth
    )
    if not all(ranked(whole, gpu) for gpu in gpus):
        return "no tile of both convolutions fits into a multiprocessor"
    slower = {gpu.name: _seconds(whole, gpu) - _seconds(first, gpu) - _seconds(second, gpu) for gpu in gpus}
    return replace(choice, slower={gpu.name: slower[gpu.name] + saved_seconds(choice, gpu) for gpu in gpus})


def _seconds(problem: Contraction | ChainedContraction, gpu: Target) -> float:
    return ranked(problem, gpu)[0].predicted_us * 1e-6


def _product(graph: Graph, conv: Node) -> Contraction:
    """A convolution alone as the cost model knows it: over dense channels-last tensors, in fp16."""
    x_value, w_value = graph.inputs(conv)[:2]
    x, y, (filters, channels, *kernel) = (extents(graph, value) for value in (x_value, Value(conv.id), w_value))
    rank = len(kernel)
    outside = graph.producer(x_value).op == "Input"
    along = dense_strides(x, range(len(x)) if outside else channels_last(len(x)))
    steps, pads, dilations = (conv.attributes[name] for name in ("strides", "pads", "dilations"))
    taps = tuple(
        Tap(f"r{i}", kernel[i], 1 + i, steps[i], pads[i], dilations[i], x[2 + i], along[2 + i] * dilations[i])
        for i in range(rank)
    )
    dims = [IterDim("n", y[0], Axis.ROW), *(IterDim(f"p{i}", y[2 + i], Axis.ROW) for i in range(rank))]
    x_strides = (along[0], *(along[2 + i] * steps[i] for i in range(rank)), 0)
    y_strides = dense_strides((y[0], *y[2:], y[1]), range(len(y)))
    w = Operand("w", w_value, DType.FP16, (*(0 for _ in dims), 1))
    return Contraction(
        family="contraction",
        mode="conv",
        dims=(*dims, IterDim("k", filters, Axis.COL)),
        output=Operand("y", Value(conv.id), DType.FP16, y_strides),
        x=Operand("x", x_value, DType.FP16, x_strides),
        w=replace(w, depth=0),
        depth=channels,
        x_depth=along[1],
        w_depth=filters,
        taps=tuple(tap for tap in taps if tap.size > 1 or tap.pad > 0),
        compute=DType.FP16,
    )
