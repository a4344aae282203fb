"""Machine code read back: loops, tensor cores and widths of hand-written instructions, and of compiled kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from convc.codegen.cache import KernelCache
from convc.codegen.cubin import parse
from convc.codegen.pool import Job, compile_kernels
from convc.codegen.sass import Instruction, disassemble, examine
from convc.codegen.worker import Compiled, Request
from convc.errors import CompileError

PRODUCT = """
import triton
import triton.language as tl

@triton.jit
def product(x, w, y, steps):
    row = tl.arange(0, 128)
    col = tl.arange(0, 64)
    d = tl.arange(0, 64)
    acc = tl.zeros((128, 64), tl.float32)
    for step in range(steps):
        a = tl.load(x + row[:, None] * 512 + d[None, :] + step * 64)
        b = tl.load(w + (d[:, None] + step * 64) * 64 + col[None, :])
        acc = tl.dot(a, b, acc)
    tl.store(y + row[:, None] * 64 + col[None, :], acc)
"""
PROLOGUE = PRODUCT.replace("tl.dot(a,", "tl.dot(tl.maximum(a, 0.0),")
ASSUMING = PROLOGUE.replace("    for step", "    tl.assume(steps > 0)\n    for step")
COPY = """
import triton
import triton.language as tl

@triton.jit
def copy(x, y):
    at = tl.arange(0, 1024)
    tl.store(y + at, tl.load(x + at))
