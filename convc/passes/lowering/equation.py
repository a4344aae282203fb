"""A problem in one line: what is computed, in operators."""

from __future__ import annotations

from ...ir import Node
from ...ir.problem import Contraction, Problem, Ref, WindowReduction

_INFIX = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/"}
_LONGEST = 400


def equation(problem: Problem, node: Node) -> str:
    """For example ``relu((conv(x, w) + bias) + in1)``."""
    results: list[str] = []
    for statement in problem.statements:
        arguments = [_argument(problem, node, results, ref) for ref in statement.arguments]
        name = statement.operator.name
        if name in _INFIX and len(arguments) == 2:
            text = f"({arguments[0]} {_INFIX[name]} {arguments[1]})"
        else:
            text = f"{name.lower()}({', '.join(map(_bare, arguments))})"
        # Shortened at once: a value that is read twice at every level doubles the text at every level.
        results.append(_shortened(text))
    return "y = " + _shortened(_bare(results[-1] if results else _accumulator(problem, node)))


def _bare(text: str) -> str:
    """Without the parentheses around an infix expression, which is the only text that begins with one."""
    return text[1:-1] if text.startswith("(") and text.endswith(")") else text


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _argument(problem: Problem, node: Node, results: list[str], ref: Ref) -> str:
    if ref.kind == "accumulator":
        return _accumulator(problem, node)
    if ref.kind == "operand":
        return problem.operands[ref.index].name
    return results[ref.index] if ref.kind == "statement" else f"{ref.number:g}"


def _accumulator(problem: Problem, node: Node) -> str:
    weighted = isinstance(problem, Contraction) or (isinstance(problem, WindowReduction) and problem.w is not None)
    return f"{node.op.lower()}(x{', w' if weighted else ''})"
