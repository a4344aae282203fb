"""Candidates of a problem, and which of them follows where compiled code needs more than there is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from compiled import Builder, conv, planned

from convc.codegen.worker import Compiled
from convc.compiler import shortage
from convc.ir.plan import Tile
from convc.passes.launches import Launch
from convc.passes.retile import Shortage, with_smaller_tiles
from convc.passes.tiling import ranked
from convc.program import TargetPlan
from convc.targets import TARGETS, target

MACHINE = target("sm_89")
SUITABLE = Compiled(b"", 128, MACHINE.shared_bytes, 255, 0, 0, 0, 1)


def program(name: str, channels: int = 16, window: int = 3) -> TargetPlan:
    """A convolution in a launch of its own, the last one, and the kernels of what it reads and of another reader."""
    b = Builder()
    image = b.input(np.zeros((8, channels, 28, 28), np.float32))
    x = conv(b, image, np.zeros((channels, channels, 1, 1), np.float32))
    b.output(b.add("Abs", x))
    weights = np.zeros((256, channels, window, window), np.float32)
    b.output(conv(b, x, weights, pads=(window // 2,) * 4))
    return planned(b.graph, name, dtype="fp16").programs[0]


def followed(program: TargetPlan, lacking: Shortage) -> tuple[Tile, Tile]:
    """The tile of the convolution, and the one after code turned out to be short of something."""
    before = program.schedule[-1]
    assert isinstance(before, Launch)
    changed = with_smaller_tiles(program.schedule, {before.steps[0].work.region.id: lacking}, program.target)
    assert changed[:-1] == list(program.schedule[:-1])
    after = changed[-1]
    assert isinstance(after, Launch)
    return before.steps[0].tile, after.steps[0].tile


def sums(tile: Tile) -> int:
    return tile.rows * tile.cols // tile.num_warps


def addresses(tile: Tile) -> int:
    return tile.rows * tile.depth // tile.num_warps


@pytest.mark.parametrize("name", ["sm_80", "sm_90"])
def test_short_of_shared_memory_less_is_loaded_ahead(name: str) -> None:
    before, after = followed(program(name), Shortage.SHARED_MEMORY)
    assert after.num_stages < before.num_stages
    assert sums(after) == sums(before), "sums lie in registers, of which there are enough"
    assert after.reason.endswith("needs more shared memory than there is")


@pytest.mark.parametrize("name", ["sm_80", "sm_90"])
def test_short_of_registers_fewer_sums_and_addresses_are_held(name: str) -> None:
    before, after = followed(program(name), Shortage.REGISTERS)
    assert sums(after) + addresses(after) < sums(before) + addresses(before)
    assert after.reason.endswith("needs more registers than there is")


def changed(**values: Any) -> Compiled:
    return msgspec.structs.replace(SUITABLE, **values)


def test_what_a_kernel_is_short_of() -> None:
    assert shortage(SUITABLE, MACHINE) is None
    assert shortage(changed(shared_bytes=MACHINE.shared_bytes + 1), MACHINE) is Shortage.SHARED_MEMORY
    assert shortage(changed(shared_bytes=MACHINE.shared_bytes + 1, spill_bytes=8), MACHINE) is Shortage.SHARED_MEMORY
    assert shortage(changed(spill_bytes=8), MACHINE) is Shortage.REGISTERS
    assert shortage(changed(warnings=("C7510",)), MACHINE) is Shortage.REGISTERS


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_candidate_comes_twice(name: str) -> None:
    """A loop of two steps: deep and shallow pipelines are one."""
    for problem in program(name, channels=128, window=1).problems:
        found = [replace(tile, reason="") for tile in ranked(problem, target(name))]
        assert len(found) == len(set(found))
