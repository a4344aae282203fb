"""A problem in one line: what is computed, in operators."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Node
from ...ir.chained import ChainedContraction
from ...ir.pooled import PooledContraction
from ...ir.problem import Contraction, Operand, Problem, Ref, Statement, WindowReduction
from ...ir.separable import SeparableContraction

_INFIX = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}
_LONGEST = 400
_WINDOWS = {"conv": "depthwise({}, wd)", "max": "maxpool({})", "mean": "averagepool({})"}


def equation(problem: Problem, node: Node) -> str:
    """For example ``y = relu((conv(x, w) + bias) + in1)``; ``m`` is the result pooled over whole images."""
    if any(operand.picks for operand in (*problem.operands, problem.output)):
        names = dict.fromkeys(o.name for o in sorted(problem.operands, key=lambda operand: not operand.picks))
        return f"y = {node.op.lower()}({', '.join(names)})"
    text = _bare(_text(problem.statements, problem.operands, _accumulator(problem, node)))
    if isinstance(problem, PooledContraction):
        text = f"{'maxpool' if problem.pooling == 'max' else 'averagepool'}({text})"
    if isinstance(problem, Contraction) and problem.normalise:
        text = f"{problem.normalise}({text})"
    if problem.pool is not None and not problem.pool.keeps:
        return f"m = {problem.pool.mode}({_shortened(text)})"
    pooled = f"; m = {problem.pool.mode}(y)" if problem.pool is not None else ""
    return f"y = {_shortened(text)}{pooled}"


def _text(statements: Sequence[Statement], operands: Sequence[Operand], accumulator: str) -> str:
    """The last of the statements, with the earlier ones put in; the accumulator where there are none."""
    results = [accumulator]
    for statement in statements:
        arguments = [_argument(operands, results, ref) for ref in statement.arguments]
        name = statement.operator.name
        if name in _INFIX and len(arguments) == 2:
            text = f"({arguments[0]} {_INFIX[name]} {arguments[1]})"
        else:
            text = f"{name.lower()}({', '.join(map(_bare, arguments))})"
        # Shortened at once: a value that is read twice at every level doubles the text at every level.
        results.append(_shortened(text))
    return results[-1]


def _argument(operands: Sequence[Operand], results: list[str], ref: Ref) -> str:
    """Text of an argument; ``results`` has the accumulator first and then one text per statement."""
    if ref.kind == "operand":
        return operands[ref.index].name
    if ref.kind == "number":
        return f"{ref.number:g}"
    return results[ref.index + 1] if ref.kind == "statement" else results[0]


def _bare(text: str) -> str:
    """Without the parentheses around an infix expression, which is the only text that begins with one."""
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _accumulator(problem: Problem, node: Node) -> str:
    if isinstance(problem, ChainedContraction):
        middle = _bare(_text(problem.first.statements, problem.first.operands, "conv(x, w)"))
        return f"{node.op.lower()}({middle}, v)"
    weighted = isinstance(problem, Contraction) or (isinstance(problem, WindowReduction) and problem.w is not None)
    x, expansion = "x", getattr(problem, "expansion", None)
    if expansion is not None:
        x = _bare(_text(expansion.statements, expansion.operands, "conv(x, we)"))
    if isinstance(problem, Contraction):
        read = _WINDOWS[problem.mode].format(x) if isinstance(problem, SeparableContraction) else x
        x = _bare(_text(problem.prologue, problem.prologue_operands, read))
    return f"{node.op.lower()}({x}{', w' if weighted else ''})"
