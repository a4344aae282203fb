"""What a lint says: a table of kernels for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from .lint import Report
from .lint_checks import Finding, Subject, quotient
from .render import printable, table

COLUMNS = (
    "kernel",
    "target",
    "regs>",
    "spill>",
    "shared>",
    "form",
    "tile",
    "per product>",
    "TMA>",
    "async>",
    "loads",
    "stores",
)


def text(report: Report) -> str:
    """One row a kernel and target, then one paragraph a finding, then the verdict."""
    parts = [table(COLUMNS, map(_row, report.subjects)), *map(_finding, report.findings), _verdict(report)]
    return "\n".join(parts)


def _row(subject: Subject) -> tuple[object, ...]:
    loop, code, binary = subject.code.main_loop, subject.code, subject.binary
    return (
        subject.spec.name,
        subject.target.name,
        binary.registers,
        binary.spill_bytes,
        binary.shared_bytes + subject.cubin.static_shared_bytes,
        subject.form,
        subject.tile,
        f"{quotient(loop)}={loop.ratio:.1f}" if loop else "-",
        code.counts["UTMALDG"],
        code.counts["LDGSTS"],
        _widths(code.widths["LDG"]),
        _widths(code.widths["STG"]),
    )


def _widths(widths: Mapping[int, int]) -> str:
    """Such as ``16:4 2:1``: four accesses of 16 bytes and one of 2."""
    return " ".join(f"{width}:{count}" for width, count in widths.items()) or "-"


def _finding(finding: Finding) -> str:
    layers = ", ".join(finding.origins)
    return printable(
        f"{finding.check}: {finding.kernel} for {finding.target} ({layers}): {finding.found}; "
        f"expected {finding.limit}; try {finding.remedy}"
    )


def _verdict(report: Report) -> str:
    kernels = f"{len(report.subjects)} compiled kernel{'s' if len(report.subjects) > 1 else ''}"
    if not report.findings:
        return f"{kernels}: every check holds"
    return f"{kernels}: {len(report.findings)} finding{'s' if len(report.findings) > 1 else ''}"
