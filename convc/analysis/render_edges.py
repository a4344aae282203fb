"""What `explain`, `verify --per-kernel` and `bisect` say, as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .render import printable, table


def explained(report: dict[str, Any]) -> str:
    """What was not fused and why, then what was fused, what was rewritten before, what lies between zeros, and the
    counts."""
    edges = report["edges"]
    left = [edge for edge in edges if not edge["fused"]]
    head = f"{printable(report['model'])}: {report['dtype']}, {report['target']}, --opt {report['opt']}"
    parts = [head, f"\nNOT FUSED: {len(left)} of {len(edges)} edges", _not_fused(left, report["not_fused"])]
    fused = [edge for edge in edges if edge["fused"]]
    if fused:
        joined = [(edge["kernel"] or "-", edge["source"], edge["target"], edge["rule"]) for edge in fused]
        parts += [f"\nFUSED: {len(fused)} edges", table(("kernel", "from", "to", "rule"), joined)]
    if report["folded"]:
        rows = [(entry["rule"], ", ".join(entry["nodes"])) for entry in report["folded"]]
        parts += [f"\nREWRITTEN BEFORE FUSION: {len(rows)} times", table(("rule", "layers"), rows)]
    if report["zero_borders"]:
        zeros = [(_zeros(entry), entry["tensor"], entry["reason"] or "-") for entry in report["zero_borders"]]
        parts += ["\nZEROS AROUND WHAT PADDED CONVOLUTIONS READ", table(("zeros", "tensor", "why none"), zeros)]
    return "\n".join([*parts, "", _summary(report)])


def _zeros(entry: dict[str, Any]) -> str:
    return "none" if entry["reason"] else f"{entry['lines']} x {entry['columns']}"


def _not_fused(edges: Sequence[dict[str, Any]], reasons: dict[str, int]) -> str:
    """One row an edge; edges of one reason stand together, and the reason is said once."""
    rows: list[tuple[object, ...]] = []
    for reason, count in reasons.items():
        for index, edge in enumerate(edge for edge in edges if edge["reason"] == reason):
            said = (count, reason) if index == 0 else ("", "")
            rows.append((*said, edge["source"], edge["target"], edge["rule"] or "-"))
    return table((">", "why", "from", "to", "nearest rule"), rows)


def _summary(report: dict[str, Any]) -> str:
    def listed(found: dict[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in found.items()) or "none"

    fused, left = report["fused"], report["not_fused"]
    return (
        f"{len(report['edges'])} edges: {sum(fused.values())} fused ({listed(fused)}); "
        f"{sum(left.values())} not, for {len(left)} {'reason' if len(left) == 1 else 'reasons'}"
    )


def compared_kernels(kernels: Sequence[dict[str, Any]]) -> str:
    """One row a launch: its own error and bound, and what has accumulated up to there."""
    rows = [
        (
            kernel["launch"],
            kernel["kernel"],
            _verdict(kernel),
            f"{kernel['max_abs']:.3g}",
            f"{kernel['bound']:.3g}",
            f"{kernel['rel_l2']:.3g}",
            f"{kernel['accumulated_l2']:.3g}",
            ", ".join(kernel["origins"]),
        )
        for kernel in kernels
    ]
    columns = ("launch>", "kernel", "", "own error>", "bound>", "relative L2>", "accumulated>", "layers")
    wrong = sum(not kernel["ok"] for kernel in kernels)
    verdict = "all of them agree" if not wrong else f"{wrong} DEPART"
    return f"{table(columns, rows)}\n{len(kernels)} kernels against float64: {verdict}"


def _verdict(kernel: dict[str, Any]) -> str:
    if kernel["overwrites"]:
        return f"OVERWRITES {', '.join(kernel['overwrites'])}"
    return "ok" if kernel["ok"] else "DEPARTS"


def bisected(report: dict[str, Any]) -> str:
    """The first kernel that departs, or that none does."""
    where = f"{report['device']}, {report['dtype']}"
    first = report["first"]
    if first is None:
        return f"{where}: all {report['launches']} launches agree with float64"
    lines = [
        f"{where}: launch {first['launch']} of {report['launches']} is the first to depart; those before it agree",
        f"kernel    {first['kernel']}",
        f"layers    {printable(', '.join(first['origins']))}",
        f"rules     {', '.join(first['rules']) or 'none'}",
        f"error     {first['max_abs']:.3g}, where {first['bound']:.3g} is the bound of its own rounding",
    ]
    if first["overwrites"]:
        lines.append(f"destroys  {printable(', '.join(first['overwrites']))}, which a later launch still reads")
    return "\n".join([*lines, f"see       convc kernels MODEL --name {first['kernel']}"])
