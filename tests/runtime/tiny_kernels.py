"""Tiny kernels, compiled ahead of time: ``python tiny_kernels.py FOLDER`` writes NAME.cubin for each."""

from __future__ import annotations

import sys
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource


@triton.jit
def add_weights(x, w, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + tl.load(w + i, mask=i < n), mask=i < n)


@triton.jit
def relu(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.maximum(tl.load(x + i, mask=i < n), 0.0), mask=i < n)


@triton.jit
def relu_rows(x, y, pitch, ROWS: tl.constexpr, COLS: tl.constexpr):
    first = tl.program_id(0) * ROWS
    at = (first + tl.arange(0, ROWS))[:, None] * pitch + tl.arange(0, COLS)[None, :]
    tl.store(y + at, tl.maximum(x.load([first, 0]), 0.0))


SIGNATURES = {
    "add_weights": (add_weights, {"x": "*fp32", "w": "*fp32", "y": "*fp32", "n": "i32"}),
    "relu": (relu, {"x": "*fp32", "y": "*fp32", "n": "i64"}),
    "relu_rows": (relu_rows, {"x": "tensordesc<fp32[8,8]>", "y": "*fp32", "pitch": "i32"}),
}
CONSTANTS = {"relu_rows": {"ROWS": 8, "COLS": 8}}
BLOCK = 16


def build(name: str, capability: int, folder: Path) -> None:
    function, signature = SIGNATURES[name]
    pointers = [i for i, kind in enumerate(signature.values()) if kind.startswith("*")]
    constants = CONSTANTS.get(name, {"BLOCK": BLOCK})
    source = ASTSource(
        fn=function,
        signature=signature | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True})
    (folder / f"{name}.cubin").write_bytes(kernel.asm["cubin"])


if __name__ == "__main__":
    for each in SIGNATURES:
        build(each, 90, Path(sys.argv[1]))
