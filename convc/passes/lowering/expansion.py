"""The 1x1 convolution that makes the input of a depthwise one in the same kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from ...ir.expansion import ExpandedWindow, Expansion
from ...ir.problem import Operand, WindowReduction
from .builder import Builder
from .filters import filter_operand
from .prologue import Stage, lower_stage


def lower_expansion(b: Builder, stage: Stage, x_step: int, along: Callable[[Operand, int], Operand]) -> Expansion:
    """The stage of a prologue that expands. ``along``: gives an operand its stride along the expanded channels."""
    x_value, w_value = b.graph.inputs(stage.anchor)[:2]
    w, _, w_channel, w_step, _ = filter_operand(b, w_value, 1)
    chain = lower_stage(b, stage)

    def vector(operand: Operand) -> Operand:
        name = "be" if operand.name == "bias" else f"ex{operand.name.removeprefix('in')}"
        return along(replace(operand, name=name), operand.strides[0])

    return Expansion(
        w=along(replace(w, name="we"), w_channel),
        inputs=b.shape(x_value)[1],
        x_step=x_step,
        w_step=w_step,
        statements=tuple(chain.statements),
        operands=tuple(map(vector, chain.operands)),
    )


def expanded_window(b: Builder, problem: WindowReduction, stage: Stage, x_step: int) -> ExpandedWindow:
    """A depthwise convolution over (N, P, Q, channel, 1) with an input that it makes itself."""

    def along(operand: Operand, stride: int) -> Operand:
        return replace(operand, strides=(*(0 for _ in problem.dims[2:]), stride, 0))

    return ExpandedWindow(
        **{field.name: getattr(problem, field.name) for field in fields(problem)},
        expansion=lower_expansion(b, stage, x_step, along),
        compute=b.compute,
        precision="tf32" if b.mode == "tf32" else "ieee",
    )
