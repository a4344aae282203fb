"""What machine code is like: its main loops, its tensor-core instructions, the widths of its memory accesses.

The code of many kernels is disassembled by one run of ``nvdisasm``, which Triton ships: starting the program takes as
long as ten kernels do.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import errors

INSTRUCTION_BYTES = 16
TENSOR_CORE = {"HGMMA", "QGMMA", "IGMMA", "HMMA", "QMMA", "IMMA", "DMMA", "OMMA"}
TENSOR_CORE |= {"UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA"}
COUNTED = ("HGMMA", "HMMA", "UTMALDG", "UTMASTG", "LDGSTS")
"""Instructions that are counted by name, besides all that use tensor cores."""
ACCESSES = ("LDG", "LDGSTS", "STG", "LDS", "STS")
"""Memory accesses whose widths are counted: of global memory, and of shared memory."""
STORES = {"STG", "UTMASTG"}
WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
WARP_GROUP = re.compile(r"\.64x(\d+)x")
ADDRESS = re.compile(r"0x([0-9a-f]+)$")


@dataclass(frozen=True)
class Instruction:
    """opcode: with its suffixes, such as ``LDG.E.128``. operands: as they are printed. predicate: such as ``@!P0``."""

    opcode: str
    operands: str = ""
    predicate: str = ""

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def uses_tensor_cores(self) -> bool:
        return self.name in TENSOR_CORE

    @property
    def nbytes(self) -> int:
        """What one thread moves by a memory access."""
        return next((WIDTHS[suffix] for suffix in self.opcode.split(".") if suffix in WIDTHS), 4)

    @property
    def columns(self) -> int:
        """Of a product by a group of four warps; 0 for all others."""
        shape = WARP_GROUP.search(self.opcode) if self.name == "HGMMA" else None
        return int(shape[1]) if shape else 0

    @property
    def ends(self) -> bool:
        """Whether the kernel ends here for all threads that come here."""
        return self.name == "EXIT" and not self.predicate

    @property
    def never_runs(self) -> bool:
        return self.predicate == "@!PT"


@dataclass(frozen=True)
class Loop:
    """An innermost loop that uses tensor cores: the number of its instructions, and of those on tensor cores.

    stores: whether it writes to global memory, as a loop over results does and one that adds up products does not.
    columns: of all its products of 64 rows and 16 elements of depth (`HGMMA`): one may have up to 256.
    """

    instructions: int
    tensor_core: int
    stores: bool = False
    columns: int = 0

    @property
    def ratio(self) -> float:
        """Instructions for each one on tensor cores."""
        return self.instructions / self.tensor_core


@dataclass(frozen=True)
class Code:
    """The machine code of a kernel.

    counts: instructions of `COUNTED` names. tensor_core: all on tensor cores. widths: for each of `ACCESSES` how many
    instructions move how many bytes a thread. loops: those that use tensor cores, innermost ones, in the order of code.
    """

    instructions: int
    tensor_core: int
    counts: Mapping[str, int]
    widths: Mapping[str, Mapping[int, int]]
    loops: tuple[Loop, ...]

    @property
    def main_loop(self) -> Loop | None:
        """The loop with the most instructions for each one on tensor cores, of those that store nothing."""
        return max((loop for loop in self.loops if not loop.stores), key=lambda loop: loop.ratio, default=None)


def disassemble(codes: Sequence[bytes], sm: int) -> list[list[Instruction]]:
    """The instructions of several kernels for one architecture, such as 90.

    Raises:
        CompileError: ``nvdisasm`` is not there, or does not know the architecture.
    """
    if not codes:
        return []
    with tempfile.TemporaryDirectory(prefix="convc-") as folder:
        file = Path(folder, "code.bin")
        file.write_bytes(b"".join(codes))
        command = [str(_tool()), "-json", "-ndf", "-b", f"SM{sm}a" if sm >= 90 else f"SM{sm}", str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise errors.not_disassembled(sm, done.stderr)
    (function,) = json.loads(done.stdout)[1]
    found = [
        Instruction(entry["opcode"], entry.get("operands", ""), entry.get("predicate", ""))
        for entry in function["sass-instructions"]
    ]
    return _apart(found, [len(code) // INSTRUCTION_BYTES for code in codes])


def _apart(instructions: list[Instruction], lengths: Iterable[int]) -> list[list[Instruction]]:
    """Each kernel's instructions, addresses of branches counted from its own start."""
    kernels, start = [], 0
    for length in lengths:
        moved = (_moved(found, start * INSTRUCTION_BYTES) for found in instructions[start : start + length])
        kernels.append(list(moved))
        start += length
    return kernels


def _moved(instruction: Instruction, start: int) -> Instruction:
    address = ADDRESS.search(instruction.operands) if instruction.name == "BRA" else None
    if address is None:
        return instruction
    operands = f"{instruction.operands[: address.start()]}0x{int(address[1], 16) - start:x}"
    return Instruction(instruction.opcode, operands, instruction.predicate)


def _tool() -> Path:
    found = importlib.util.find_spec("triton")
    if found is None or found.origin is None:
        raise errors.no_disassembler()
    tool = Path(found.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    if not tool.exists():
        raise errors.no_disassembler()
    return tool


def examine(instructions: Sequence[Instruction]) -> Code:
    """What the code of one kernel is like."""
    names = Counter(found.name for found in instructions)
    widths: dict[str, Counter[int]] = {name: Counter() for name in ACCESSES}
    for found in instructions:
        if found.name in widths and not found.never_runs:
            widths[found.name][found.nbytes] += 1
    return Code(
        instructions=len(instructions),
        tensor_core=sum(found.uses_tensor_cores for found in instructions),
        counts={name: names[name] for name in COUNTED},
        widths={name: dict(sorted(counter.items(), reverse=True)) for name, counter in widths.items()},
        loops=tuple(_loops(instructions)),
    )


def _loops(instructions: Sequence[Instruction]) -> list[Loop]:
    """The innermost loops that use tensor cores: from the target of a branch back to the branch.

    A wait that goes on behind the end of the kernel and branches back from there is no loop of its own.
    """
    spans = []
    for last, found in enumerate(instructions):
        address = ADDRESS.search(found.operands) if found.name == "BRA" else None
        first = int(address[1], 16) // INSTRUCTION_BYTES if address else last
        span = instructions[first : last + 1] if first < last else ()
        if any(inner.uses_tensor_cores for inner in span) and not any(inner.ends for inner in span):
            spans.append((first, last))
    innermost = [span for span in spans if not any(_inside(other, span) for other in spans)]
    return [_loop(instructions[first : last + 1]) for first, last in innermost]


def _inside(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return inner != outer and outer[0] <= inner[0] and inner[1] <= outer[1]


def _loop(instructions: Sequence[Instruction]) -> Loop:
    products = sum(found.uses_tensor_cores for found in instructions)
    stores = any(found.name in STORES for found in instructions)
    return Loop(len(instructions), products, stores, sum(found.columns for found in instructions))
