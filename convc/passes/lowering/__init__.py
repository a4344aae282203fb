"""Lowering: a fused region with placements becomes the problems that kernels solve."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Union

from ... import errors
from ...ir import Graph, Kind, Node, Operator
from ...ir.chained import ChainedContraction
from ...ir.ops.integer_text import has_integer_text
from ...ir.ops.integers import NAMES as INTEGER
from ...ir.ops.triton_text import has_text, pow_text
from ...ir.plan import FusedGraph, HostStep, Layouts, Region
from ...ir.problem import INT32_LIMIT, Axis, Contraction, Problem
from ...targets.cost import host_step_seconds
from ..back_to_back import RULE as CHAINED
from ..element_types import odd_type, odd_type_in_fp32
from ..pool_conv import RULE as POOL_CONV
from ..pooling import RULE as POOLED
from ..separable import RULE as SEPARABLE
from ..softmax import RULE as SOFTMAX
from ..softmax import ends_in_softmax
from .builder import Builder, Refused
from .chained import lower_chained
from .contractions import lower_conv, lower_matmul
from .equation import equation
from .picking import lower_gather, lower_scatter
from .pointwise import lower_concat, lower_elementwise, lower_expand, lower_pad, lower_reshape
from .pooled import lower_pooled
from .reductions import lower_extreme, lower_reduce, lower_softmax
from .sampling import lower_grid_sample
from .separable import lower_separable
from .windows import lower_lrn, lower_pool

_BY_OPERATOR: dict[str, Callable[[Builder], Problem | list[Problem]]] = {
    **dict.fromkeys(("Conv", "ConvInteger"), lower_conv),
    **dict.fromkeys(("MatMul", "MatMulInteger"), lower_matmul),
    "Gemm": lower_matmul,
    "MaxPool": lower_pool,
    "AveragePool": lower_pool,
    "LRN": lower_lrn,
    "Softmax": lower_softmax,
    "LogSoftmax": lower_softmax,
    "ArgMax": lower_extreme,
    "ArgMin": lower_extreme,
    "Concat": lower_concat,
    "Expand": lower_expand,
    "Pad": lower_pad,
    "Reshape": lower_reshape,
    **dict.fromkeys(("Gather", "GatherElements", "GatherND"), lower_gather),
    **dict.fromkeys(("ScatterElements", "ScatterND"), lower_scatter),
    "GridSample": lower_grid_sample,
}


EXTREMES = ("ArgMax", "ArgMin")
"""Operators whose results are places, whatever they read."""


@dataclass(frozen=True)
class Work:
    """A problem and the region that it belongs to."""

    region: Region
    problem: Problem


Item = Union[Work, HostStep]
"""What runs: a kernel's problem, or a step of the host."""


@dataclass
class Lowered:
    """items: in running order. refused: nodes, or forms of them, without a kernel, and which they are."""

    items: list[Item] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)

    def require(self, graph: Graph) -> None:
        """Raises `UnsupportedModelError` where anything was refused: all of it."""
        grouped: dict[str, list[str]] = {}
        for id, what in self.refused.items():
            grouped.setdefault(what, []).append(graph.node(id).label)
        if grouped:
            raise errors.UnsupportedModelError(
                [errors.Unsupported(what, "", tuple(labels)) for what, labels in grouped.items()]
            )


def lower(fused: FusedGraph, layouts: Layouts, mode: str) -> Lowered:
    """The problems of all regions in running order; views that cost nothing have none."""
    lowered = Lowered()
    for region in fused.regions:
        if region.on_host:
            lowered.items.append(_host_step(fused, layouts, region))
            continue
        if region.output.node in layouts.views:
            continue
        try:
            lowered.items.extend(Work(region, problem) for problem in _lower_region(fused, layouts, mode, region))
        except Refused as refusal:
            lowered.refused[region.head if refusal.node is None else refusal.node] = str(refusal)
    return lowered


def _host_step(fused: FusedGraph, layouts: Layouts, region: Region) -> HostStep:
    inside = set(region.nodes)
    read = (value for id in region.nodes for value in fused.graph.inputs(id) if value.node not in inside)
    reads = dict.fromkeys(value for value in read if value in layouts.placements)
    stores = tuple(value for value in region.on_host if value in layouts.placements)
    copied = [layouts.placements[value].nbytes for value in (*reads, *stores)]
    return HostStep(region, tuple(reads), stores, round(host_step_seconds(copied) * 1e6, 3))


