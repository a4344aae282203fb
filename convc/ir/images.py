"""Whether the images of a batch are independent: what a network computes of one never depends on another.

A network whose images are can be planned once for the largest batch and run with fewer images: what it computes behind
the last one touches nothing in front. This is proved on the graph with its batch still a symbol N, value by value. A
value either does not depend on the batch at all, or it *holds images*: one dimension, its axis of images, is N·c for a
number c, the c rows of every image lie there one behind the other, no other dimension depends on N, and no element of
an image depends on an element of another. One rule for each operator says when its result holds images if its operands
do; operators without a rule are taken to mix them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .dims import Dim, product
from .graph import Graph, Node, Value
from .operator import Kind, operators
from .ops.algebra import terms
from .types import TensorType

SYMBOL = "N"


@dataclass(frozen=True)
class Held:
    """An operand or the result of a node. rows: the number c where it holds images, otherwise 0. axis: theirs."""

    type: TensorType
    axis: int = 0
    rows: int = 0

    @property
    def rank(self) -> int:
        return self.type.rank

    @property
    def place(self) -> int:
        """The axis from the end, as broadcasting counts."""
        return self.rank - self.axis


@dataclass(frozen=True)
class Mixing:
    """The first node whose result may depend on more than one image. reason: why, as a part of a sentence."""

    node: Node
    reason: str


@dataclass(frozen=True)
class Independent:
    """Rows that each image has in the first dimension of the inputs and outputs, by name; 0 where they hold none."""

    inputs: Mapping[str, int]
    outputs: Mapping[str, int]


Rule = Callable[[Node, Sequence[Held], Held], bool]
"""(node, operands, result) → whether the result holds images. At least one operand does, and the result's shape is
that of a value that does."""


def outermost(one: Graph, other: Graph, sizes: tuple[int, int]) -> frozenset[Value]:
    """Values of ``one`` whose first dimension alone goes with the batch, known from the same graph for another batch:
    where that is not the same but for sizes, none. sizes: the batches of both."""
    nodes, others = one.nodes(), other.nodes()
    if [_told(one, node) for node in nodes] != [_told(other, node) for node in others]:
        return frozenset()
    found = set()
    for node, twin in zip(nodes, others, strict=True):
        for value, type, changed in zip(one.values(node), node.outputs, twin.outputs, strict=True):
            if type == changed:
                continue
            firsts = type.shape[0] * sizes[1], changed.shape[0] * sizes[0]
            if type.shape[1:] != changed.shape[1:] or firsts[0] != firsts[1]:
                return frozenset()
            found.add(value)
    return frozenset(found)


def _told(graph: Graph, node: Node) -> tuple[object, ...]:
    """What a node is, but for sizes."""
    return node.id, node.op, tuple(graph.inputs(node)), [len(type.shape) for type in node.outputs]


def batch_symbols(graph: Graph) -> frozenset[str]:
    """Symbols of the first dimensions of the inputs."""
    first = (dim for node in graph.graph_inputs for dim in node.outputs[0].shape[:1])
    return frozenset().union(*(dim.symbols for dim in first if isinstance(dim, Dim)))


def images_of(graph: Graph) -> Independent | Mixing:
    """How inputs and outputs hold the images of a symbolic batch, or the first node that may mix them."""
    names = batch_symbols(graph)
    open_graph = graph.bind(dict.fromkeys(names, Dim.symbol(SYMBOL)))
    held: dict[Value, Held] = {}
    for node in open_graph.nodes():
        operands = [held[value] for value in open_graph.inputs(node)]
        for value in open_graph.values(node):
            result = _held(open_graph.type(value))
            if result is None:
                return Mixing(node, f"the batch is in several dimensions of its result, {open_graph.type(value)}")
            if not _follows(node, operands, result):
                return Mixing(node, f"what {node.op} gives for one image may depend on the others")
            if node.op in ("Input", "Output") and result.axis:
                return Mixing(node, f"the batch is not the first dimension of {open_graph.type(value)}")
            held[value] = result

    def rows(nodes: Sequence[Node]) -> dict[str, int]:
        return {node.attributes["name"]: held[Value(node.id)].rows for node in nodes}

    return Independent(rows(open_graph.graph_inputs), rows(open_graph.graph_outputs))


def _held(type: TensorType) -> Held | None:
    """What a shape says of a value; None where N stands in several dimensions, or not as N·c."""
    along = [axis for axis, dim in enumerate(type.shape) if isinstance(dim, Dim) and SYMBOL in dim.symbols]
    if not along:
        return Held(type)
    rows = type.shape[along[0]] // Dim.symbol(SYMBOL)
    return Held(type, along[0], rows) if len(along) == 1 and isinstance(rows, int) else None


def _follows(node: Node, operands: Sequence[Held], result: Held) -> bool:
    """Whether a result is what its shape says: images, or independent of the batch."""
    if node.op in ("Input", "Constant"):
        return True
    if not any(operand.rows for operand in operands):
        return not result.rows or (node.op == "Expand" and _broadcast(node, operands, result))
    return bool(result.rows) and node.op in RULES and RULES[node.op](node, operands, result)


# -- rules ------------------------------------------------------------------------------------------------------------
def _broadcast(node: Node, operands: Sequence[Held], result: Held) -> bool:
    """Elements at the same place: images beside images, and one operand for all of them."""
    return all(_beside(operand, result) for operand in operands)


def _beside(operand: Held, result: Held) -> bool:
    if operand.rows:
        return (operand.place, operand.rows) == (result.place, result.rows)
    return operand.rank < result.place or operand.type.shape[operand.rank - result.place] == 1


def _same(node: Node, operands: Sequence[Held], result: Held) -> bool:
    """Every operand holds images just as the result does."""
    return all((operand.axis, operand.rows) == (result.axis, result.rows) for operand in operands)


def _first(*positions: int) -> Rule:
    """These operands hold images along the first axis, as the result does, and no other operand holds any."""

    def rule(node: Node, operands: Sequence[Held], result: Held) -> bool:
        wanted = [result.rows if position in positions else 0 for position in range(len(operands))]
        return result.axis == 0 and all(
            (operand.axis, operand.rows) == (0, rows) for operand, rows in zip(operands, wanted, strict=True)
        )

    return rule


def _along_another_axis(node: Node, operands: Sequence[Held], result: Held) -> bool:
    return node.attributes["axis"] != operands[0].axis and operands[0].rows > 0


def _same_along_another_axis(node: Node, operands: Sequence[Held], result: Held) -> bool:
    return node.attributes["axis"] != result.axis and _same(node, operands, result)


def _reshape(node: Node, operands: Sequence[Held], result: Held) -> bool:
    """In the order of memory as many elements stand in front of the axis of images as before."""
    (x,) = operands
    return product(x.type.shape[: x.axis]) == product(result.type.shape[: result.axis])


def _transpose(node: Node, operands: Sequence[Held], result: Held) -> bool:
    return bool(node.attributes["perm"][result.axis] == operands[0].axis)


def _slice(node: Node, operands: Sequence[Held], result: Held) -> bool:
    given, axis = node.attributes, result.axis
    return given["starts"][axis] == 0 and given["steps"][axis] == 1 and _same(node, operands, result)


def _pad(node: Node, operands: Sequence[Held], result: Held) -> bool:
    pads, axis = node.attributes["pads"], result.axis
    return pads[axis] == pads[result.rank + axis] == 0 and _same(node, operands, result)


def _resize(node: Node, operands: Sequence[Held], result: Held) -> bool:
    scales, crop, axis = node.attributes["scales"], node.attributes["crop"], result.axis
    whole = not crop or (crop[axis], crop[result.rank + axis]) == (0, 1)
    return whole and (not scales or scales[axis] == 1) and _same(node, operands, result)


def _reduce(node: Node, operands: Sequence[Held], result: Held) -> bool:
    return operands[0].axis not in node.attributes["axes"]


def _gather(node: Node, operands: Sequence[Held], result: Held) -> bool:
    """The same places of every image, or places in a table for every image."""
    data, indices = operands
    axis = node.attributes["axis"]
    if indices.rows:
        return not data.rows and result.axis == axis + indices.axis
    return data.axis != axis


def _gather_nd(node: Node, operands: Sequence[Held], result: Held) -> bool:
    return node.attributes["batch_dims"] > result.axis and _same(node, operands, result)


def _gemm(node: Node, operands: Sequence[Held], result: Held) -> bool:
    a, b, *addends = operands
    if a.rows:
        along = not b.rows and a.axis == int(node.attributes["trans_a"]) and result.axis == 0
    else:
        along = bool(b.rows) and b.axis == int(not node.attributes["trans_b"]) and result.axis == 1
    return along and all(_beside(addend, result) for addend in addends)


def _matmul(node: Node, operands: Sequence[Held], result: Held) -> bool:
    """Images are rows of the first operand, columns of the second, or a dimension of products side by side."""
    a, b = operands
    if result.place > 2:
        return _broadcast(node, operands, result)
    rows = result.place == 2 and a.place == 2 and a.rank > 1 and not b.rows
    columns = result.place == 1 and b.place == 1 and b.rank > 1 and not a.rows
    return rows or columns


def _einsum(node: Node, operands: Sequence[Held], result: Held) -> bool:
    """One label stands for the axis of images wherever there is one, and nowhere else."""
    labels, given = terms(node.attributes["equation"], [operand.rank for operand in operands])
    label = given[result.axis]
    return all(
        [axis for axis, found in enumerate(term) if found == label] == ([operand.axis] if operand.rows else [])
        for term, operand in zip(labels, operands, strict=True)
    )


_ALONG = ["ArgMax", "ArgMin", "CumProd", "CumSum", "LogSoftmax", "Softmax", "TopK", "TopKIndices"]
_SAME_ALONG = ["Concat", "GatherElements", "ScatterElements"]

RULES: dict[str, Rule] = {
    "Output": _same,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Expand": _broadcast,
    "Pad": _pad,
    "Resize": _resize,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Einsum": _einsum,
    "GridSample": _first(0, 1),
    "DeformConv": _first(0, 2, 4),
    **dict.fromkeys(
        ["AveragePool", "Conv", "ConvInteger", "ConvTranspose", "LRN", "MaxPool", "MaxPoolIndices"], _first(0)
    ),
    **dict.fromkeys(_ALONG, _along_another_axis),
    **dict.fromkeys(_SAME_ALONG, _same_along_another_axis),
    **{name: _reduce for name in operators() if name.startswith("Reduce")},
    **{name: _broadcast for name, found in operators().items() if found.kind is Kind.ELEMENTWISE},
    "BatchNormalization": _first(0),
}
