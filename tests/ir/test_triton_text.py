"""The Triton text of every elementwise operator, in Triton's interpreter, against its NumPy reference in fp64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convc.ir import DType, Kind, operator, operators
from convc.ir.ops.elementwise import pow_text, triton_text
from convc.ir.ops.triton_text import fill, literal

pytest.importorskip("triton", reason="Triton's interpreter runs the text")

EPSILON = DType.FP32.epsilon
SMALLEST = float(np.finfo(np.float32).smallest_normal)
SIZE = 1024
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """One text.

    roundings: relative error allowed, in units of fp32's roundoff: one for each operation that rounds, two for each
    exp, log and erf. conditioning: (x, wanted) → further error of the result, in the same units, that the formula
    makes of a rounded intermediate argument.
    """

    op: str
    roundings: float
    attributes: dict[str, Any] = field(default_factory=dict)
    conditioning: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x, wanted: np.zeros_like(x)


def _gelu_tanh_argument(x: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """exp turns the relative error of its argument u (five roundings) into an error of 5|u| of the result.

    The reference's own 1 + tanh cancels in fp64.
    """
    own = 8 * DType.FP64.epsilon / EPSILON * np.abs(x) * (np.abs(x) < 12)
    return 5 * np.abs(1.6 * (x + 0.044715 * x**3)) * np.abs(wanted) + own


CASES = [
    Case("Relu", 0),
    Case("LeakyRelu", 2, {"alpha": 0.1}),
    # exp(x) - 1 below -0.35: the error of exp, 3 units of at most 0.71, beside a result of at least 0.29
    Case("Elu", 10, {"alpha": 0.7}),
    Case("Selu", 12),
    Case("Celu", 12, {"alpha": 2.5}),
    Case("Celu", 12, {"alpha": -0.5}),
    Case("Sigmoid", 6),
    # alpha·x + beta may cancel: its terms are at most 1 where the result is neither 0 nor 1
    Case("HardSigmoid", 4, conditioning=lambda x, wanted: 4 * np.ones_like(x)),
    Case("HardSwish", 5, conditioning=lambda x, wanted: np.abs(x) * (np.abs(x) < 4)),
    Case("Tanh", 8),
    Case("Softplus", 10),
    Case("Softsign", 3),
    Case("Mish", 14),
    Case("Silu", 6),
    # 1 + erf cancels for negative x: errors of erf's own magnitude, times x; below -8.5, erf is -1 in fp64 as well
    Case("Gelu", 4, conditioning=lambda x, wanted: 4 * np.abs(x) * (np.abs(x) < 8.5)),
    Case("Gelu", 6, {"approximate": "tanh"}, _gelu_tanh_argument),
    Case("Clip", 0, {"min": -1.5, "max": 2.5}),
    Case("Clip", 0, {"min": 0.0}),
    Case("Clip", 0, {"max": -3.0}),
    Case("Clip", 0),
    Case("PRelu", 1),
    Case("Erf", 2),
    Case("Exp", 3),
    Case("Log", 3),
    Case("Sqrt", 1),
    Case("Abs", 0),
    Case("Neg", 0),
    Case("Reciprocal", 1),
    Case("Floor", 0),
    Case("Ceil", 0),
    Case("Sign", 0),
    Case("Copy", 0),
    Case("Add", 1),
    Case("Sub", 1),
    Case("Mul", 1),
    Case("Div", 1),
    Case("Max", 0),
    Case("Min", 0),
    Case("Sin", 2),
    Case("Cos", 2),
    Case("Round", 0),
    *(Case(op, 0) for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "Where")),
    *(Case(op, 0) for op in ("And", "Or", "Xor", "Not")),
    *(Case("IsInf", 0, {"negative": low, "positive": high}) for low in (True, False) for high in (True, False)),
    Case("Cast", 0, {"dtype": DType.FP16}),
    Case("Cast", 0, {"dtype": DType.FP32}),
    Case("Cast", 0, {"dtype": DType.BOOL}),
]
LOGIC = {"And", "Or", "Xor", "Not"}
WITHOUT_TEXT = {
    *("Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Mod", "BitCast"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitwiseNot", "BitShift"),
}
"""Operators that kernels do not compute on real numbers."""
EXPONENTS = [0, 1, 2, 3, 4, 5, 7, 16, 17, 18, 33, -1, -2, -3, -16, -17, 0.5, -0.5, 0.25, 1.5, -2.7, 2.2]


def operands(op: str) -> list[str]:
    names = ["x", "y", "z"][: {"Where": 3, "Not": 1}.get(op, _arity(op))]
    return [f"({name} != 0)" if op in LOGIC or (op == "Where" and name == "x") else name for name in names]


def _arity(op: str) -> int:
    return 2 if "{1}" in operator(op).triton else 1


def texts() -> dict[str, str]:
    """Every expression under the name of its kernel."""
    found = {}
    for number, case in enumerate(CASES):
        definition = operator(case.op)
        attributes = definition.complete(case.attributes)
        found[f"case_{number}"] = triton_text(definition, attributes, operands(case.op))
    for number, exponent in enumerate(EXPONENTS):
        found[f"pow_{number}"] = fill(pow_text(exponent), ["x"])
    found["normalized"] = triton_text(operator("BatchNormalization"), {"epsilon": 0.5}, ["x", "y", "z", "y", "(x * x)"])
    return found


KERNEL = """
@triton.jit
def {name}(x, y, z, out, size: tl.constexpr):
    at = tl.arange(0, size)
    x, y, z = tl.load(x + at), tl.load(y + at), tl.load(z + at)
    result = {text}
    tl.store(out + at, result.to(tl.float32))
