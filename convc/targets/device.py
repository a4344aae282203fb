"""What a GPU is, as one table. Figures are of the vendor's data sheets unless a comment says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from .. import errors


@dataclass(frozen=True)
class Target:
    """A kind of GPU that kernels are compiled for.

    capability: compute capability × 10. sms: multiprocessors. shared_bytes: dynamic shared memory that one
    block may take. l2_bytes: L2 cache. dram_bytes_per_s, l2_bytes_per_s: bandwidth. tensor_flops: fp16
    multiply-adds × 2 per second on tensor cores with fp32 accumulation. fp32_flops: the same on ordinary units.
    launch_s: time between two kernels of a graph. step_s: latency of one pipelined step of a main loop.
    descriptors, im2col, programmatic: whether kernels are to use tensor maps, those that walk over windows, and starts
    before a predecessor has ended, where the machine has them (``has_…``).
    """

    name: str
    capability: int
    device: str
    sms: int
    shared_bytes: int
    l2_bytes: int
    dram_bytes_per_s: float
    l2_bytes_per_s: float
    tensor_flops: float
    fp32_flops: float
    instruction: str
    launch_s: float = 1.3e-6
    step_s: float = 0.45e-6
    max_warps: int = 8
    descriptors: bool = True
    im2col: bool = False
    programmatic: bool = False

    @property
    def is_interpreter(self) -> bool:
        return self.capability == 0

    @property
    def instructions_per_s(self) -> float:
        """Instructions of whole warps that all multiprocessors issue: a multiply-add on each of 32 lanes is one."""
        return self.fp32_flops / 64

    @property
    def has_im2col(self) -> bool:
        """Whether kernels in Gluon may have tensor maps that walk over windows: where there is `wgmma`."""
        return self.im2col and self.instruction == "wgmma"

    @property
    def has_descriptors(self) -> bool:
        """Whether kernels may read matrices through tensor maps; the interpreter reads them as a GPU would."""
        return self.descriptors and (self.capability >= 90 or self.is_interpreter)

    @property
    def has_programmatic_launch(self) -> bool:
        """Whether a kernel may start before its predecessor has ended; in the interpreter it never does."""
        return self.programmatic and (self.capability >= 90 or self.is_interpreter)


_KIB = 1024
TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", 80, "A100", 108, 163 * _KIB, 40 << 20, 1.555e12, 5.0e12, 312e12, 19.5e12, "mma"),
        Target("sm_86", 86, "RTX 3090", 82, 99 * _KIB, 6 << 20, 0.936e12, 2.5e12, 71e12, 35.6e12, "mma"),
        Target("sm_89", 89, "RTX 4090", 128, 99 * _KIB, 72 << 20, 1.008e12, 5.0e12, 165e12, 82.6e12, "mma"),
        # H200: bandwidth and matrix rate as measured (performance records of this project), not the data sheet's.
        Target("sm_90", 90, "H200", 132, 227 * _KIB, 60 << 20, 4.3e12, 7.0e12, 790e12, 67e12, "wgmma"),
        Target("sm_100", 100, "B200", 148, 227 * _KIB, 126 << 20, 8.0e12, 10.0e12, 2250e12, 80e12, "tcgen05"),
        Target("sm_120", 120, "RTX 5090", 170, 99 * _KIB, 96 << 20, 1.792e12, 6.0e12, 210e12, 105e12, "mma"),
        # Triton's interpreter: one program at a time in NumPy. Its costs are in `convc.targets.cost`.
        Target("interpreter", 0, "Triton's interpreter", 1, 1 << 40, 1 << 40, 1e9, 1e9, 1e10, 1e10, "numpy"),
    )
}


GPUS = tuple(target for target in TARGETS.values() if not target.is_interpreter)
"""The targets that are GPUs."""


def target(name: str) -> Target:
    """The target of that name. Raises ``UsageError`` where there is none."""
    if name not in TARGETS:
        raise errors.one_of(name, TARGETS, "target")
    return TARGETS[name]


def of_capability(major: int, minor: int) -> Target | None:
    """The target that kernels for this compute capability are compiled for, if there is one."""
    return TARGETS.get(f"sm_{major}{minor}")
