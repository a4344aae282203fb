"""The process that compiles kernels: requests come in on standard input, answers go out on standard output.

Triton is imported here and nowhere else in the compiler. `convc.workers.command` runs `main`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, Union

import msgspec

from ..workers import load_function, read_message, write_message

TENSOR_CORE = re.compile(r"^\s*(?:@%?\S+\s+)?(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)", re.MULTILINE)
WARNING = re.compile(r"\bC75\d\d\b")
"""ptxas's warnings that products of matrices do not overlap: the text alone has them."""
RESOURCES = re.compile(rb"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class Request(msgspec.Struct):
    """A kernel to compile: source, entry function, parameters (name, type, multiple of 16), target, schedule."""

    name: str
    source: str
    parameters: tuple[tuple[str, str, bool], ...]
    capability: int
    num_warps: int
    num_stages: int


class TensorMap(msgspec.Struct):
    """How compiled code wants a descriptor encoded, in Triton's numbers; the box is what one copy takes of a block."""

    swizzle: int
    elem_size: int
    elem_type: int
    block_size: tuple[int, ...]


class Compiled(msgspec.Struct, tag="compiled"):
    """A cubin, what its launch needs, and what the code is like. tensor_maps: one for each descriptor, in order.

    Tensor-core instructions are counted in the PTX that became the cubin: disassembling the cubin gives the same number
    (a test compares them) and takes longer than compiling it. warnings: lines in which ptxas says that products of
    matrices wait for each other.
    """

    cubin: bytes
    threads: int
    shared_bytes: int
    registers: int
    spill_bytes: int
    tensor_core_instructions: int
    global_scratch_bytes: int
    global_scratch_align: int
    warnings: tuple[str, ...] = ()
    tensor_maps: tuple[TensorMap, ...] = ()


class Failed(msgspec.Struct, tag="failed"):
    """What the compiler said."""

    reason: str


Reply = Union[Compiled, Failed]


def main() -> None:
    """Answers requests until standard input ends. Nothing but answers reaches standard output."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(prefix="convc-") as scratch:
        os.environ["TRITON_CACHE_DIR"] = f"{scratch}/triton"
        os.environ["TRITON_DISABLE_LINE_INFO"] = "1"
        os.environ.pop("TRITON_INTERPRET", None)
        with Path(scratch, "messages").open("w+b") as messages:
            os.dup2(messages.fileno(), 2)
            while (request := read_message(sys.stdin.buffer, Request)) is not None:
                messages.seek(0)
                messages.truncate()
                write_message(replies, _answer(request, Path(scratch), messages))


def _answer(request: Request, scratch: Path, messages: IO[bytes]) -> Reply:
    try:
        return _compile(request, scratch)
    except Exception as error:  # anything a compiler does to one kernel must not end the others
        messages.flush()
        messages.seek(0)
        printed = messages.read().decode(errors="replace")
        return Failed(_summary(error, printed))


def _summary(error: Exception, printed: str) -> str:
    telling = [line.strip() for line in printed.splitlines() if "error" in line.lower()]
    said = [line for line in str(error).strip().splitlines() if line.strip()]
    cause = error.__cause__ or error.__context__
    parts = [type(error).__name__, *(said[-3:] or []), *(telling[:2])]
    if cause is not None:
        parts.append(str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__)
    return "; ".join(parts)


def _compile(request: Request, scratch: Path) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget

    function = load_function(scratch / f"{request.name}.py", request.source, request.name)
    signature = {name: type for name, type, _ in request.parameters}
    attributes = {
        (index,): [["tt.divisibility", 16]] for index, (_, _, aligned) in enumerate(request.parameters) if aligned
    }
    source = _source(function)(fn=function, signature=signature, constexprs={}, attrs=attributes)
    options = {"num_warps": request.num_warps, "num_stages": request.num_stages, "enable_fp_fusion": True}
    triton.knobs.nvidia.dump_ptxas_log = True
    with contextlib.redirect_stdout(io.StringIO()) as said:
        kernel = triton.compile(source, target=GPUTarget("cuda", request.capability, 32), options=options)
    metadata = kernel.metadata
    cubin = kernel.asm["cubin"]
    registers, spilled = inspect(cubin, scratch / "kernel.cubin")
    return Compiled(
        cubin=cubin,
        threads=32 * metadata.num_warps,
        shared_bytes=metadata.shared,
        registers=registers,
        spill_bytes=spilled,
        tensor_core_instructions=len(TENSOR_CORE.findall(kernel.asm["ptx"])),
        global_scratch_bytes=metadata.global_scratch_size,
        global_scratch_align=max(1, metadata.global_scratch_align),
        warnings=tuple(line.strip() for line in said.getvalue().splitlines() if WARNING.search(line)),
        tensor_maps=tuple(_tensor_map(found) for found in metadata.tensordesc_meta or ()),
    )


def _source(function: Any) -> Any:
    """How Triton takes a function: in its own language, or in Gluon."""
    from triton.compiler import ASTSource

    if type(function).__name__ != "GluonJITFunction":
        return ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    return GluonASTSource


def _tensor_map(found: dict[str, Any]) -> TensorMap:
    return TensorMap(found["swizzle"], found["elem_size"], found["elem_type"], tuple(found["block_size"]))


def inspect(cubin: bytes, path: Path) -> tuple[int, int]:
    """Registers per thread, and bytes of stack and local memory, of a cubin."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    path.write_bytes(cubin)
    shown = subprocess.run([tool, "-res-usage", path], capture_output=True, check=True).stdout
    found = RESOURCES.search(shown)
    if found is None:
        raise RuntimeError("cuobjdump printed no resource usage")
    registers, stack, _, local = (int(number) for number in found.groups())
    return registers, stack + local


if __name__ == "__main__":
    main()
