"""Features are switched by name, apart from rules and levels."""

from __future__ import annotations

from pathlib import Path

import pytest

import convc
from convc.errors import UsageError
from convc.passes import Switches
from convc.passes.features import FEATURES

OFF = sorted(name for name, feature in FEATURES.items() if not feature.default)
ON = sorted(name for name, feature in FEATURES.items() if feature.default)


@pytest.mark.parametrize("opt", ["none", "fold", "fuse"])
def test_defaults_hold_at_every_level_and_whatever_the_only_rules_are(opt: str) -> None:
    for switches in (Switches.parse(opt), Switches.parse(opt, only="conv-epilogue")):
        assert [name for name in sorted(FEATURES) if switches.feature(name)] == ON


@pytest.mark.parametrize("name", OFF)
def test_a_feature_that_is_off_is_enabled_by_name(name: str) -> None:
    assert Switches.parse("fuse", enable=name).feature(name)


@pytest.mark.parametrize("name", ON)
def test_a_feature_that_is_on_is_disabled_by_name(name: str) -> None:
    switches = Switches.parse("fuse", disable=f"conv-pool,{name}")
    assert (
        not switches.feature(name)
        and not switches.on("conv-pool")
        and switches.off == tuple(sorted(["conv-pool", name]))
    )


def test_unknown_and_contradicting_names() -> None:
    with pytest.raises(UsageError, match=r"unknown feature 'conv-pool'; choose from .*descriptors"):
        Switches.parse("fuse", enable="conv-pool")
    with pytest.raises(UsageError, match=r"unknown rule or feature 'tma'; choose from .*conv-pool.*descriptors"):
        Switches.parse("fuse", disable="tma")
    with pytest.raises(UsageError, match="unknown rule 'descriptors'"):
        Switches.parse("fuse", only="descriptors")
    with pytest.raises(UsageError, match="'im2col' is both enabled and disabled"):
        Switches.parse("fuse", disable="im2col", enable="im2col")


def test_a_compiled_network_says_what_was_switched(tmp_path: Path) -> None:
    name = OFF[0]
    network = convc.compile("zoo:lenet5", target="interpreter", enable=[name], disable=[ON[0]])
    network.save(tmp_path / "net.convc")
    manifest = convc.load(tmp_path / "net.convc").artifact.manifest
    assert manifest.enabled == (name,) and manifest.disabled == (ON[0],)


def test_the_page_lists_every_feature() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, feature in convc.FEATURES.items():
        assert f"| `{name}` | {'on' if feature.default else 'off'} | {feature.text} |" in page