"""
POINTERS = (("x", "*fp16", True), ("w", "*fp16", True), ("y", "*fp32", True), ("steps", "i32", False))
TARGETS = (80, 90)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Compiled]:
    """Name and architecture → a compiled kernel."""
    pytest.importorskip("triton", reason="kernels are compiled with Triton")
    copied = (("x", "*fp16", True), ("y", "*fp16", True))
    sources = {"product": PRODUCT, "copy": COPY}
    requests = [
        Request(name, source, copied if name == "copy" else POINTERS, sm, 4, 3)
        for sm in TARGETS
        for name, source in sources.items()
    ]
    made = compile_kernels([Job(r, r.name) for r in requests], KernelCache(tmp_path_factory.mktemp("kernels")))
    return {(request.name, request.capability): found for request, found in zip(requests, made, strict=True)}


def branch(to: int, predicate: str = "@P0") -> Instruction:
    return Instruction("BRA", f"0x{to * 16:x}", predicate)


MMA, ADD = Instruction("HMMA.16816.F32"), Instruction("IADD3")


def test_the_main_loop_is_the_innermost_with_tensor_cores() -> None:
    body = [ADD, ADD, MMA, ADD, MMA, branch(1), ADD, branch(0), Instruction("EXIT"), branch(9, "")]
    code = examine(body)
    assert [(loop.instructions, loop.tensor_core) for loop in code.loops] == [(5, 2)]
    assert code.tensor_core == 2 and code.instructions == 10


def test_loops_without_tensor_cores_do_not_count_and_the_worst_of_several_is_the_main_loop() -> None:
    first = [MMA, ADD, branch(0)]
    second = [ADD, branch(3)]
    third = [MMA, ADD, ADD, ADD, branch(5)]
    code = examine([*first, *second, *third])
    assert [(loop.instructions, loop.tensor_core) for loop in code.loops] == [(3, 1), (5, 1)]
    assert code.main_loop is not None and code.main_loop.ratio == 5


def test_a_wait_behind_a_kernel_without_loops_is_no_loop() -> None:
    assert examine([ADD, MMA, ADD, Instruction("EXIT"), ADD, branch(1, "")]).loops == ()
    assert len(examine([ADD, MMA, Instruction("EXIT", "", "@P1"), branch(1)]).loops) == 1


def test_a_wait_behind_the_kernel_that_branches_back_into_a_loop_is_no_loop() -> None:
    code = examine([ADD, ADD, MMA, branch(0), ADD, Instruction("EXIT"), ADD, branch(1, "")])
    assert [(loop.instructions, loop.tensor_core) for loop in code.loops] == [(4, 1)]


def test_a_loop_over_results_is_not_the_main_loop() -> None:
    main = [MMA, ADD, branch(0)]
    results = [MMA, ADD, ADD, Instruction("STG.E.128"), branch(3)]
    code = examine([*main, *results])
    assert len(code.loops) == 2
    assert code.main_loop is not None and code.main_loop.instructions == 3
    assert examine([MMA, Instruction("STG.E"), branch(0)]).main_loop is None


def test_straight_code_has_no_main_loop() -> None:
    code = examine([ADD, MMA, Instruction("BRA", "0x40"), ADD, Instruction("EXIT")])
    assert code.loops == () and code.main_loop is None


@pytest.mark.parametrize(
    ("opcode", "nbytes"),
    [
        ("LDG.E.128", 16),
        ("LDG.E.64.CONSTANT", 8),
        ("LDG.E", 4),
        ("LDG.E.U16", 2),
        ("LDG.E.U8", 1),
        ("LDGSTS.E.BYPASS.LTC128B.128", 16),
        ("LDGSTS.E.LTC128B", 4),
    ],
)
def test_widths_stand_in_the_opcode(opcode: str, nbytes: int) -> None:
    assert Instruction(opcode).nbytes == nbytes


def test_accesses_that_never_run_are_not_counted() -> None:
    code = examine([Instruction("LDS", "RZ,[RZ]", "@!PT"), Instruction("LDS.128", "R4,[R0]", "@P0")])
    assert code.widths["LDS"] == {16: 1}


@pytest.mark.parametrize("sm", TARGETS)
def test_kernels_taken_apart_together_are_what_each_is_alone(
    compiled: dict[tuple[str, int], Compiled], sm: int
) -> None:
    codes = [parse(compiled[name, sm].cubin).kernels[name].code for name in ("product", "copy")]
    alone = [disassemble([code], sm)[0] for code in codes]
    assert disassemble(codes, sm) == alone
    assert disassemble(codes[::-1], sm) == alone[::-1]


@pytest.mark.parametrize("sm", TARGETS)
def test_what_is_read_is_what_was_compiled(compiled: dict[tuple[str, int], Compiled], sm: int) -> None:
    """Tensor-core instructions are those of the PTX; 128 threads copy 1024 halves by one access of 16 bytes each."""
    kernels = {name: parse(compiled[name, sm].cubin).kernels[name] for name in ("product", "copy")}
    product, copy = map(examine, disassemble([kernels["product"].code, kernels["copy"].code], sm))
    assert product.tensor_core == compiled["product", sm].tensor_core_instructions > 0
    assert len(product.loops) == 1 and product.loops[0].tensor_core == product.tensor_core
    assert copy.widths["LDG"] == copy.widths["STG"] == {16: 1} and copy.tensor_core == 0
    assert product.counts["HGMMA" if sm == 90 else "HMMA"] == product.tensor_core
    assert product.counts["LDGSTS"] == sum(product.widths["LDGSTS"].values()) > 0


def test_the_tool_refuses_an_unknown_architecture() -> None:
    pytest.importorskip("triton", reason="it ships the tool")
    with pytest.raises(CompileError, match="sm_13"):
        disassemble([bytes(16)], 13)


def test_shared_memory_of_a_cubin_leaves_out_what_the_system_reserves(
    compiled: dict[tuple[str, int], Compiled],
) -> None:
    """Triton asks for dynamic shared memory only."""
    assert {parse(found.cubin).kernels[name].static_shared_bytes for (name, _), found in compiled.items()} == {0}


def test_what_ptxas_says_of_products_that_wait_is_kept(
    tmp_path: Path, compiled: dict[tuple[str, int], Compiled]
) -> None:
    """An operand that goes through registers makes products wait for each other, unless the loop is known to run."""
    assert {found.warnings for found in compiled.values()} == {()}
    jobs = [Job(Request("product", source, POINTERS, 90, 4, 3), "product") for source in (PROLOGUE, ASSUMING)]
    waiting, assuming = compile_kernels(jobs, KernelCache(tmp_path))
    (warning,) = waiting.warnings
    assert "C7515" in warning and "serialized" in warning
    assert assuming.warnings == ()
