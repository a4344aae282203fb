"""Lowering: a fused region with placements becomes the problems that kernels solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ... import errors
from ...ir import Kind, Node, Operator
from ...ir.ops.triton_text import has_text
from ...ir.plan import FusedGraph, Layouts, Region
from ...ir.problem import Contraction, Problem
from ..back_to_back import RULE as CHAINED
from ..pool_conv import RULE as POOL_CONV
from ..pooling import RULE as POOLED
from ..separable import RULE as SEPARABLE
from ..softmax import RULE as SOFTMAX
from ..softmax import ends_in_softmax
from .builder import Builder, Refused
from .chained import lower_chained
from .contractions import lower_conv, lower_matmul
from .equation import equation
from .pointwise import lower_concat, lower_elementwise, lower_expand, lower_pad, lower_reshape
from .pooled import lower_pooled
from .reductions import lower_reduce, lower_softmax
from .separable import lower_separable
from .windows import lower_lrn, lower_pool

_BY_OPERATOR: dict[str, Callable[[Builder], Problem | list[Problem]]] = {
    "Conv": lower_conv,
    "MatMul": lower_matmul,
    "Gemm": lower_matmul,
    "MaxPool": lower_pool,
    "AveragePool": lower_pool,
    "LRN": lower_lrn,
    "Softmax": lower_softmax,
    "LogSoftmax": lower_softmax,
    "Concat": lower_concat,
    "Expand": lower_expand,
    "Pad": lower_pad,
    "Reshape": lower_reshape,
}


@dataclass(frozen=True)
class Work:
    """A problem and the region that it belongs to."""

    region: Region
    problem: Problem


def lower(fused: FusedGraph, layouts: Layouts, mode: str) -> list[Work]:
    """The problems of all regions in running order; views that cost nothing have none.

    Raises:
        UnsupportedModelError: operators, or forms of them, without a kernel: all of them.
    """
    work: list[Work] = []
    refusals: dict[str, list[Node]] = {}
    for region in fused.regions:
        if region.output.node in layouts.views:
            continue
        try:
            work.extend(Work(region, problem) for problem in _lower_region(fused, layouts, mode, region))
        except Refused as refusal:
            refusals.setdefault(str(refusal), []).append(fused.graph.node(region.head))
    if refusals:
        raise errors.UnsupportedModelError(
            [errors.Unsupported(what, "", tuple(n.label for n in nodes)) for what, nodes in refusals.items()]
        )
    return work


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
    if SOFTMAX in region.rules:
        mode = ends_in_softmax(fused.graph, region.output)
        problems = [replace(problem, normalise=mode) for problem in problems if isinstance(problem, Contraction)]
    return [replace(problem, equation=equation(problem, node)) for problem in problems]


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
        return has_text(operator)
    if operator.kind is Kind.REDUCTION and "axes" in operator.attributes:
        return True
    return operator.kind in (Kind.STRUCTURAL, Kind.VIEW) or operator.name in _BY_OPERATOR


def _check_kernels(fused: FusedGraph, region: Region) -> None:
    for node in map(fused.graph.node, region.nodes):
        if not has_kernel(node.operator):
            raise Refused(f"{node.op}: {errors.FORM_NO_KERNEL}")


def _check_dtypes(fused: FusedGraph, region: Region, node: Node) -> None:
    """Arithmetic is compiled for floats up to fp32, conversions also for what fp32 holds exactly; copies for every
    type."""
    graph = fused.graph
    moves = len(region.nodes) == 1 and node.kind in (Kind.MOVEMENT, Kind.VIEW)
    if moves or [graph.node(id).op for id in region.nodes] == ["Copy"]:
        return
    for inner in map(graph.node, region.nodes):
        for type in (*inner.outputs, *map(graph.type, graph.inputs(inner))):
            converted = inner.op == "Cast" and type.dtype.fits_fp32
            if not converted and (not type.dtype.is_float or type.dtype.itemsize > 4):
                raise Refused(f"{inner.op} on {type.dtype}")
