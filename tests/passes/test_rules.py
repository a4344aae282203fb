"""Each rule alone: what it makes of a network of its own, that the kernels compute the same, and that its page exists.

A rule that joins `RULES` fails here until it has a network in `rule_cases`, a golden and a section.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from compiled import evaluate, run_planned, same
from rule_cases import CASES, rule_case

from convc.ir import Value, print_graph
from convc.ir.problem import Operand
from convc.passes import RULES, Switches
from convc.passes.extensions import extensions
from convc.passes.fusion import _ANCHOR_RULES
from convc.passes.policies import Always
from convc.passes.slices import Stage
from convc.planner import make_plan
from convc.program import Options, Plan, TargetPlan

ROOT = Path(__file__).parents[2]
KERNELS: dict[str, tuple[str, ...]] = {
    "concat-in-place": ("conv_slice",),
    "shuffle-in-writer": ("conv1x1_shuffle",),
    "shuffle-in-reader": ("conv1x1_upsampled",),
    "conv-epilogue": ("conv3x3_bias_residual_relu", "conv_grouped", "depthwise_multiplier"),
    "conv-pool": ("conv_pool_mean", "conv_pool_overlapping"),
    "conv-prologue": ("conv1x1_prologue", "conv7x7_prologue"),
    "depthwise-pointwise": ("depthwise_pointwise",),
    "expand-depthwise": ("expand_depthwise", "inverted_residual"),
    "pool-conv": ("average_pool_conv1x1", "max_pool_conv1x1"),
    "back-to-back": ("conv3x3_conv1x1",),
    "softmax-epilogue": ("gemm_softmax",),
    "matmul-epilogue": ("matmul_batched",),
    "pool-epilogue": ("max_pool", "average_pool_window", "average_pool_valid", "average_pool_padded"),
    "pad-epilogue": ("pad_epilogue",),
    "reduction-epilogue": ("reduce_max", "global_average", "softmax", "lrn"),
    "global-pool-epilogue": ("conv_global_max", "conv_mean", "squeeze_depthwise"),
    "sibling-convolutions": ("group",),
    "last-block": ("group",),
    "elementwise-chain": ("elementwise_chain",),
}
"""Golden kernels, in tests/golden/kernels, of rules that shape a kernel's text: all that fuse but slices, and more."""


def own_rules() -> set[str]:
    return set(RULES) - {extension.rule.name for extension in extensions()}


def alone(name: str, dtype: str, *, on: bool = True) -> Plan:
    """The plan of a rule's network with no other rule than this one, or without any."""
    switches = Switches(only=(name,) if on else ())
    return make_plan(rule_case(name).graph, Options(("interpreter",), dtype, switches=switches, policy=Always()))


# -- texts ------------------------------------------------------------------------------------------------------------
def plan_text(plan: Plan) -> str:
    """The graph divided into kernels, then every launch: its rules, and where what it reads and stores lies."""
    (program,) = plan.programs
    stages = [entry.parts for entry in program.schedule if isinstance(entry, Stage)]
    lines = [print_graph(plan.graph).rstrip(), "", f"arena of {program.arena.nbytes} bytes"]
    lines += [f"a stage in {parts} parts" for parts in stages]
    for number, launch in enumerate(program.launches):
        lines += [f"launch {number}: {', '.join(launch.all_rules) or 'no rule'}"]
        for step in launch.steps:
            problem = step.work.problem
            lines += [f"  {problem.family} {problem.mode}{' by the last block' if step.alone else ''}".rstrip()]
            lines += [f"    {text}" for text in operands(plan, program, problem.reads, "reads")]
            lines += [f"    {text}" for text in operands(plan, program, problem.stores, "stores")]
    return "\n".join(lines) + "\n"


def operands(plan: Plan, program: TargetPlan, found: tuple[Operand, ...], verb: str) -> Iterator[str]:
    for operand in found:
        where = f"{operand.dtype} at strides {operand.strides}"
        if isinstance(operand.source, Value):
            block = plan.layouts.blocks[plan.layouts.placements[operand.source].block]
            start = program.arena.offsets.get(block.id, 0) + operand.offset * operand.dtype.itemsize
            yield f"{verb} {operand.name} in {block.buffer}, byte {start}, {where}"
        else:
            yield f"{verb} {operand.name}, a constant, {where}"


@pytest.mark.parametrize("name", CASES)
def test_plan_of_the_rule_alone(name: str, golden: Callable[[str, str], None]) -> None:
    text = plan_text(alone(name, "fp16"))
    assert text != plan_text(alone(name, "fp16", on=False)), "the rule changes nothing"
    golden(f"rules/{name}.txt", text)


# -- numbers ----------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interpreters")
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_compute_what_they_do_without_the_rule(name: str, dtype: str) -> None:
    b = rule_case(name)
    expected = evaluate(b.graph, b.inputs)
    same(run_planned(alone(name, dtype), b.inputs), expected)
    same(run_planned(alone(name, dtype, on=False), b.inputs), expected)


# -- completeness -----------------------------------------------------------------------------------------------------
def test_every_rule_has_a_network_and_every_kernel_rule_a_golden_kernel() -> None:
    assert set(CASES) == own_rules()
    assert set(KERNELS) >= {name for name in own_rules() if RULES[name].level == "fuse"} - {"l2-slices"}
    texts = {path.stem for path in (ROOT / "tests/golden/kernels").glob("*.py")}
    assert {case for cases in KERNELS.values() for case in cases} <= texts


def test_every_golden_plan_belongs_to_a_rule() -> None:
    assert {path.stem for path in (ROOT / "tests/golden/rules").glob("*.txt")} == own_rules()


def sections() -> dict[str, str]:
    """Rule → its section of the page."""
    page = (ROOT / "docs/fusion-rules.md").read_text(encoding="utf-8")
    parts = re.split(r"^### `([a-z0-9-]+)`\n", page, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (text.partition("\n## ")[0] for text in parts[1::2]), strict=True))


SHARED = {*_ANCHOR_RULES.values(), "elementwise-chain"}
"""Rules whose reasons and savings stand once, above their sections."""


def test_every_rule_has_a_section_with_its_equation_its_reasons_and_its_cost() -> None:
    found = sections()
    assert set(found) == own_rules()
    for name, text in found.items():
        assert f"`{RULES[name].equation}`  ·  from `--opt {RULES[name].level}`" in text, name
        demanded = [] if name in SHARED else ["Declines", "Saves", *(["Costs"] if RULES[name].level == "fuse" else [])]
        assert [word for word in demanded if f"**{word}**" not in text] == [], name
