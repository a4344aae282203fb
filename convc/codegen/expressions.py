"""The elementwise part of a kernel: loads of its operands, one line per statement, and the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..ir import DType
from ..ir.ops.integer_text import integer_text
from ..ir.ops.triton_text import EXACT_QUOTIENT, fill, literal, pow_text, triton_text
from ..ir.problem import Axis, Operand, Pick, Problem, Ref, Statement
from .indexing import is_wide, joined_masks, offsets, scaled
from .typed import TRITON_TYPES, cast, converted, number, only_floats, type_of, value_types, whole


class NoText(Exception):
    """An operator without a Triton expression; the argument is its name."""


@dataclass
class Body:
    """Emits the statements of a problem over a tile with masks for ragged edges.

    row_mask, col_mask: names of the masks, or empty where the tile divides the extents. suffixes: how one-dimensional
    blocks along rows and columns are shaped to the tile. rows_stored: False where one value a column is stored.
    """

    problem: Problem
    row_mask: str = ""
    col_mask: str = ""
    row_suffix: str = "[:, None]"
    col_suffix: str = "[None, :]"
    rows_clamped: bool = True
    lines: list[str] = field(default_factory=list)
    prefix: str = "v"
    row_name: str = "row"
    col_name: str = "col"
    rows_stored: bool = True
    _loaded: set[str] = field(default_factory=set)

    @cached_property
    def types(self) -> list[DType] | None:
        """Element types of the statements' values, where integers or truth values are computed with; None where all is
        fp32, into which narrower whole numbers are converted."""
        return None if only_floats(self.problem) else value_types(self.problem)

    def emit(self, accumulator: str | None) -> list[str]:
        """Lines from the accumulator to the store."""
        self.lines.append(self.store(self.values(accumulator)))
        return self.lines

    def values(self, accumulator: str | None) -> str:
        """Adds the lines from the accumulator to what is stored; returns its name."""
        loaded = {ref.index for s in self.problem.statements for ref in s.arguments if ref.kind == "operand"}
        for index in sorted(loaded):
            operand = self.problem.operands[index]
            if not any(pick.at.kind == "statement" for pick in operand.picks):
                self._read(operand)
        result = self.apply(self.problem.statements, self.problem.operands, accumulator)
        if not self.problem.statements and accumulator is None:
            result = self._read(self.problem.operands[0], widen=False)
        return result

    def _read(self, operand: Operand, widen: bool = True) -> str:
        """The name of a loaded operand, after the line that loads it."""
        name = variable(operand)
        if name not in self._loaded:
            self._loaded.add(name)
            self.lines.append(f"{name} = {self.load(operand, widen)}")
        return name

    def apply(self, statements: Sequence[Statement], operands: Sequence[Operand], accumulator: str | None) -> str:
        """Adds one line per statement; returns the name of the last result."""
        result = accumulator or ""
        rounds = [ref for s in statements if s.operator.name == "Round" for ref in s.arguments]
        for index, statement in enumerate(statements):
            result = f"{self.prefix}{index}"
            arguments = [self._argument(ref, operands, accumulator) for ref in statement.arguments]
            if statement.operator.name == "Div" and Ref("statement", index) in rounds:
                text = fill(EXACT_QUOTIENT, arguments)
            elif self.types is not None and statements is self.problem.statements:
                text = self._typed(statement, arguments)
            else:
                text = self._expression(statement, arguments)
            self.lines.append(f"{result} = {text}")
        return result

    def load(self, operand: Operand, widen: bool = True) -> str:
        """A load of an operand over the tile, as fp32 where that holds all its values."""
        place = offsets(self.problem, operand)
        masks = [self.row_mask] if self.row_mask and place.rows and not self.rows_clamped else []
        masks += [self.col_mask] if self.col_mask and place.cols else []
        masks += self._bound_masks(operand)
        shape = place.joined(self.row_suffix, self.col_suffix)
        picked = [self._picked(pick, masks) for pick in operand.picks]
        address = " + ".join([operand.name, *([shape] if shape != "0" else []), *picked])
        mask = joined_masks(masks)
        text = f"tl.load({address}, mask={mask}, other={_filled(operand)})" if mask else f"tl.load({address})"
        narrow = operand.dtype is not DType.FP32 and (
            operand.dtype.is_float or (operand.dtype.fits_fp32 and self.types is None)
        )
        return f"{text}.to(tl.float32)" if widen and narrow else text

    def _picked(self, pick: Pick, masks: list[str]) -> str:
        """The offset of positions that are read or computed; ``masks`` gets which of them are inside."""
        if pick.at.kind == "operand":
            at = self._read(self.problem.operands[pick.at.index], widen=False)
        else:
            at = self._argument(pick.at, self.problem.operands, None)
        counted = f"tl.where({at} < 0, {at} + {pick.extent}, {at})" if pick.wraps else at
        if not self._is_block(pick.at):  # masks are of the tile's shape: Triton's interpreter spreads none
            counted += f" + tl.zeros_like({self.row_name}){self.row_suffix}"
        if counted != at:
            at = f"{at}_from_0"
            if at not in self._loaded:
                self._loaded.add(at)
                self.lines.append(f"{at} = {counted}")
        masks.append(f"({at} >= 0) & ({at} < {pick.extent})")
        return scaled(f"{at}.to(tl.{'int64' if is_wide(self.problem) else 'int32'})", pick.stride)

    def _is_block(self, ref: Ref) -> bool:
        """Whether an argument varies over the tile."""
        if ref.kind == "operand":
            place = offsets(self.problem, self.problem.operands[ref.index])
            return bool(place.rows or place.cols)
        return ref.kind == "statement" and any(map(self._is_block, self.problem.statements[ref.index].arguments))

    def _bound_masks(self, operand: Operand) -> list[str]:
        masks = []
        for bound in operand.bounds:
            if bound.mode != "constant":
                continue
            dim = self.problem.dims[bound.dim]
            suffix = self.row_suffix if dim.axis is Axis.ROW else self.col_suffix
            low = f"({dim.name} >= {bound.before})"
            high = f"({dim.name} < {bound.before + bound.extent})"
            masks.append(f"({low} & {high}){suffix}")
        return masks

    def _expression(self, statement: Statement, operands: Sequence[str]) -> str:
        if statement.operator.name == "Pow":
            exponent = statement.arguments[1]
            text = pow_text(exponent.number) if exponent.kind == "number" else ""
            text = fill(text, operands[:1]) if text else ""
        elif statement.operator.name == "Cast":
            return cast(operands[0], statement.attributes["dtype"])
        else:
            text = triton_text(statement.operator, statement.attributes, operands)
        if not text:
            raise NoText(statement.operator.name)
        return text

    def _typed(self, statement: Statement, arguments: Sequence[str]) -> str:
        """An expression over operands of their own types."""
        types = [type_of(ref, self.problem, self.types or []) for ref in statement.arguments]
        values = [type for type in types if type is not None]
        dtype = values[-1]
        pairs = zip(statement.arguments, arguments, strict=True)
        texts = [whole(ref.number, dtype) if ref.kind == "number" else text for ref, text in pairs]
        if statement.operator.name == "Cast":
            return converted(texts[0], dtype, statement.attributes["dtype"])
        if all(type is DType.FP32 for type in values) or (statement.operator.name == "Where" and dtype is DType.FP32):
            return self._expression(statement, texts)
        text = integer_text(statement.operator, statement.attributes, texts, dtype)
        if not text:
            raise NoText(statement.operator.name)
        return text

    def _argument(self, ref: Ref, read: Sequence[Operand], accumulator: str | None) -> str:
        if ref.kind == "accumulator":
            assert accumulator is not None
            return accumulator
        if ref.kind == "number":
            return number(ref.number)
        if ref.kind == "statement":
            return f"{self.prefix}{ref.index}"
        operand = read[ref.index]
        return self._read(operand) if operand.picks else variable(operand)

    def store(self, result: str) -> str:
        """The store of a block."""
        output = self.problem.output
        rows, cols = (self.row_name, self.col_name if self.row_suffix else "") if self.rows_stored else ("", "col")
        place = offsets(self.problem, output).filled(rows, cols)
        masks = [self.row_mask] if self.row_mask else []
        masks += [self.col_mask] if self.col_mask else []
        shape = place.joined(self.row_suffix, self.col_suffix)
        picked = [self._picked(pick, masks) for pick in output.picks]
        address = " + ".join([output.name, *([shape] if shape != "0" else []), *picked])
        value = f"{result}.to(tl.{TRITON_TYPES[output.dtype]})"
        mask = joined_masks(masks)
        return f"tl.store({address}, {value}, mask={mask})" if mask else f"tl.store({address}, {value})"


def _filled(operand: Operand) -> str:
    """What is read outside an operand. Triton takes a number with a point for fp32."""
    number = literal(operand.fill)
    return f"tl.full((), {number}, tl.float64)" if operand.dtype is DType.FP64 else number


def variable(operand: Operand) -> str:
    """The name of an operand's loaded block."""
    places = "".join(f"_v{pick.at.index}" for pick in operand.picks if pick.at.kind == "statement")
    return f"{operand.name}{places or '_tile'}"


def widened(dtype: DType) -> str:
    """What stands behind a load of that type to make fp32 of it."""
    return "" if dtype is DType.FP32 else ".to(tl.float32)"
