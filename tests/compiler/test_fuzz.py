"""A hundred of the networks of `make fuzz`: any rules, policy and numeric mode compute the same numbers, exactly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from fuzz import Case, cases, check
from hypothesis import given, seed, settings
from random_cnns import BLOCKS, RandomCnn

import convc

pytestmark = pytest.mark.usefixtures("interpreters")
PARTS = 4
"""Tests that the networks are divided among, so that several processes share them."""


@pytest.mark.parametrize("part", range(PARTS))
def test_any_rules_compute_what_the_operators_define(part: int) -> None:
    @seed(part)
    @settings(settings.get_profile("shared-process"), max_examples=100 // PARTS)
    @given(cases())
    def run_all(case: Case) -> None:
        check(case)

    run_all()


@pytest.mark.parametrize(
    "line",
    [
        "conv_pool/1 fp32 cost-model",  # overlapping pooling of a batch whose tiles are side by side only
        "any,conv,conv/6 fp32 cost-model",  # siblings that no number of warps suits
        "pool_conv,separable,any/0 fp32 cost-model",  # an anchor with a prologue that another kernel took
        "separable,conv_pool/65536 fp32 always",  # overlapping pooling of one image of a batch
        # overlapping pooling of one image of a batch in a single tile
        "bytes,bytes,conv_pool/821 fp32 always disable=concat-in-place,depthwise-pointwise,last-block",
        "dense,any,residual/314 fp32 cost-model",  # two convolutions for which there is no common tile
    ],
)
def test_what_failed_once(line: str) -> None:
    check(Case.parse(line))


def test_a_case_is_repeated_by_its_line() -> None:
    for case in (
        Case(("conv", "head"), 17, "fp16", "always"),
        Case(("dense",), 0, "bf16", "never", ("conv-pool", "last-block")),
        Case(("any",), 3, "fp32", "cost-model", (), only=True),
    ):
        assert Case.parse(str(case)) == case


def test_the_networks_have_what_rules_look_for() -> None:
    """Every fusion takes place in some of the networks, most of them in many."""
    random = np.random.default_rng(0)
    taken: Counter[str] = Counter()
    for number in range(80):
        network = RandomCnn(number, [str(block) for block in random.choice(BLOCKS, 4)])
        plan = convc.plan(network.graph, target="interpreter", dtype="fp32", policy="always")
        taken.update({rule for launch in plan.programs[0].launches for rule in launch.all_rules})
    rare = {"matmul-epilogue", "l2-slices", "softmax-epilogue"}  # softmax is not exact
    missing = [rule.name for rule in convc.RULES.values() if rule.level == "fuse" and not taken[rule.name]]
    assert set(missing) <= rare
