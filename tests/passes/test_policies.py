"""Policies by name and by object: what they decide, where they are recorded, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

import convc
from convc.ir import Graph
from convc.passes import extensions
from convc.passes.policies import POLICIES, policy_of

NETWORK = "mobilenet_v2"


class Asked:
    """Declines everything and keeps what it was asked."""

    name = "asked"

    def __init__(self) -> None:
        self.choices: list[convc.Choice] = []

    def refusal(self, choice: convc.Choice, graph: Graph) -> str | None:
        self.choices.append(choice)
        return "it only asks"


def launches(policy: object, **options: object) -> int:
    (program,) = convc.plan(f"zoo:{NETWORK}", policy=policy, **options).programs
    return len(program.launches)


def supply(monkeypatch: pytest.MonkeyPatch, group: str, **found: object) -> None:
    """Entry points of an installed package."""

    class Point(EntryPoint):
        def load(self) -> object:
            value = found[self.name]
            if isinstance(value, Exception):
                raise value
            return value

    points = [Point(name, "package:object", group) for name in found]
    monkeypatch.setattr(
        extensions.importlib.metadata, "entry_points", lambda group: [p for p in points if p.group == group]
    )


def test_built_in_policies_take_nothing_something_or_everything() -> None:
    never, model, always = (launches(name) for name in ("never", "cost-model", "always"))
    assert launches("cost-model") == launches(convc.CostModel(("sm_90",))) == model
    assert always <= model < never
    assert tuple(POLICIES) == ("cost-model", "always", "never")
    assert all(policy_of(name, ("sm_90",)).name == name for name in POLICIES)


def test_a_policy_of_one_s_own_is_asked_about_choices_and_its_reason_is_kept() -> None:
    policy = Asked()
    plan = convc.plan(f"zoo:{NETWORK}", policy=policy)
    assert policy.choices and all(choice.saved_launches >= 0 for choice in policy.choices)
    declines = [*plan.fused.declines, *plan.programs[0].declines]
    assert {d.rule for d in declines if d.reason == "it only asks"} == {choice.rule for choice in policy.choices}
    assert len(plan.programs[0].launches) == launches("never")


def test_the_artifact_records_the_policy() -> None:
    def recorded(policy: object) -> str:
        network = convc.compile("zoo:lenet5", target="interpreter", policy=policy)
        return network.artifact.manifest.policy

    assert [recorded(policy) for policy in ("cost-model", "never", Asked())] == ["cost-model", "never", "asked"]


def test_the_artifact_records_what_only_switches_off() -> None:
    network = convc.compile("zoo:lenet5", target="interpreter", only="conv-epilogue")
    assert set(network.artifact.manifest.disabled) == set(convc.RULES) - {"conv-epilogue"}


@pytest.mark.parametrize("made", [lambda: Asked, lambda: Asked()], ids=["class", "object"])
def test_an_installed_package_supplies_a_policy(monkeypatch: pytest.MonkeyPatch, made: Callable[[], object]) -> None:
    supply(monkeypatch, "convc.policies", cautious=made())
    assert launches("cautious") == launches("never")
    assert convc.plan("zoo:lenet5", policy="cautious").options.policy_name == "cautious"


def test_what_is_no_policy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    supply(monkeypatch, "convc.policies", broken=ImportError("no module"), number=7)
    for given, message in (
        ("greedy", "unknown policy 'greedy'; choose from cost-model, always, never, broken, number"),
        (7, "an object with a name and a method refusal"),
        (Asked, "an object with a name and a method refusal"),
        ("number", "an object with a name and a method refusal"),
    ):
        if given == "greedy":
            supply(monkeypatch, "convc.policies")
            message = "unknown policy 'greedy'; choose from cost-model, always, never"
        else:
            supply(monkeypatch, "convc.policies", number=7)
        with pytest.raises(convc.UsageError, match=message):
            convc.plan("zoo:lenet5", policy=given)
    supply(monkeypatch, "convc.policies", broken=ImportError("no module"))
    with pytest.raises(convc.UsageError, match=r"entry point 'broken' of the group 'convc.policies'.*no module"):
        convc.plan("zoo:lenet5", policy="broken")
