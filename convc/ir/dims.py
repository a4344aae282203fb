"""Integer expressions over named dimensions.

A tensor dimension is a plain ``int`` or a `Dim`: a polynomial with integer coefficients over symbols such as ``N`` and
over opaque floor quotients such as ``(H + 1) // 2``. Arithmetic that ends in a number gives a plain ``int`` back, so
shape arithmetic written for integers works unchanged on symbolic shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Union

DimLike = Union[int, "Dim"]


@dataclass(frozen=True)
class Quotient:
    """The floor quotient ``numerator // denominator`` that does not divide exactly."""

    numerator: Dim
    denominator: DimLike

    def __str__(self) -> str:
        return f"(({self.numerator})//{_parenthesised(self.denominator)})"


Atom = Union[str, Quotient]
Monomial = tuple[Atom, ...]


def _parenthesised(value: DimLike) -> str:
    return str(value) if isinstance(value, int) or value.is_symbol else f"({value})"


def _key(monomial: Monomial) -> tuple[int, tuple[str, ...]]:
    return (-len(monomial), tuple(str(atom) for atom in monomial))


@dataclass(frozen=True, eq=False)
class Dim:
    """A polynomial: sorted pairs of (product of atoms, integer coefficient), never a bare number."""

    terms: tuple[tuple[Monomial, int], ...]

    @staticmethod
    def symbol(name: str) -> Dim:
        return Dim((((name,), 1),))

    @property
    def is_symbol(self) -> bool:
        return len(self.terms) == 1 and self.terms[0][1] == 1 and self.terms[0][0][1:] == ()

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the symbols in this expression, those inside quotients included."""
        found: set[str] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                found |= {atom} if isinstance(atom, str) else _symbols(atom.numerator) | _symbols(atom.denominator)
        return frozenset(found)

    def substitute(self, values: Mapping[str, DimLike]) -> DimLike:
        """This expression with symbols replaced; an ``int`` when none is left."""
        total: DimLike = 0
        for monomial, coefficient in self.terms:
            product: DimLike = coefficient
            for atom in monomial:
                product = product * _substitute_atom(atom, values)
            total = total + product
        return total

    def __add__(self, other: object) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return _collect([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> DimLike:
        return self * -1

    def __sub__(self, other: object) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return self + (-other)

    def __rsub__(self, other: object) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return (-self) + other

    def __mul__(self, other: object) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        products = [(tuple(sorted(a + b, key=str)), x * y) for a, x in self.terms for b, y in _terms(other)]
        return _collect(products)

    __rmul__ = __mul__

    def __floordiv__(self, other: object) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return _floor_divide(self, other)

    def __rfloordiv__(self, other: object) -> DimLike:
        if not isinstance(other, int):
            return NotImplemented
        return _floor_divide(other, self)

    def __mod__(self, other: object) -> DimLike:
        if not isinstance(other, (int, Dim)):
            return NotImplemented
        return self - (self // other) * other

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(self.terms)

    def __str__(self) -> str:
        text = ""
        for monomial, coefficient in self.terms:
            factors = [str(atom) for atom in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            sign = "-" if coefficient < 0 else "+"
            text += sign + "*".join(factors)
        return text.removeprefix("+")

    __repr__ = __str__


def _terms(value: DimLike) -> tuple[tuple[Monomial, int], ...]:
    return value.terms if isinstance(value, Dim) else (((), int(value)),)


def _symbols(value: DimLike) -> frozenset[str]:
    return value.symbols if isinstance(value, Dim) else frozenset()


def _substitute_atom(atom: Atom, values: Mapping[str, DimLike]) -> DimLike:
    if isinstance(atom, str):
        return values.get(atom, Dim.symbol(atom))
    return substitute(atom.numerator, values) // substitute(atom.denominator, values)


def _collect(products: list[tuple[Monomial, int]]) -> DimLike:
    sums: dict[Monomial, int] = {}
    for monomial, coefficient in products:
        sums[monomial] = sums.get(monomial, 0) + coefficient
    kept = tuple(sorted(((m, c) for m, c in sums.items() if c), key=lambda term: _key(term[0])))
    if not kept:
        return 0
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    return Dim(kept)


def _floor_divide(numerator: DimLike, denominator: DimLike) -> DimLike:
    exact = _divide_exactly(numerator, denominator)
    if exact is not None:
        return exact
    whole = numerator if isinstance(numerator, Dim) else Dim((((), numerator),))
    return Dim((((Quotient(whole, denominator),), 1),))


def _divide_exactly(numerator: DimLike, denominator: DimLike) -> DimLike | None:
    if denominator == 0:
        raise ZeroDivisionError("a dimension was divided by zero")
    divisors = _terms(denominator)
    if numerator == denominator:
        return 1
    if len(divisors) != 1:
        return None
    divisor, factor = divisors[0]
    quotients = []
    for monomial, coefficient in _terms(numerator):
        rest = list(monomial)
        for atom in divisor:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coefficient % factor:
            return None
        quotients.append((tuple(rest), coefficient // factor))
    return _collect(quotients)


def substitute(value: DimLike, values: Mapping[str, DimLike]) -> DimLike:
    """``value`` with its symbols replaced; plain integers pass through."""
    return value.substitute(values) if isinstance(value, Dim) else value


def product(values: tuple[DimLike, ...] | list[DimLike]) -> DimLike:
    """The product of dimensions in exact integer arithmetic; 1 for none."""
    total: DimLike = 1
    for value in values:
        total = total * value
    return total


def parse_dim(text: str) -> DimLike:
    """The dimension that ``str`` printed as ``text``.

    Raises:
        ValueError: where ``text`` is not an expression of symbols, integers, ``+ - * //`` and parentheses.
    """
    import ast

    def value(node: ast.expr) -> DimLike:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            return Dim.symbol(node.id)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            if isinstance(node.op, ast.Sub):
                return left - right
            if isinstance(node.op, ast.Mult):
                return left * right
            if isinstance(node.op, ast.FloorDiv):
                return left // right
        raise ValueError(f"not a dimension: {text!r}")

    try:
        return value(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"not a dimension: {text!r}") from error
