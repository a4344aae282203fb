"""The text form of a graph: one node a line, in topological order, which parses back to an equal graph.

    graph "lenet" stage=imported
    %0 = Input() {name="x"} : fp32[N, 1, 28, 28]  # "x"
    %1 = Constant(@0123456789abcdef) : fp32[6, 1, 5, 5]  # "conv1.weight"
    %2 = Conv(%0, %1) {dilations=(1, 1), pads=(2, 2, 2, 2), strides=(1, 1)} : fp32[N, 6, 28, 28] region=0  # "conv1"
    %3 = Output(%2) {name="y"} : fp32[N, 6, 28, 28]  # "y"

``%2`` is output 0 of node 2, ``%2.1`` its output 1. Attributes that have their default value are left out. Small
constants stand in the text as flat lists, others by the digest of their data. What follows ``#`` names the user's
nodes. Empty lines and lines that start with ``#`` say nothing.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import errors
from .dims import Dim, DimLike, Quotient
from .graph import Graph, Node, Payload, Value
from .operator import Operator, operators
from .types import DType, TensorType

INLINE_ELEMENTS = 16
"""Constants of at most this many elements are written out."""

_DTYPES = {dtype.value: dtype for dtype in DType}
_RESERVED = {*_DTYPES, "nan", "inf", "sym", *keyword.kwlist}


# -- printing ---------------------------------------------------------------------------------------------------------
def print_graph(graph: Graph) -> str:
    """The graph as text; equal graphs with equal node numbers print the same."""
    lines = [f"graph {_quoted(graph.name)} stage={graph.stage}"]
    lines += [_node_text(graph, node) for node in graph.nodes()]
    return "\n".join(lines) + "\n"


def _node_text(graph: Graph, node: Node) -> str:
    operands = _data_text(node.payload) if node.payload else ", ".join(map(_value_text, graph.inputs(node)))
    attributes = _attributes_text(node)
    region = "" if node.region is None else f" region={node.region}"
    origins = f"  # {', '.join(map(_quoted, node.origins))}" if node.origins else ""
    types = ", ".join(map(_type_text, node.outputs))
    return f"%{node.id} = {node.op}({operands}){attributes} : {types}{region}{origins}"


def _value_text(value: Value) -> str:
    return f"%{value.node}.{value.output}" if value.output else f"%{value.node}"


def _attributes_text(node: Node) -> str:
    defaults = {name: _literal(value) for name, value in node.operator.attributes.items() if _is_literal(value)}
    shown = {name: _literal(value) for name, value in sorted(node.attributes.items())}
    items = [f"{name}={text}" for name, text in shown.items() if defaults.get(name) != text]
    return f" {{{', '.join(items)}}}" if items else ""


def _is_literal(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, tuple, Dim, np.integer, np.floating))


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, DType):
        return value.value
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, Dim):
        return _dim_text(value)
    return repr(value.item() if isinstance(value, np.generic) else value)


def _quoted(text: str) -> str:
    """JSON, with everything escaped that would end a line or could not be written as UTF-8; also valid Python."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(c) for c in quoted)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else character


def _type_text(type: TensorType) -> str:
    return f"{type.dtype}[{', '.join(map(_dim_text, type.shape))}]"


def _dim_text(dim: DimLike) -> str:
    """Like ``str``, except that a symbol which is not a plain name is written ``sym("...")``."""
    if not isinstance(dim, Dim):
        return str(int(dim))
    text = ""
    for monomial, coefficient in dim.terms:
        factors = [_atom_text(atom) for atom in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, str(abs(coefficient)))
        text += ("-" if coefficient < 0 else "+") + "*".join(factors)
    return text.removeprefix("+")


def _atom_text(atom: str | Quotient) -> str:
    if isinstance(atom, Quotient):
        return f"(({_dim_text(atom.numerator)})//({_dim_text(atom.denominator)}))"
    plain = atom.isascii() and atom.isidentifier() and atom not in _RESERVED
    return atom if plain else f"sym({_quoted(atom)})"


def _data_text(payload: Payload) -> str:
    """The elements where there are few and their text gives the same bits back; the digest otherwise."""
    if payload.has_data and payload.array.size <= INLINE_ELEMENTS:
        array = payload.array
        text = f"[{', '.join(_element_text(element) for element in array.flat)}]"
        again = _parsed_data(text, TensorType(DType.of(array.dtype), array.shape))
        if Payload(again).digest == payload.digest:
            return text
    return f"@{payload.digest}"


def _element_text(element: Any) -> str:
    """The shortest decimal that rounds to a float in its own precision."""
    if isinstance(element, (np.bool_, np.integer)):
        return repr(element.item())
    return str(element) if isinstance(element, np.floating) else repr(float(element))