def _lower_region(fused: FusedGraph, layouts: Layouts, mode: str, region: Region) -> list[Problem]:
    builder = Builder(fused, layouts, mode, _without_ending(fused, region), keeps=region.output.node != region.pool)
    if 0 in builder.output_shape:
        return []
    node = fused.graph.node(region.head)
    _check_kernels(fused, region)
    _check_dtypes(fused, region, node)
    if region.anchor is None:
        lowered: Problem | list[Problem] = lower_elementwise(builder)
    elif not {SEPARABLE, POOL_CONV}.isdisjoint(region.rules):
        lowered = lower_separable(builder)
    elif CHAINED in region.rules:
        lowered = lower_chained(builder)
    elif POOLED in region.rules:
        lowered = lower_pooled(builder)
    else:
        lowered = _BY_OPERATOR.get(node.op, lower_reduce)(builder)
    problems = lowered if isinstance(lowered, list) else [lowered]
    _check_reach(problems, node)
    if SOFTMAX in region.rules:
        mode = ends_in_softmax(fused.graph, region.output)
        problems = [replace(problem, normalise=mode) for problem in problems if isinstance(problem, Contraction)]
    return [replace(problem, equation=problem.equation or equation(problem, node)) for problem in problems]


LONGEST_AXIS = 1 << 30
"""Rows or columns of a kernel, and elements that it reduces: with blocks that stick out, their numbers fit 32 bits."""


def _check_reach(problems: Sequence[Problem], node: Node) -> None:
    """What a kernel numbers in 32 bits: rows, columns, what it reduces, and how far that reaches in memory."""
    parts = [*problems, *(problem.first for problem in problems if isinstance(problem, ChainedContraction))]
    for problem in parts:
        reduced = math.prod(extent for extent, _ in getattr(problem, "reduced", ()))
        if max(problem.extent(Axis.ROW), problem.extent(Axis.COL), reduced) > LONGEST_AXIS:
            raise Refused(f"{node.op} of more than 2^30 elements along one side")
        if max(_along_reduction(problem)) > INT32_LIMIT:
            raise Refused(f"{node.op} whose sums go over 2^31 elements of memory or more")


def _along_reduction(problem: Problem) -> Iterator[int]:
    """Elements that the operands of a problem step over along what is summed up."""
    yield sum(extent * abs(stride) for extent, stride in getattr(problem, "reduced", ()))
    if isinstance(problem, Contraction):
        steps = (problem.x_depth, problem.w_depth, *(operand.depth for operand in problem.prologue_operands))
        yield problem.depth * max(map(abs, steps))
    expansion = getattr(problem, "expansion", None)
    if expansion is not None:
        yield expansion.inputs * abs(expansion.x_step)


def _without_ending(fused: FusedGraph, region: Region) -> Region:
    """The region up to what it pools over whole images or takes the softmax of, where it does."""
    if SOFTMAX in region.rules:
        return replace(region, nodes=region.nodes[:-1])
    if region.pool is None:
        return region
    nodes = tuple(id for id in region.nodes if id != region.pool)
    return replace(region, nodes=nodes, output=fused.graph.inputs(region.pool)[0], also=None)


def has_kernel(operator: Operator) -> bool:
    """Whether kernels compute an operator, in some of its forms at least; views take none."""
    if operator.kind is Kind.ELEMENTWISE:
        return has_text(operator) or has_integer_text(operator)
    if operator.kind is Kind.REDUCTION and "axes" in operator.attributes:
        return True
    return operator.kind in (Kind.STRUCTURAL, Kind.VIEW) or operator.name in _BY_OPERATOR


def _check_kernels(fused: FusedGraph, region: Region) -> None:
    for node in map(fused.graph.node, region.nodes):
        if not has_kernel(node.operator):
            raise Refused(f"{node.op}: {errors.FORM_NO_KERNEL}", node.id)
        if node.op == "Pow" and not _has_power(fused.graph, node):
            raise Refused("Pow with a computed operand", node.id)


def _has_power(graph: Graph, node: Node) -> bool:
    """Whether kernels can raise something to the exponent of a Pow."""
    exponent = graph.constant(graph.inputs(node)[1])
    return exponent is not None and exponent.size == 1 and bool(pow_text(float(exponent.reshape(-1)[0])))


def _check_dtypes(fused: FusedGraph, region: Region, node: Node) -> None:
    """Elementwise operators are compiled for floats up to fp32 and for most on integers; what ends or begins another
    kernel for floats alone, conversions also for what fp32 holds exactly; copies for every type."""
    graph = fused.graph
    moves = len(region.nodes) == 1 and node.kind in (Kind.MOVEMENT, Kind.VIEW)
    if moves or [graph.node(id).op for id in region.nodes] == ["Copy"]:
        return
    for inner in map(graph.node, region.nodes):
        if inner.op in INTEGER or inner.op in EXTREMES:
            continue
        alone = region.anchor is None and inner.kind is Kind.ELEMENTWISE
        odd = odd_type(graph, inner) if alone else odd_type_in_fp32(graph, inner)
        if odd is not None:
            raise Refused(f"{inner.op} on {odd}", inner.id)