"""


def module() -> str:
    found = texts()
    kernels = "".join(KERNEL.format(name=name, text=text) for name, text in found.items())
    return f"import triton\nimport triton.language as tl\n\nNAMES = {list(found)}\n{kernels}"


def arguments() -> dict[str, np.ndarray]:
    """Special values, magnitudes from the smallest to the largest, and a dense range, with both signs."""
    rng = np.random.default_rng(0)
    special = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-38, -1e-38, 1e-45, 88.0]
    special += [-88.0, -87.0, -104.0, 0.35, -0.35, 0.625, -0.625, 2.0, -2.0, 3.0, -3.0, 7.0, -9.0]
    wide = np.logspace(-37, 37, 250) * rng.choice([-1, 1], 250)
    dense = rng.uniform(-12, 12, SIZE - len(special) - len(wide))
    x = np.concatenate([special, wide, dense]).astype(np.float32)
    return {"x": x, "y": rng.permutation(x), "z": rng.permutation(x)}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("triton_text")
    (folder / "kernels.py").write_text(module())
    np.savez(folder / "in.npz", **arguments())
    command = [sys.executable, str(HERE / "triton_arrays.py"), *(str(folder / n) for n in ("kernels.py", "in.npz"))]
    run = subprocess.run(
        [*command, str(folder / "out.npz")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return dict(np.load(folder / "out.npz"))


def compare(found: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> None:
    """The same NaNs and infinities; elsewhere within ``bound`` and the error of an underflow."""
    with np.errstate(all="ignore"):
        wanted = exact.astype(np.float32)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        infinite = np.isinf(wanted) | np.isinf(found)
        np.testing.assert_array_equal(found[infinite], wanted[infinite])
        finite = np.isfinite(wanted)
        error = np.abs(found.astype(np.float64) - exact)[finite]
    assert (error <= bound[finite]).all(), (error / bound[finite]).max()


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n].op}{CASES[n].attributes or ''}")
def test_text_agrees_with_reference(number: int, interpreted: dict[str, np.ndarray]) -> None:
    case, arrays = CASES[number], arguments()
    definition = operator(case.op)
    wide = [array.astype(np.float64) for array in arrays.values()][: len(operands(case.op))]
    if case.op in LOGIC or case.op == "Where":
        count = 1 if case.op == "Where" else len(wide)
        wide = [array != 0 if i < count else array for i, array in enumerate(wide)]
    exact = definition.evaluate(definition.complete(case.attributes), wide)[0].astype(np.float64)
    x = arrays["x"].astype(np.float64)
    with np.errstate(all="ignore"):
        underflow = SMALLEST * np.maximum(1, np.abs(x)) if case.roundings else 0
        bound = EPSILON * (case.roundings * np.abs(exact) + case.conditioning(x, exact)) + underflow
    compare(interpreted[f"case_{number}"], exact, bound)


@pytest.mark.parametrize("number", range(len(EXPONENTS)), ids=lambda n: str(EXPONENTS[n]))
def test_powers(number: int, interpreted: dict[str, np.ndarray]) -> None:
    """Products round once a factor; exp2(log2|x|·e) carries the rounding of an exponent of that size, twice."""
    exponent, x = float(EXPONENTS[number]), arguments()["x"].astype(np.float64)
    with np.errstate(all="ignore"):
        exact = np.power(x, np.full_like(x, exponent))
        size = np.nan_to_num(np.abs(exponent * np.log2(np.abs(x))), posinf=0)
        # a reciprocal of a subnormal product has lost up to three of its bits
        bound = EPSILON * (abs(exponent) + 8 + 3 * size) * np.abs(exact) + SMALLEST
    compare(interpreted[f"pow_{number}"], exact, bound)


def test_every_elementwise_operator_has_a_case() -> None:
    names = {name for name, definition in operators().items() if definition.kind is Kind.ELEMENTWISE}
    without_text = {name for name in names if not operator(name).triton} - {"Clip", "Cast", "Gelu", "IsInf", "Pow"}
    assert without_text == WITHOUT_TEXT
    assert names - without_text - {case.op for case in CASES} == {"Pow", "BatchNormalization"}


def test_batch_normalization(interpreted: dict[str, np.ndarray]) -> None:
    """Its text takes scale, bias, mean and variance as operands already broadcast."""
    x, y, z = (array.astype(np.float64) for array in arguments().values())
    chosen = (np.abs(x) < 100) & (np.abs(y) < 100) & (np.abs(z) < 100)
    x, y, z = x[chosen], y[chosen], z[chosen]
    exact = (x - y) * (y / np.sqrt(x * x + 0.5)) + z
    bound = EPSILON * (8 * np.abs(exact - z) + np.abs(z) + np.abs(exact)) + SMALLEST
    assert (np.abs(interpreted["normalized"][chosen] - exact) <= bound).all()


def test_texts_compile_for_a_gpu(tmp_path: Path) -> None:
    """All expressions in one kernel, through the whole compiler, without a GPU."""
    stores = "".join(
        f"    tl.store(out + {i} * size + at, ({t}).to(tl.float32))\n" for i, t in enumerate(texts().values())
    )
    head = KERNEL.split("    result")[0].format(name="all_texts")
    source = tmp_path / "all_texts.py"
    source.write_text(f"import triton\nimport triton.language as tl\n{head}{stores}" + COMPILE)
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    run = subprocess.run([sys.executable, str(source)], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "cubin"


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

pointers = {name: "*fp32" for name in ("x", "y", "z", "out")}
source = ASTSource(all_texts, {**pointers, "size": "constexpr"}, {"size": 128})
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
print("cubin" if compiled.asm["cubin"] else "nothing")
"""


@pytest.mark.parametrize("value", [0.01, -0.5, 1e-30, math.inf, -math.inf, 3, -3])
def test_literals_read_back(value: float) -> None:
    assert eval(literal(value)) == value


def test_literal_of_nan_and_of_operands() -> None:
    assert math.isnan(eval(literal(math.nan)))
    assert triton_text(operator("Mul"), {}, ["a + b", "c"]) == "(a + b) * c"
    assert triton_text(operator("LeakyRelu"), {"alpha": -0.5}, ["x"]) == "tl.where(x < 0, (-0.5) * x, x)"
    assert triton_text(operator("Pow"), {}, ["x", "y"]) == ""
    assert pow_text(math.inf) == pow_text(math.nan) == ""