# -- parsing ----------------------------------------------------------------------------------------------------------
_STRING = r'"(?:[^"\\]|\\.)*"'
_HEADER = re.compile(rf"graph ({_STRING}) stage=([\w-]+)\s*")
_TYPE = re.compile(rf"(\w+)\[((?:[^\[\]\"]|{_STRING})*)\](?:, |$)")
_LINE = re.compile(
    rf"\s*%(?P<id>\d+) = (?P<op>\w+)\((?P<operands>[^()]*)\)"
    rf"(?: \{{(?P<attributes>(?:[^\"{{}}]|{_STRING})*)\}})?"
    rf" : (?P<types>(?:[^\"#]|{_STRING})*?)"
    rf"(?: region=(?P<region>\d+))?"
    rf"(?:  # (?P<origins>{_STRING}(?:, {_STRING})*))?\s*"
)


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that `print_graph` wrote as ``text``, with the same node numbers.

    Args:
        constants: data by digest. Constants that are neither here nor written out keep their digest only: the graph can
            be compared and printed, not computed.

    Raises:
        LoadError: a line that is not the text form of a node, an unknown operator, or a value not defined above.
    """
    graph: Graph | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if graph is None:
            graph = _parse_header(number, line)
        else:
            _parse_line(graph, number, line, constants or {})
    if graph is None:
        raise errors.bad_graph_text(1, "a graph", text[:40])
    return graph


def _parse_header(number: int, line: str) -> Graph:
    match = _HEADER.fullmatch(line)
    try:
        if match is not None:
            return Graph(json.loads(match[1]), match[2])
    except json.JSONDecodeError:
        pass
    raise errors.bad_graph_text(number, 'a header such as graph "name" stage=imported', line)


_UNREADABLE = (LookupError, ValueError, SyntaxError, TypeError, ArithmeticError, RecursionError)


def _parse_line(graph: Graph, number: int, line: str, constants: Mapping[str, np.ndarray]) -> None:
    match = _LINE.fullmatch(line)
    if match is None:
        raise errors.bad_graph_text(number, "%id = Operator(%inputs) {attributes} : types", line)
    try:
        _insert(graph, match, constants)
    except _UNREADABLE as error:
        raise errors.bad_graph_text(number, "a node that can be read", f"{line} ({error})") from error


def _insert(graph: Graph, match: re.Match[str], constants: Mapping[str, np.ndarray]) -> None:
    id, definition = int(match["id"]), operators()[match["op"]]
    if id in graph:
        raise ValueError(f"%{id} is defined twice")
    types = _parsed_types(match["types"])
    payload = _parsed_payload(match["operands"], types[0], constants) if match["op"] == "Constant" else None
    inputs = [] if payload else _parsed_values(graph, match["operands"])
    origins = re.findall(_STRING, match["origins"] or "")
    graph._next = id
    attributes = _parsed_attributes(match["attributes"] or "", definition)
    value = graph._insert(definition, attributes, types, inputs, [json.loads(text) for text in origins], payload)
    graph._next = max(node for node in graph.networkx) + 1
    if match["region"]:
        graph.update(graph.producer(value), region=int(match["region"]))


def _parsed_values(graph: Graph, text: str) -> list[Value]:
    values = []
    for item in filter(None, text.split(", ")):
        match = re.fullmatch(r"%(\d+)(?:\.(\d+))?", item)
        if match is None or int(match[1]) not in graph:
            raise ValueError(f"{item} is not a value defined above")
        values.append(Value(int(match[1]), int(match[2] or 0)))
    return values


def _parsed_attributes(text: str, definition: Operator) -> dict[str, Any]:
    call = ast.parse(f"f({text})", mode="eval").body
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError(f"{{{text}}} does not name attributes")
    return definition.complete({str(item.arg): _evaluated(item.value) for item in call.keywords})


def _parsed_types(text: str) -> tuple[TensorType, ...]:
    types = []
    position = 0
    while position < len(text):
        match = _TYPE.match(text, position)
        if match is None:
            raise ValueError(f"{text[position:]} is not a type")
        dims = _evaluated(ast.parse(f"({match[2]},)", mode="eval").body) if match[2] else ()
        if not all(isinstance(dim, Dim) or type(dim) is int for dim in dims):
            raise ValueError(f"[{match[2]}] is not a shape")
        types.append(TensorType(_DTYPES[match[1]], dims))
        position = match.end()
    if not types:
        raise ValueError("no type")
    return tuple(types)


def _parsed_payload(text: str, type: TensorType, constants: Mapping[str, np.ndarray]) -> Payload:
    if not text.startswith("@"):
        return Payload(_parsed_data(text, type))
    digest = text[1:]
    return Payload(constants.get(digest), digest)


def _parsed_data(text: str, type: TensorType) -> np.ndarray:
    elements = _evaluated(ast.parse(text, mode="eval").body)
    dtype = type.dtype.numpy
    shape: Any = type.shape
    read = np.float64 if type.dtype.is_float or type.dtype.is_tiny else dtype
    return np.array(elements, read).astype(dtype).reshape(shape)


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}


def _evaluated(node: ast.expr) -> Any:
    """The value of a literal, of an element type's name, or of an expression over symbols."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.Tuple, ast.List)):
        return tuple(map(_evaluated, node.elts))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluated(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_evaluated(node.left), _evaluated(node.right))
    if isinstance(node, ast.Name):
        return _named(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sym":
        return _symbol(node)
    raise ValueError(f"{ast.unparse(node)} is not a value")


def _symbol(call: ast.Call) -> Dim:
    if len(call.args) == 1 and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str):
        return Dim.symbol(call.args[0].value)
    raise ValueError(f"{ast.unparse(call)} does not name a symbol")


def _named(name: str) -> Any:
    if name in ("nan", "inf"):
        return math.nan if name == "nan" else math.inf
    return _DTYPES.get(name) or Dim.symbol(name)
