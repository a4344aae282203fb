"""Policies by name: what `--policy` takes. Installed packages supply more as entry points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from .. import errors
from ..ir import Graph
from .choice import Choice, CostModel, Policy
from .extensions import entry_points

GROUP = "convc.policies"
"""The entry points of installed packages that supply policies; each names a policy, or a class of them."""


@dataclass(frozen=True)
class Always:
    """Takes every legal fusion, whatever it costs."""

    name: ClassVar[str] = "always"

    def refusal(self, choice: Choice, graph: Graph) -> str | None:
        return None


@dataclass(frozen=True)
class Never:
    """Declines every fusion that is offered as a choice; operators that cost nothing to take are fused all the same."""

    name: ClassVar[str] = "never"

    def refusal(self, choice: Choice, graph: Graph) -> str | None:
        return "the policy declines all choices"


POLICIES: Mapping[str, Callable[[tuple[str, ...]], Policy]] = {
    CostModel.name: CostModel,
    Always.name: lambda _: Always(),
    Never.name: lambda _: Never(),
}
"""The policies of convc: target names → policy."""


def policy_of(given: Policy | str, targets: tuple[str, ...]) -> Policy:
    """The policy of a name, for the targets of a plan, or the one that was given.

    Raises:
        UsageError: an unknown name, or an object that is no policy.
    """
    if not isinstance(given, str):
        return _checked(given)
    if given in POLICIES:
        return POLICIES[given](targets)
    supplied = dict(entry_points(GROUP))
    if given not in supplied:
        raise errors.one_of(given, [*POLICIES, *supplied], "policy")
    found = supplied[given]
    return _checked(found() if isinstance(found, type) else found)


def _checked(policy: Policy) -> Policy:
    if isinstance(policy, type) or not callable(getattr(policy, "refusal", None)):
        raise errors.not_a_policy(policy)
    if not isinstance(getattr(policy, "name", None), str):
        raise errors.not_a_policy(policy)
    return policy
